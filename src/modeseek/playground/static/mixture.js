/* Gaussian mixtures in the plane: densities, products with a kernel, samples and moments (the package's densities/mixture.py). */
"use strict";

function mixturePart(ms) {
  const ROW = 7;

  ms.Mixture = class Mixture extends ms.MixtureScore {
    /** log p_sigma of n points. */
    logProb(x, sigma = 0) {
      const n = x.length / 2;
      const out = new Float64Array(n), unused = new Float64Array(2);
      for (let i = 0; i < n; i++) out[i] = this.point(x[2 * i], x[2 * i + 1], sigma, unused, 0);
      return out;
    }

    /** The product density q(y) ~ p(y) N(y; c, l^2 I) as a mixture again; components below exp(-60) of the heaviest are left out. */
    product(cx, cy, l) {
      const { rows, count } = this;
      const logs = new Float64Array(count);
      let top = -Infinity;
      for (let k = 0; k < count; k++) {
        const r = k * ROW;
        const [u, v] = this._local(r, cx, cy);
        const t1 = rows[r + 5] + l * l, t2 = rows[r + 6] + l * l;
        logs[k] = this.logWeights[k] - 0.5 * ((u * u) / t1 + (v * v) / t2 + Math.log(t1 * t2));
        top = Math.max(top, logs[k]);
      }
      const kept = [];
      for (let k = 0; k < count; k++) {
        if (logs[k] < top - 60) continue;
        const r = k * ROW;
        const [u, v] = this._local(r, cx, cy);
        const ax = rows[r + 3], ay = rows[r + 4];
        const g1 = rows[r + 5] / (rows[r + 5] + l * l), g2 = rows[r + 6] / (rows[r + 6] + l * l);
        const mx = rows[r + 1] + ax * g1 * u - ay * g2 * v, my = rows[r + 2] + ay * g1 * u + ax * g2 * v;
        kept.push(Math.exp(logs[k] - top), mx, my, ax, ay, g1 * l * l, g2 * l * l);
      }
      return new Mixture(Float64Array.from(kept));
    }

    _local(r, cx, cy) {
      const { rows } = this;
      const dx = cx - rows[r + 1], dy = cy - rows[r + 2];
      return [dx * rows[r + 3] + dy * rows[r + 4], dy * rows[r + 3] - dx * rows[r + 4]];
    }

    /** `n` draws of p. */
    sample(n, random) {
      const { rows, count } = this;
      const sums = new Float64Array(count);
      let sum = 0;
      for (let k = 0; k < count; k++) sums[k] = sum += rows[k * ROW];
      const out = new Float64Array(2 * n), noise = random.normals(2 * n);
      for (let i = 0; i < n; i++) {
        const u = random.uniform() * sum;
        let low = 0, high = count - 1;
        while (low < high) {
          const middle = (low + high) >> 1;
          if (sums[middle] > u) high = middle;
          else low = middle + 1;
        }
        const r = low * ROW;
        const a = noise[2 * i] * Math.sqrt(rows[r + 5]), b = noise[2 * i + 1] * Math.sqrt(rows[r + 6]);
        out[2 * i] = rows[r + 1] + rows[r + 3] * a - rows[r + 4] * b;
        out[2 * i + 1] = rows[r + 2] + rows[r + 4] * a + rows[r + 3] * b;
      }
      return out;
    }

    /** Mean and standard deviation (of a coordinate, pooled) of the whole mixture. */
    moments() {
      const { rows, count } = this;
      let mx = 0, my = 0, square = 0;
      for (let r = 0; r < count * ROW; r += ROW) {
        mx += rows[r] * rows[r + 1];
        my += rows[r] * rows[r + 2];
      }
      for (let r = 0; r < count * ROW; r += ROW) {
        square += rows[r] * ((rows[r + 1] - mx) ** 2 + (rows[r + 2] - my) ** 2 + rows[r + 5] + rows[r + 6]);
      }
      return { mean: [mx, my], std: Math.sqrt(square / 2) };
    }

    /** Largest log p, by mean shift from the component means with the highest density (or all, if there are few). */
    highest() {
      const { rows, count } = this;
      const scratch = new Float64Array(2);
      const starts = Array.from({ length: count }, (_, k) => [rows[k * ROW + 1], rows[k * ROW + 2]]);
      const ranked = starts.map((p) => [this.point(p[0], p[1], 0, scratch, 0), p]).sort((a, b) => b[0] - a[0]);
      let best = -Infinity;
      for (const [, [sx, sy]] of ranked.slice(0, 32)) {
        let x = sx, y = sy, step = 1e-5;
        let value = this.point(x, y, 0, scratch, 0);
        for (let i = 0; i < 200 && step > 1e-14; i++) {
          const nx = x + step * scratch[0], ny = y + step * scratch[1];
          const next = this.point(nx, ny, 0, scratch, 0);
          if (next > value) {
            [x, y, value, step] = [nx, ny, next, step * 1.5];
          } else {
            step *= 0.3;
            this.point(x, y, 0, scratch, 0);
          }
        }
        best = Math.max(best, value);
      }
      return best;
    }
  };
}
