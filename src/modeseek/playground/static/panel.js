/* One panel: a method, its worker, its canvas and its numbers; and its lens under the cursor. */
"use strict";

const percent = (value) => `${Math.round(100 * value)} %`;

/** An element from a tag, properties and children. */
function element(tag, properties = {}, ...children) {
  const node = document.createElement(tag);
  for (const [key, value] of Object.entries(properties)) {
    if (key.startsWith("aria-") || key === "role" || key === "for") node.setAttribute(key, value);
    else node[key] = value;
  }
  node.append(...children);
  return node;
}

class Panel {
  /** events: {change(panel, method), remove(panel), point(panel, x, y, kind), move(dx, dy)}. */
  constructor(method, data, events) {
    this.method = method;
    this.helper = new Helper(data);
    this.frames = [];
    this.infos = [];
    this.scores = [];
    this.loss = null;
    this.select = element("select", { className: "method", "aria-label": "Method" });
    for (const [id, { label }] of Object.entries(ms.METHODS)) this.select.append(new Option(label, id, false, id === method));
    this.select.onchange = () => events.change(this, this.select.value);
    this.remove = element("button", { type: "button", className: "remove", textContent: "×", title: "Remove this panel" });
    this.remove.setAttribute("aria-label", "Remove this panel");
    this.remove.onclick = () => events.remove(this);
    this.canvas = element("canvas", { tabIndex: 0, role: "img" });
    this.numbers = {};
    const list = element("dl", { className: "numbers" });
    const names = {
      nll: ["NLL", "Mean of -log p of the particles; a perfect sampler scores the entropy of the density"],
      outliers: ["outliers", "Share of particles outside the outline of the density"],
      precision: ["precision", "Share of particles inside a true sample's 3-nearest-neighbour ball"],
      coverage: ["coverage", "Share of true samples whose ball holds a particle; 88 % for a perfect sampler"],
      calls: ["calls", "Denoiser evaluations per particle so far"],
    };
    for (const [id, [name, about]] of Object.entries(names)) {
      const value = element("dd", { textContent: "–" });
      value.dataset.number = id;
      this.numbers[id] = value;
      list.append(element("div", { title: about }, element("dt", { textContent: name }), value));
    }
    this.verdict = element("p", { className: "verdict" });
    this.root = element("article", { className: "panel" }, element("header", {}, this.select, this.remove), this.canvas, this.verdict, list);
    this.lens = { canvas: element("canvas", { role: "img" }), words: element("figcaption") };
    this.lens.title = element("h3", {});
    this.lens.root = element("figure", { className: "lens" }, this.lens.title, this.lens.canvas, this.lens.words);
    this._listen(events);
    this.setMethod(method);
  }

  setMethod(method) {
    this.method = method;
    this.select.value = method;
    this.root.title = "";
    this.select.title = ms.METHODS[method].about;
    this.canvas.setAttribute("aria-label", `Particles of ${ms.METHODS[method].label}. Arrow keys move the point under the lens.`);
    this.lens.title.textContent = ms.METHODS[method].label;
  }

  _listen(events) {
    const where = (event) => {
      const box = this.canvas.getBoundingClientRect();
      const x = ms.HALF_WIDTH * ((2 * (event.clientX - box.left)) / box.width - 1);
      const y = -ms.HALF_WIDTH * ((2 * (event.clientY - box.top)) / box.height - 1);
      return [x, y];
    };
    this.canvas.addEventListener("pointerdown", (event) => {
      this.pressed = true;
      this.canvas.setPointerCapture(event.pointerId);
      events.point(this, ...where(event), "down");
    });
    this.canvas.addEventListener("pointermove", (event) => events.point(this, ...where(event), this.pressed ? "drag" : "hover"));
    for (const name of ["pointerup", "pointercancel"]) {
      this.canvas.addEventListener(name, (event) => {
        this.pressed = false;
        events.point(this, ...where(event), "up");
      });
    }
    this.canvas.addEventListener("keydown", (event) => {
      const step = event.shiftKey ? 0.2 : 0.04;
      const moves = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, step], ArrowDown: [0, -step] };
      if (event.key in moves) {
        events.move(...moves[event.key]);
        event.preventDefault();
        event.stopPropagation();
      }
    });
  }

  /** Start again; the frames before are forgotten. */
  async start(settings) {
    this.settings = settings;
    this.loss = null;
    this.probed = null;
    this.lens.words.textContent = "";
    const serial = (this.serial = (this.serial ?? 0) + 1);
    const found = await this.helper.request({ kind: "start", method: this.method, settings });
    if (serial !== this.serial) return;
    this.frames = [found.points];
    this.infos = [found];
    this.scores = [found.scores];
    this.highest = found.highest;
    this.diverged = false;
  }

  /** One step; resolves when the worker has made it. */
  async step(scored) {
    const serial = this.serial;
    const found = await this.helper.request({ kind: "step", scored });
    if (serial !== this.serial) return;
    this.frames.push(found.points);
    this.infos.push(found);
    this.scores.push(found.scores ?? this.scores[this.scores.length - 1]);
    this.diverged ||= !found.finite;
  }

  /** Positions as numbers of the engine, at a frame. */
  pointsAt(index) {
    const frame = this.frames[Math.min(index, this.frames.length - 1)];
    return frame ? Float64Array.from(frame) : new Float64Array(0);
  }

  /** Draw the canvas and write the numbers. */
  show({ state, shown, density, mixture }) {
    const index = Math.min(shown, this.frames.length - 1);
    const loss = state.background === "loss" ? this.loss : null;
    let onData = false;
    if (loss?.lowest) onData = mixture.point(...loss.lowest, 0, new Float64Array(2), 0) > density.highest - ms.CONTOUR;
    drawPanel(this.canvas, {
      background: loss?.canvas ?? (state.background === "loss" ? null : density?.canvas),
      contour: density?.contour,
      frames: this.frames,
      shown: index,
      trails: state.trails,
      trail: (this.trail ??= {}),
      jumps: this.method === "adaptive",
      lowest: loss?.lowest,
      onData,
      probe: state.probe,
    });
    const scores = this.scores[index], info = this.infos[index];
    if (!scores) return;
    const values = {
      nll: scores.nll.toFixed(2), outliers: percent(scores.outliers), precision: percent(scores.precision), coverage: percent(scores.coverage),
      calls: Math.round(info.calls).toLocaleString("en"),
    };
    for (const [id, text] of Object.entries(values)) if (this.numbers[id].textContent !== text) this.numbers[id].textContent = text;
    const words = this._verdict(index, scores, loss, onData);
    if (this.verdict.textContent !== words) this.verdict.textContent = words;
    const meters = { outliers: scores.outliers, precision: scores.precision, coverage: scores.coverage };
    for (const [id, share] of Object.entries(meters)) this.numbers[id].style.setProperty("--share", share);
  }

  _verdict(index, scores, loss, onData) {
    if (this.diverged) return "The particles diverged.";
    let lowest = loss?.canvas ? "The loss falls towards the edge of the window. " : "";
    if (loss?.lowest) lowest = `The loss is lowest ${onData ? "on" : "off"} the data. `;
    const points = `${percent(1 - scores.outliers)} of the points are on the data and reach ${percent(scores.coverage)} of it.`;
    return lowest + (index === 0 ? "" : points);
  }

  /** Request the probe at a point and draw the lens. */
  async probe(state, progress, frame) {
    const [x, y] = state.probe, serial = (this.probes = (this.probes ?? 0) + 1);
    const at = { x, y, progress, size: 96, particles: ms.thinned(this.pointsAt(frame), 1024) };
    const found = await this.helper.request({ kind: "probe", method: this.method, settings: this.settings, at });
    if (serial === this.probes) {
      this.probed = found;
      this.showLens();
    }
  }

  showLens() {
    const found = this.probed;
    if (!found) return;
    const outside = drawLens(this.lens.canvas, found);
    const { uses, deterministic = false } = ms.METHODS[this.method];
    const same = !deterministic && found.spread < 1e-3 * found.std;
    const noun = uses === "levels" ? "estimates" : "draws";
    let spread = `Spread of the ${noun} ${found.spread.toFixed(3)}; of q ${found.std.toFixed(3)}.`;
    if (same) spread = `All fifty ${noun} coincide: the noise has no effect.`;
    if (deterministic) spread = "The method uses no noise: one estimate.";
    const off = Math.hypot(found.mean[0] - found.truth[0], found.mean[1] - found.truth[1]);
    const bias = `${deterministic ? "It" : "Their mean"} is ${off.toFixed(3)} from the true mean.`;
    const beyond = outside > 0 ? ` ${outside} lie outside the lens.` : "";
    this.lens.words.textContent = `${spread} ${bias}${beyond}`;
    this.lens.words.dataset.same = String(same);
    this.lens.canvas.setAttribute("aria-label", `${ms.METHODS[this.method].label} at (${found.x.toFixed(2)}, ${found.y.toFixed(2)}), bandwidth ${found.l.toFixed(3)}. ${this.lens.words.textContent}`);
  }

  close() {
    this.helper.close();
    this.root.remove();
    this.lens.root.remove();
  }
}
