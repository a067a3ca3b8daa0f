/* The state of the page: its defaults, its questions, and its form as a link. */
"use strict";

const DEFAULTS = {
  density: "pinwheel",
  denoiser: "true",
  guidance: "none",
  scale: 1,
  panels: ["sds", "split", "exact"],
  start: "grid",
  count: 576,
  noise: "fresh",
  seed: 0,
  bandwidthStart: 0.316,
  bandwidthEnd: 0.005,
  schedule: "exponential",
  evaluations: 32,
  low: 0.002,
  high: 5,
  distribution: "uniform",
  samples: 1,
  optimiser: "adam",
  lr: 0.08,
  total: 150,
  background: "loss",
  trails: false,
  probe: [-0.55, 0.35],
  strokes: [],
  drops: [],
};

/** Questions a newcomer can answer by looking: each sets the page up and runs it. */
const QUESTIONS = [
  {
    title: "Where does SDS lead?",
    hint: "The loss it implies, as a landscape",
    state: { density: "pinwheel", panels: ["sds", "exact"], count: 400, background: "loss", probe: [0.05, -0.02] },
  },
  {
    title: "Where do MSD's points go?",
    hint: "Follow every particle onto the density",
    state: { density: "spiral", panels: ["split", "exact", "adaptive"], count: 576, background: "density", trails: true, probe: [0.5, 0.55] },
  },
  {
    title: "Does a draw use its noise?",
    hint: "Fifty draws from one point",
    state: { density: "fractal", panels: ["split", "exact"], count: 256, background: "density", bandwidthStart: 0.2, probe: [0.35, 0.1], probing: true },
  },
];

/** A state as the text after #: what differs from the defaults, readable. */
function toHash(state) {
  const parts = [];
  for (const [key, value] of Object.entries(DEFAULTS)) {
    const now = state[key];
    if (JSON.stringify(now) === JSON.stringify(value)) continue;
    let text = String(now);
    if (key === "panels") text = now.join(",");
    if (key === "probe") text = now.map((v) => v.toFixed(3)).join(",");
    if (key === "drops") text = now.map((p) => p.map((v) => Math.round(v * 100)).join(",")).join("_");
    if (key === "strokes") text = now.map((stroke) => stroke.map((p) => p.map((v) => Math.round(v * 100)).join(",")).join("_")).join("~");
    if (typeof now === "number") text = String(Number(now.toPrecision(4)));
    parts.push(`${key}=${encodeURIComponent(text).replaceAll("%2C", ",")}`);
  }
  return parts.join("&");
}

/** The state of a link; what is missing, unknown or out of place keeps its default. */
function fromHash(hash) {
  const state = structuredClone(DEFAULTS);
  const pairs = (text) => text.split("_").filter(Boolean).map((p) => p.split(",").map((v) => Number(v) / 100));
  const sound = (points) => points.every((p) => p.length === 2 && p.every(Number.isFinite));
  for (const part of hash.replace(/^#/, "").split("&")) {
    const [key, raw = ""] = part.split("=");
    if (!(key in DEFAULTS)) continue;
    let text;
    try {
      text = decodeURIComponent(raw);
    } catch {
      continue;
    }
    const old = DEFAULTS[key];
    if (key === "panels") {
      const named = text.split(",").filter((name) => name in ms.METHODS).slice(0, 6);
      if (named.length > 0) state.panels = named;
    } else if (key === "probe") {
      const point = text.split(",").map(Number);
      if (sound([point])) state.probe = point;
    } else if (key === "drops") {
      if (sound(pairs(text))) state.drops = pairs(text);
    } else if (key === "strokes") {
      const strokes = text.split("~").map(pairs).filter((stroke) => stroke.length > 0);
      if (strokes.every(sound)) state.strokes = strokes;
    } else if (typeof old === "number") {
      if (text !== "" && Number.isFinite(Number(text))) state[key] = Number(text);
    } else if (typeof old === "boolean") {
      state[key] = text === "true";
    } else {
      state[key] = text;
    }
  }
  return checked(state);
}

/** A state with every choice and every number in range. */
function checked(state) {
  const choices = {
    density: Object.keys(ms.DENSITIES),
    denoiser: ["true", "ideal", "learned"],
    start: ["grid", "normal", "data", "drops"],
    noise: ["fresh", "fixed"],
    schedule: ["linear", "exponential"],
    distribution: ["uniform", "loguniform"],
    optimiser: ["adam", "sgd"],
    background: ["loss", "density"],
  };
  for (const [key, allowed] of Object.entries(choices)) if (!allowed.includes(state[key])) state[key] = DEFAULTS[key];
  const ranges = {
    scale: [1, 6], count: [1, 4096], seed: [0, 9999], bandwidthStart: [0.002, 1], bandwidthEnd: [0.002, 1], evaluations: [2, 64],
    low: [0.002, 5], high: [0.002, 5], samples: [1, 16], lr: [0.001, 1], total: [10, 400],
  };
  for (const [key, [low, high]] of Object.entries(ranges)) state[key] = Math.min(high, Math.max(low, state[key]));
  for (const key of ["count", "seed", "evaluations", "samples", "total"]) state[key] = Math.round(state[key]);
  state.low = Math.min(state.low, state.high);
  state.bandwidthEnd = Math.min(state.bandwidthEnd, state.bandwidthStart);
  if (state.density === "own" && state.denoiser === "learned") state.denoiser = "true";
  if (!ms.guidancesOf(state.density, state.denoiser).includes(state.guidance)) state.guidance = "none";
  if (state.density === "own" && state.strokes.length === 0) state.strokes = structuredClone(FIRST_STROKES);
  return state;
}

/** What "draw your own" starts from. */
const FIRST_STROKES = [
  [[-1.1, 0.5], [-0.8, 0.9], [-0.4, 0.9], [-0.1, 0.5], [0, 0.1]],
  [[0.3, -0.9], [0.6, -0.6], [0.9, -0.8], [1.1, -0.4]],
];
