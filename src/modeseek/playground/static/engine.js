/* A run of one panel: density, denoiser, particles, optimiser and scores. Runs in a worker; the page only draws. */
"use strict";

function enginePart(ms) {
  ms.DENSITIES = {
    pinwheel: { label: "Pinwheel", networks: { strong: "pinwheel" } },
    spiral: { label: "Spiral", networks: { strong: "spiral" } },
    fractal: { label: "Fractal", networks: { strong: "fractal-a", cfg: "fractal-ab-weak", auto: "fractal-a-weak" } },
    own: { label: "Draw your own", networks: {} },
  };
  ms.HALF_WIDTH = 1.6;
  const IDEAL_POINTS = 2000;
  const SCORED = 1024; // particles and true points that the nearest-neighbour scores compare
  const cache = new Map();
  const once = (key, make) => {
    if (!cache.has(key)) cache.set(key, make());
    return cache.get(key);
  };

  /** The true mixture of a density of the page. */
  ms.mixtureOf = (data, settings) => {
    if (settings.density === "own") {
      const key = `own ${JSON.stringify(settings.strokes)}`;
      return once(key, () => ms.fromStrokes(settings.strokes));
    }
    const { rows, first } = data.mixtures[settings.density];
    return once(settings.density, () => new ms.Mixture(ms.decode(rows, Float64Array).subarray(0, 7 * first)));
  };

  const network = (data, name) =>
    once(`network ${name}`, () => {
      const { values, ...shape } = data.networks[name];
      return new ms.EnergyNet({ ...shape, values: ms.decode(values, Float32Array) });
    });

  /** Which guidances a density and a kind of denoiser allow. */
  ms.guidancesOf = (density, kind) => {
    if (density !== "fractal" || kind === "ideal") return ["none"];
    return kind === "learned" ? ["none", "cfg", "auto"] : ["none", "cfg"];
  };

  /** The denoiser: "true" (closed form), "ideal" (2000 samples), or "learned" (the embedded network), guided or not. */
  ms.denoiserOf = (data, settings) => {
    const { density, denoiser: kind, guidance = "none", scale = 1 } = settings;
    const mixture = ms.mixtureOf(data, settings);
    if (kind === "ideal") {
      const key = `ideal ${density} ${JSON.stringify(settings.strokes ?? "")}`;
      return once(key, () => ms.empirical(mixture.sample(IDEAL_POINTS, new ms.Random(12, 0, 5))));
    }
    const names = ms.DENSITIES[density].networks;
    const learned = kind === "learned" && names.strong !== undefined;
    const strong = learned ? network(data, names.strong) : mixture;
    if (guidance === "none" || scale === 1 || !ms.guidancesOf(density, kind).includes(guidance)) return strong;
    const weak = learned ? network(data, names[guidance]) : once("both classes", () => new ms.Mixture(ms.decode(data.mixtures[density].rows, Float64Array)));
    return new ms.Guided(strong, weak, scale);
  };

  /** Where particles start: a grid, a broad normal, points dropped by hand, or true samples. */
  ms.startPoints = (data, settings) => {
    const { start, count, drops = [], seed } = settings;
    if (start === "drops" && drops.length > 0) {
      const random = new ms.Random(seed, 0, 7), out = new Float64Array(2 * count), normal = random.normals(2 * count);
      for (let i = 0; i < count; i++) {
        const [x, y] = drops[i % drops.length];
        out[2 * i] = x + 0.04 * normal[2 * i];
        out[2 * i + 1] = y + 0.04 * normal[2 * i + 1];
      }
      return out;
    }
    if (start === "normal") return new ms.Random(seed, 0, 7).normals(2 * count).map((v) => 0.7 * v);
    if (start === "data") return ms.mixtureOf(data, settings).sample(count, new ms.Random(seed, 0, 7));
    const side = Math.max(1, Math.round(Math.sqrt(count))), out = new Float64Array(2 * side * side);
    for (let i = 0; i < side; i++) {
      for (let j = 0; j < side; j++) {
        out[2 * (i * side + j)] = side === 1 ? 0 : -1.5 + (3 * i) / (side - 1);
        out[2 * (i * side + j) + 1] = side === 1 ? 0 : -1.5 + (3 * j) / (side - 1);
      }
    }
    return out;
  };

  /** At most `most` of the points, evenly spread over their order. */
  ms.thinned = (x, most) => {
    const n = x.length / 2;
    if (n <= most) return x;
    const out = new Float64Array(2 * most);
    for (let i = 0; i < most; i++) {
      const from = 2 * Math.floor((i * n) / most);
      out[2 * i] = x[from];
      out[2 * i + 1] = x[from + 1];
    }
    return out;
  };

  /** The adaptive rule and the high-density ODE take whole steps: that is what they are defined for. */
  const optimiserOf = (method, settings) => (method === "adaptive" || method === "hdode" ? { optimiser: "sgd", lr: 1 } : settings);

  ms.Run = class Run {
    constructor(data, method, settings) {
      Object.assign(this, { data, method, settings });
      this.mixture = ms.mixtureOf(data, settings);
      this.denoiser = ms.denoiserOf(data, settings);
      this.x = ms.startPoints(data, settings);
      this.first = new Float64Array(this.x.length);
      this.second = new Float64Array(this.x.length);
      this.index = 0;
      this.calls = 0;
      this.highest = once(`highest ${settings.density} ${JSON.stringify(settings.strokes ?? "")}`, () =>
        settings.density === "own" ? this.mixture.highest() : data.mixtures[settings.density].highest,
      );
      const scored = Math.min(SCORED, this.x.length / 2);
      this.truth = once(`truth ${settings.density} ${scored} ${JSON.stringify(settings.strokes ?? "")}`, () => {
        const points = this.mixture.sample(scored, new ms.Random(99, 0, 6));
        return { points, radii: scored > 3 ? ms.ballRadii(points) : new Float64Array(scored) };
      });
    }

    get progress() {
      return Math.min(1, this.index / Math.max(1, this.settings.total - 1));
    }

    /** One optimiser step; returns what the page shows of it. */
    step() {
      const { settings, method, x } = this;
      const noise = ms.stepNoise(settings.seed, settings.noise === "fixed" ? 0 : this.index);
      const begun = performance.now();
      const particles = ms.thinned(x, SCORED);
      const estimate = ms.estimate(method, x, { denoiser: this.denoiser, settings, progress: this.progress, noise, particles });
      this._update(estimate.gradient, optimiserOf(method, settings));
      this.index++;
      this.calls += estimate.calls;
      let finite = true;
      for (let i = 0; i < x.length; i++) if (!Number.isFinite(x[i])) finite = false;
      const bandwidth = typeof estimate.bandwidth === "object" ? middle(estimate.bandwidth) : estimate.bandwidth;
      return { index: this.index, calls: this.calls, bandwidth, sigma: estimate.sigma, milliseconds: performance.now() - begun, finite };
    }

    _update(gradient, { optimiser, lr }) {
      const { x, first, second } = this;
      if (optimiser === "sgd") {
        for (let i = 0; i < x.length; i++) x[i] -= lr * gradient[i];
        return;
      }
      const a = 1 - 0.9 ** (this.index + 1), b = 1 - 0.999 ** (this.index + 1); // Adam with torch's defaults
      for (let i = 0; i < x.length; i++) {
        first[i] = 0.9 * first[i] + 0.1 * gradient[i];
        second[i] = 0.999 * second[i] + 0.001 * gradient[i] * gradient[i];
        x[i] -= (lr * (first[i] / a)) / (Math.sqrt(second[i] / b) + 1e-8);
      }
    }

    /** NLL, outliers, precision and coverage of the particles as they are. */
    scores() {
      const { x, truth } = this;
      const scored = truth.points.length / 2;
      return { ...ms.likelihood(this.mixture, x, this.highest), ...ms.precisionCoverage(ms.thinned(x, scored), truth.points, truth.radii) };
    }
  };

  const middle = (values) => Float64Array.from(values).sort()[values.length >> 1];

  /** A field on the grid cannot show bandwidths below this: it is drawn at this one instead. */
  ms.FIELD_BANDWIDTH = 0.1;

  /** Samples that the field of a method is averaged over. */
  const FIELD_SAMPLES = { sds: 48, sjc: 48, vsd: 24, exact: 6, proximal: 6, reverse: 6, adaptive: 6, split: 1, sdi: 1, mean: 1, hdode: 1 };

  /** Rows [from, to) of the mean gradient field on an n x n grid over the window, at a progress; all points share the noise. */
  ms.fieldRows = (data, method, settings, { n, progress, particles, from, to }) => {
    const x = new Float64Array(2 * n * (to - from));
    for (let i = from; i < to; i++) {
      for (let j = 0; j < n; j++) {
        const at = 2 * ((i - from) * n + j);
        x[at] = -ms.HALF_WIDTH + (2 * ms.HALF_WIDTH * i) / (n - 1);
        x[at + 1] = -ms.HALF_WIDTH + (2 * ms.HALF_WIDTH * j) / (n - 1);
      }
    }
    const samples = Math.max(1, FIELD_SAMPLES[method] / (settings.denoiser === "learned" ? 3 : 1));
    const [bandwidthStart, bandwidthEnd] = [settings.bandwidthStart, settings.bandwidthEnd].map((l) => Math.max(l, ms.FIELD_BANDWIDTH));
    const noise = ms.commonNoise(x.length / 2, samples);
    const denoiser = ms.denoiserOf(data, settings);
    return ms.estimate(method, x, { denoiser, settings: { ...settings, samples, bandwidthStart, bandwidthEnd }, progress, noise, particles }).gradient;
  };

  /** What the page shows of one point: q itself, its mean, fifty targets of the method, and the mean gradient step. */
  ms.probe = (data, method, settings, { x, y, progress, particles, size, count = 50 }) => {
    const mixture = ms.mixtureOf(data, settings);
    const centre = Float64Array.from([x, y]);
    const schedule = method === "adaptive" ? "adaptive" : settings.schedule;
    const own = ms.bandwidth({ ...settings, schedule }, progress, centre, mixture);
    const l = typeof own === "number" ? own : own[0];
    const product = mixture.product(x, y, l);
    const truth = mixture.denoise(centre, l, new Float64Array(2));
    const many = new Float64Array(2 * count);
    for (let i = 0; i < count; i++) many.set(centre, 2 * i);
    const noise = ms.stepNoise(settings.seed + 1, Math.round(progress * 1e4));
    const one = { ...settings, samples: 1 };
    const { target } = ms.estimate(method, many, { denoiser: ms.denoiserOf(data, settings), settings: one, progress, noise, particles });
    const mean = [0, 0];
    for (let i = 0; i < 2 * count; i++) mean[i % 2] += target[i] / count;
    let square = 0;
    for (let i = 0; i < 2 * count; i++) square += (target[i] - mean[i % 2]) ** 2 / (2 * (count - 1));
    const { std, mean: centreOfQ } = product.moments();
    const image = new Float32Array(size * size), scratch = new Float64Array(2);
    const reach = Math.max(Math.hypot(truth[0] - x, truth[1] - y) + 3 * std, 0.02);
    const half = Math.min(1.6, Math.max(reach, 0.9 * l));
    let top = -Infinity;
    for (let row = 0; row < size; row++) {
      for (let column = 0; column < size; column++) {
        const px = x + half * ((2 * (column + 0.5)) / size - 1), py = y - half * ((2 * (row + 0.5)) / size - 1);
        const value = product.point(px, py, half / size, scratch, 0);
        image[row * size + column] = value;
        top = Math.max(top, value);
      }
    }
    for (let i = 0; i < image.length; i++) image[i] = Math.exp(image[i] - top);
    return { x, y, l, half, image, size, truth, centreOfQ, targets: target, mean, spread: Math.sqrt(square), std };
  };
}
