/* Samplers of any denoiser, the product density's denoisers and the samplers of the product (the package's core/sampling.py and product/).
 *
 * Points are Float64Arrays of 2n numbers; a level or a bandwidth is a number, or a Float64Array of one per point. A sampler of the product is
 * a function (denoiser, centre, bandwidth, noise) -> y; all randomness is in noise.normals(count). */
"use strict";

function samplersPart(ms) {
  const at = (value, i) => (typeof value === "number" ? value : value[i]);
  ms.at = at;

  /** Karras et al. 2022, Eq. 5, with rho = 7: steps + 1 levels, the last 0. */
  ms.karras = (steps, low = 0.002, high = 5) => {
    const [a, b] = [high ** (1 / 7), low ** (1 / 7)];
    const levels = Array.from({ length: steps }, (_, i) => (a + (steps === 1 ? 0 : i / (steps - 1)) * (b - a)) ** 7);
    return [...levels, 0];
  };

  /** Karras' levels from spread l to min(0.1 l, low), then 0; one array per point if l has one value per point. */
  ms.levelsNear = (l, steps, { low = 0.002, spread = 10 } = {}) => {
    if (typeof l === "number") return ms.karras(steps, Math.min(0.1 * l, low), spread * l);
    const levels = Array.from({ length: steps + 1 }, () => new Float64Array(l.length));
    const known = new Map();
    for (let i = 0; i < l.length; i++) {
      let own = known.get(l[i]);
      if (own === undefined) known.set(l[i], (own = ms.levelsNear(l[i], steps, { low, spread })));
      for (let j = 0; j <= steps; j++) levels[j][i] = own[j];
    }
    return levels;
  };

  const scalars = (levels) => typeof levels[0] === "number";

  /** DDIM: Euler in sigma. */
  ms.ddim = (denoiser, start, levels) => {
    const x = Float64Array.from(start), d = new Float64Array(x.length);
    for (let j = 0; j + 1 < levels.length; j++) {
      denoiser.denoise(x, levels[j], d);
      for (let i = 0; i < x.length; i++) {
        const s = at(levels[j], i >> 1), next = at(levels[j + 1], i >> 1);
        x[i] += (next - s) * ((x[i] - d[i]) / s);
      }
    }
    return x;
  };

  /** Heun's method (Karras et al. 2022, Algorithm 1); a last step to 0 is an Euler step. */
  ms.heun = (denoiser, start, levels) => {
    const x = Float64Array.from(start), size = x.length;
    const d = new Float64Array(size), slope = new Float64Array(size), moved = new Float64Array(size);
    for (let j = 0; j + 1 < levels.length; j++) {
      denoiser.denoise(x, levels[j], d);
      for (let i = 0; i < size; i++) {
        const s = at(levels[j], i >> 1);
        slope[i] = (x[i] - d[i]) / s;
        moved[i] = x[i] + (at(levels[j + 1], i >> 1) - s) * slope[i];
      }
      if (scalars(levels) ? levels[j + 1] > 0 : levels[j + 1].every((s) => s > 0)) {
        denoiser.denoise(moved, levels[j + 1], d);
        for (let i = 0; i < size; i++) {
          const s = at(levels[j], i >> 1), next = at(levels[j + 1], i >> 1);
          x[i] += (next - s) * 0.5 * (slope[i] + (moved[i] - d[i]) / next);
        }
      } else {
        x.set(moved);
      }
    }
    return x;
  };

  // ---------------------------------------------------------------- denoisers of the product p(y) N(y; c, l^2)
  /** D_q(z; sigma) = D_p(c'; s), 1/s^2 = 1/sigma^2 + 1/l^2, c' = s^2 (z/sigma^2 + c/l^2). */
  ms.ExactProduct = class ExactProduct {
    constructor(denoiser, centre, bandwidth) {
      Object.assign(this, { denoiser, centre, bandwidth });
      this.moved = new Float64Array(centre.length);
    }

    denoise(z, sigma, out) {
      const { centre, bandwidth, moved } = this;
      const one = typeof sigma === "number" && typeof bandwidth === "number";
      const variances = one ? null : new Float64Array(z.length / 2);
      for (let i = 0; i < z.length; i++) {
        const s = at(sigma, i >> 1), l = at(bandwidth, i >> 1);
        const variance = 1 / (1 / (s * s) + 1 / (l * l));
        moved[i] = z[i] + (variance / (l * l)) * (centre[i] - z[i]);
        if (!one) variances[i >> 1] = Math.sqrt(variance);
      }
      const level = one ? Math.sqrt(1 / (1 / (sigma * sigma) + 1 / (bandwidth * bandwidth))) : variances;
      return this.denoiser.denoise(moved, level, out);
    }
  };

  /** D_q ~ D + (c - D) r^2 / (r^2 + l^2), r^2 = sigma^2 d^2 / (sigma^2 + d^2). */
  ms.ProximalProduct = class ProximalProduct {
    constructor(denoiser, centre, bandwidth, dataStd) {
      Object.assign(this, { denoiser, centre, bandwidth, dataStd });
    }

    denoise(z, sigma, out) {
      this.denoiser.denoise(z, sigma, out);
      for (let i = 0; i < z.length; i++) {
        const s = at(sigma, i >> 1), l = at(this.bandwidth, i >> 1);
        const posterior = 1 / (1 / (s * s) + 1 / (this.dataStd * this.dataStd));
        out[i] += (posterior / (posterior + l * l)) * (this.centre[i] - out[i]);
      }
      return out;
    }
  };

  // ---------------------------------------------------------------- samplers of the product
  const noised = (centre, level, noise) => {
    const normal = noise.normals(centre.length);
    return Float64Array.from(centre, (value, i) => value + at(level, i >> 1) * normal[i]);
  };

  /** Eqs. 14-15 as published: a DDIM step, then decay towards x by exp(dsigma / l^2). */
  ms.SplitSampler = ({ steps }) => (denoiser, centre, bandwidth, noise) => {
    const levels = ms.karras(steps), z = noised(new Float64Array(centre.length), levels[0], noise);
    const d = new Float64Array(z.length);
    for (let j = 0; j < steps; j++) {
      denoiser.denoise(z, levels[j], d);
      const change = levels[j + 1] - levels[j];
      for (let i = 0; i < z.length; i++) {
        const l = at(bandwidth, i >> 1);
        const stepped = z[i] + change * ((z[i] - d[i]) / levels[j]);
        z[i] = centre[i] + (stepped - centre[i]) * Math.exp(change / (l * l));
      }
    }
    return z;
  };

  /** Heun's method on the exact product, from D(x; l) + 10 l n: 2 steps - 2 evaluations. */
  ms.ExactSampler = ({ steps }) => (denoiser, centre, bandwidth, noise) => {
    const levels = ms.levelsNear(bandwidth, steps - 1);
    const start = noised(denoiser.denoise(centre, bandwidth, new Float64Array(centre.length)), levels[0], noise);
    return ms.heun(new ms.ExactProduct(denoiser, centre, bandwidth), start, levels);
  };

  /** DDIM on the proximal product, from x + 5 n. */
  ms.ProximalSampler = ({ steps, dataStd = 0.5 }) => (denoiser, centre, bandwidth, noise) => {
    const levels = ms.karras(steps);
    return ms.ddim(new ms.ProximalProduct(denoiser, centre, bandwidth, dataStd), noised(centre, levels[0], noise), levels);
  };

  /** The reverse process of the model, started at the state x with level l: q(y|x) = p(y | x_l = x). Ancestral steps of `steps`
   *  evaluations, the prior step of PnP-DM (Wu et al. 2024). */
  ms.ReverseSampler = ({ steps }) => (denoiser, centre, bandwidth, noise) => {
    const levels = ms.levelsNear(bandwidth, steps, { spread: 1 });
    const x = Float64Array.from(centre), d = new Float64Array(x.length);
    for (let j = 0; j < steps; j++) {
      denoiser.denoise(x, levels[j], d);
      const normal = j + 1 < steps ? noise.normals(x.length) : null;
      for (let i = 0; i < x.length; i++) {
        const s = at(levels[j], i >> 1), next = at(levels[j + 1], i >> 1);
        const ratio = (next / s) ** 2;
        x[i] = d[i] + ratio * (x[i] - d[i]);
        if (normal !== null) x[i] += next * Math.sqrt(1 - ratio) * normal[i];
      }
    }
    return x;
  };

  /** The mean of q itself, E_q[y] = D(x; l): one evaluation, no randomness. */
  ms.MeanSampler = () => (denoiser, centre, bandwidth) => denoiser.denoise(centre, bandwidth, new Float64Array(centre.length));
}
