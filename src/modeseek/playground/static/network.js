/* The learned denoiser: an energy network (the package's priors/energy.py) with a backward pass written by hand.
 *
 *   x_hat = x / sqrt(d^2 + sigma^2),  h_0 = W_0 [x_hat, ln(sigma)/4, 1],  h_i = W_i a(h_{i-1}),  a(u) = silu(u) / 0.596
 *   log p = mean(h_L^2) gain / sigma - |x_hat|^2 / 2,  D = x + sigma^2 grad_x log p
 *
 * Rows of W have unit norm. Four points are carried through the layers together, so that each weight is read once for four products. */
"use strict";

function networkPart(ms) {
  const LANES = 4;

  ms.EnergyNet = class EnergyNet {
    /** values: all weights, row by row, layer after layer, as stored; they are normalised here in double precision. */
    constructor({ hidden, layers, dataStd, gain, values }) {
      Object.assign(this, { hidden, layers, dataStd, gain });
      this.weights = [];
      let from = 0;
      for (let layer = 0; layer <= layers; layer++) {
        const width = layer === 0 ? 4 : hidden;
        const weight = Float64Array.from(values.subarray(from, from + hidden * width));
        from += hidden * width;
        for (let row = 0; row < hidden; row++) {
          let square = 0;
          for (let i = 0; i < width; i++) square += weight[row * width + i] ** 2;
          const scale = 1 / Math.max(Math.sqrt(square), 1e-12);
          for (let i = 0; i < width; i++) weight[row * width + i] *= scale;
        }
        this.weights.push(weight);
      }
      this.transposed = this.weights.map((weight, layer) => {
        const width = layer === 0 ? 4 : hidden;
        const turned = new Float64Array(weight.length);
        for (let row = 0; row < hidden; row++) for (let i = 0; i < width; i++) turned[i * hidden + row] = weight[row * width + i];
        return turned;
      });
      const block = () => new Float64Array(LANES * hidden);
      this.slopes = this.weights.map(block);
      this.one = block();
      this.two = block();
    }

    /** out (rows x LANES) = weight (rows x width) times input (width x LANES). */
    _times(weight, rows, width, input, out) {
      for (let row = 0; row < rows; row++) {
        let a = 0, b = 0, c = 0, d = 0;
        const base = row * width;
        for (let i = 0; i < width; i++) {
          const w = weight[base + i], j = 4 * i;
          a += w * input[j];
          b += w * input[j + 1];
          c += w * input[j + 2];
          d += w * input[j + 3];
        }
        const j = 4 * row;
        out[j] = a;
        out[j + 1] = b;
        out[j + 2] = c;
        out[j + 3] = d;
      }
    }

    /** The denoiser of n points (2n numbers); sigma is a number or one per point. */
    denoise(x, sigma, out) {
      const { hidden, layers, weights, transposed, slopes, gain } = this;
      const n = x.length / 2, size = LANES * hidden;
      const each = typeof sigma !== "number";
      for (let start = 0; start < n; start += LANES) {
        let h = this.one, next = this.two;
        for (let lane = 0; lane < LANES; lane++) {
          const i = Math.min(start + lane, n - 1);
          const s = each ? sigma[i] : sigma;
          const scale = 1 / Math.sqrt(this.dataStd ** 2 + s * s);
          h[lane] = x[2 * i] * scale;
          h[LANES + lane] = x[2 * i + 1] * scale;
          h[2 * LANES + lane] = Math.log(s) / 4;
          h[3 * LANES + lane] = 1;
        }
        this._times(weights[0], hidden, 4, h, next);
        [h, next] = [next, h];
        for (let layer = 1; layer <= layers; layer++) {
          const slope = slopes[layer];
          for (let j = 0; j < size; j++) {
            const u = h[j], share = 1 / (1 + Math.exp(-u));
            h[j] = (u * share) / 0.596;
            slope[j] = (share * (1 + u * (1 - share))) / 0.596;
          }
          this._times(weights[layer], hidden, hidden, h, next);
          [h, next] = [next, h];
        }
        for (let lane = 0; lane < LANES; lane++) {
          const s = each ? sigma[Math.min(start + lane, n - 1)] : sigma;
          const factor = (2 * gain) / (s * hidden);
          for (let j = lane; j < size; j += LANES) h[j] *= factor;
        }
        for (let layer = layers; layer >= 1; layer--) {
          this._times(transposed[layer], hidden, hidden, h, next);
          [h, next] = [next, h];
          const slope = slopes[layer];
          for (let j = 0; j < size; j++) h[j] *= slope[j];
        }
        this._times(transposed[0], 2, hidden, h, next);
        for (let lane = 0; lane < Math.min(LANES, n - start); lane++) {
          const i = start + lane;
          const s = each ? sigma[i] : sigma;
          const total = this.dataStd ** 2 + s * s, scale = 1 / Math.sqrt(total);
          out[2 * i] = x[2 * i] + s * s * (next[lane] * scale - x[2 * i] / total);
          out[2 * i + 1] = x[2 * i + 1] + s * s * (next[LANES + lane] * scale - x[2 * i + 1] / total);
        }
      }
      return out;
    }
  };

  /** Guidance, D_u + s (D_c - D_u) at every level: two calls. A scale of 1 is no guidance. */
  ms.Guided = class Guided {
    constructor(strong, weak, scale) {
      Object.assign(this, { strong, weak, scale });
    }

    denoise(x, sigma, out) {
      this.strong.denoise(x, sigma, out);
      if (this.scale === 1) return out;
      const weak = this.weak.denoise(x, sigma, new Float64Array(x.length));
      for (let i = 0; i < x.length; i++) out[i] = weak[i] + this.scale * (out[i] - weak[i]);
      return out;
    }
  };

  /** A denoiser that counts how many points it was evaluated at. */
  ms.Counted = class Counted {
    constructor(denoiser) {
      this.denoiser = denoiser;
      this.items = 0;
    }

    denoise(x, sigma, out) {
      this.items += x.length / 2;
      return this.denoiser.denoise(x, sigma, out);
    }
  };
}
