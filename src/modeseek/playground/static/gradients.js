/* Gradient estimators (the package's gradients/): each returns a gradient g of a loss and the target y with g = weight (x - y).
 *
 * `estimate(method, x, context)`, context = {denoiser, settings, progress, noise, particles}; nothing is divided by the number of points. */
"use strict";

function gradientsPart(ms) {
  /** Every method of the page: id -> label, family, and what it is in a sentence. */
  ms.METHODS = {
    sds: { label: "SDS", about: "Score distillation sampling: the mean of x - D(x + sigma n) over random noise levels.", uses: "levels" },
    sjc: { label: "SJC", about: "Score Jacobian chaining without variance reduction: SDS's mean, with the noise left in.", uses: "levels" },
    vsd: {
      label: "VSD",
      about: "Variational score distillation with its auxiliary denoiser at its optimum, the ideal denoiser of the particles themselves.",
      uses: "levels",
    },
    sdi: { label: "SDI", about: "Score distillation via inversion: DDIM inversion finds the noise; the level falls from high to low.", uses: "levels", deterministic: true },
    split: { label: "MSD as published", about: "Mean-shift distillation with the split sampler of Algorithm 2.", uses: "bandwidth" },
    exact: { label: "MSD exact", about: "Mean-shift distillation with draws of the product density by its exact denoiser.", uses: "bandwidth" },
    proximal: { label: "MSD proximal", about: "Mean-shift distillation with the proximal sampler: exact for Gaussian data.", uses: "bandwidth" },
    reverse: { label: "MSD reverse", about: "Mean-shift distillation with the reverse process started at x and level l.", uses: "bandwidth" },
    adaptive: {
      label: "MSD adaptive",
      about: "Exact draws, one bandwidth per point, whole steps x <- y: the points spread over the density and stay.",
      uses: "bandwidth",
    },
    mean: { label: "Mean shift, one call", about: "The mean-shift vector itself, D(x; l) - x: one evaluation, no variance.", uses: "bandwidth", deterministic: true },
    hdode: { label: "HD-ODE", about: "One step of the high-density ODE per optimiser step: D + (l'/l)^2 (x - D), l' the next bandwidth; whole steps.", uses: "bandwidth", deterministic: true },
  };

  const weigh = { eps: (s) => 1 / s, x0: () => 1, dreamfusion: (s) => s / (1 + s * s) };

  /** Random levels on [low, high]: uniform, or uniform in log sigma. */
  const drawLevels = (uniforms, { low, high, distribution = "uniform" }) =>
    uniforms.map((u) => (distribution === "loguniform" ? low * (high / low) ** u : low + u * (high - low)));
  ms.drawLevels = drawLevels;

  /** SDS, SJC and VSD: the mean over samples of w(sigma)/sigma (base - D(x + sigma n)). */
  function overLevels(method, x, { denoiser, settings, noise, particles }) {
    const n = x.length / 2;
    const { samples = 1, weight = "eps" } = settings;
    const gradient = new Float64Array(2 * n), total = new Float64Array(n);
    const noisy = new Float64Array(2 * n), d = new Float64Array(2 * n), base = new Float64Array(2 * n);
    const auxiliary = method === "vsd" ? ms.empirical(particles ?? x) : null;
    for (let k = 0; k < samples; k++) {
      const sigma = drawLevels(noise.uniforms(n), settings), normal = noise.normals(2 * n);
      for (let i = 0; i < 2 * n; i++) noisy[i] = x[i] + sigma[i >> 1] * normal[i];
      denoiser.denoise(noisy, sigma, d);
      if (auxiliary !== null) auxiliary.denoise(noisy, sigma, base);
      else base.set(method === "sjc" ? noisy : x);
      for (let i = 0; i < 2 * n; i++) {
        const w = weigh[weight](sigma[i >> 1]);
        gradient[i] += (w * (base[i] - d[i])) / samples;
        if (i % 2 === 0) total[i >> 1] += w / samples;
      }
    }
    const target = gradient.map((g, i) => x[i] - g / total[i >> 1]);
    return { gradient, target };
  }

  /** SDI: x - D(x*; sigma), x* the DDIM inversion of x up to sigma, which falls linearly from high to low. */
  function inversion(x, { denoiser, settings, progress }) {
    const { low, high, inversionSteps = 10, lowest = 0.5 } = settings;
    const end = Math.min(Math.max(low, 0.01), high);
    const sigma = high + (end - high) * progress;
    const power = lowest ** (1 / 7);
    const levels = Array.from({ length: inversionSteps + 1 }, (_, j) => sigma * (power + (j / inversionSteps) * (1 - power)) ** 7);
    const target = denoiser.denoise(ms.ddim(denoiser, x, levels), sigma, new Float64Array(x.length));
    return { gradient: x.map((value, i) => value - target[i]), target, sigma };
  }

  /** The high-density ODE (Karczewski et al. 2024): a step from level l to the bandwidth of the next optimiser step. */
  function highDensity(x, { denoiser, settings, progress }) {
    const steps = Math.max(2, settings.total), last = progress >= 1 - 0.5 / (steps - 1);
    const l = ms.bandwidth(settings, progress, x, denoiser);
    const next = last ? 0 : ms.bandwidth(settings, progress + 1 / (steps - 1), x, denoiser);
    const target = denoiser.denoise(x, l, new Float64Array(x.length));
    for (let i = 0; i < x.length; i++) target[i] += (next / l) ** 2 * (x[i] - target[i]);
    return { gradient: x.map((value, i) => value - target[i]), target, bandwidth: l };
  }

  /** The bandwidth at a progress in [0, 1]; of each point if adaptive. */
  ms.bandwidth = (settings, progress, x, denoiser) => {
    const { bandwidthStart: start, bandwidthEnd: end, schedule, first = 1, reach = 2 } = settings;
    if (schedule === "linear") return start + (end - start) * progress;
    const local = start * (end / start) ** progress;
    if (schedule !== "adaptive") return local;
    if (progress <= 0) return first;
    const d = denoiser.denoise(x, local, new Float64Array(x.length));
    const out = new Float64Array(x.length / 2);
    for (let i = 0; i < out.length; i++) {
      const residual = Math.hypot(d[2 * i] - x[2 * i], d[2 * i + 1] - x[2 * i + 1]);
      out[i] = Math.min(Math.max(local, reach * residual), Math.max(first, start));
    }
    return out;
  };

  /** The sampler of the product density that a method draws with; `evaluations` denoiser calls a draw. */
  ms.samplerOf = (method, settings) => {
    const { evaluations = 32, dataStd = 0.5 } = settings;
    const heunSteps = Math.max(2, Math.floor(evaluations / 2) + 1);
    if (method === "split") return ms.SplitSampler({ steps: evaluations });
    if (method === "exact") return ms.ExactSampler({ steps: heunSteps });
    if (method === "adaptive") return ms.ExactSampler({ steps: Math.max(2, heunSteps - 1) }); // the bandwidth costs one call
    if (method === "proximal") return ms.ProximalSampler({ steps: evaluations, dataStd });
    if (method === "reverse") return ms.ReverseSampler({ steps: evaluations });
    return ms.MeanSampler();
  };

  /** A gradient estimate at n points: {gradient, target, calls per point, bandwidth or sigma}. */
  ms.estimate = (method, x, context) => {
    const counted = new ms.Counted(context.denoiser), inner = { ...context, denoiser: counted };
    const n = x.length / 2;
    let found;
    if (method === "sds" || method === "sjc" || method === "vsd") {
      found = overLevels(method, x, inner);
    } else if (method === "sdi") {
      found = inversion(x, inner);
    } else if (method === "hdode") {
      found = highDensity(x, inner);
    } else {
      const { settings, progress, noise } = context;
      const schedule = method === "adaptive" ? "adaptive" : settings.schedule;
      const bandwidth = ms.bandwidth({ ...settings, schedule }, progress, x, counted);
      const sampler = ms.samplerOf(method, settings);
      const samples = method === "mean" || method === "split" ? 1 : (settings.samples ?? 1);
      const target = new Float64Array(2 * n);
      for (let k = 0; k < samples; k++) {
        const y = sampler(counted, x, bandwidth, noise);
        for (let i = 0; i < 2 * n; i++) target[i] += y[i] / samples;
      }
      found = { gradient: x.map((value, i) => value - target[i]), target, bandwidth };
    }
    return { ...found, calls: counted.items / n };
  };
}
