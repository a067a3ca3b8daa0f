/* The page: one state, its controls, its panels, and the loop that plays them in step. */
"use strict";

let data = null;
let state = null;
let density = null; // picture, contour and highest log p of the current density
let panels = [];
let fields = null; // the worker of implied losses and of the density's picture
let shown = 0;
let playing = false;
let generation = 0; // a restart makes answers of earlier runs worthless
let tool = "probe";
let stroke = null;

const byId = (id) => document.getElementById(id);
const still = matchMedia("(prefers-reduced-motion: reduce)");
const form = byId("settings");
const maps = {
  square: { to: (v) => v * v, from: (v) => Math.round(Math.sqrt(v)), text: (v) => String(v) },
  power: { to: (v) => Number((10 ** v).toPrecision(3)), from: Math.log10, text: (v) => Number(v.toPrecision(2)).toString() },
  plain: { to: Number, from: (v) => v, text: (v) => String(v) },
};
const mapOf = (input) => maps[input.dataset.map ?? "plain"];
const live = () => Math.min(...panels.map((panel) => panel.frames.length)) - 1;
const frame = () => new Promise((resolve) => requestAnimationFrame(resolve));

function debounced(milliseconds, work) {
  let timer = 0;
  return () => {
    clearTimeout(timer);
    timer = setTimeout(work, milliseconds);
  };
}

// ---------------------------------------------------------------- controls
function writeControls() {
  for (const input of form.elements) {
    if (!input.name || !(input.name in state)) continue;
    if (input.type === "checkbox") input.checked = state[input.name];
    else input.value = mapOf(input).from(state[input.name]);
    const value = input.closest("label")?.querySelector(".value");
    if (value) value.textContent = mapOf(input).text(state[input.name]);
  }
  const guidances = ms.guidancesOf(state.density, state.denoiser);
  for (const option of form.elements.guidance.options) option.disabled = !guidances.includes(option.value);
  form.elements.denoiser.querySelector("[value=learned]").disabled = state.density === "own";
  const visible = { guidance: guidances.length > 1, own: state.density === "own", drops: state.start === "drops" };
  for (const node of form.querySelectorAll("[data-for]")) node.hidden = !visible[node.dataset.for];
  byId("draw").setAttribute("aria-pressed", String(tool === "draw"));
  byId("drop").setAttribute("aria-pressed", String(tool === "drop"));
  byId("add").disabled = panels.length >= 6;
}

function readControl(input) {
  if (!input.name || !(input.name in state)) return;
  const value = input.type === "checkbox" ? input.checked : input.type === "range" || input.type === "number" ? mapOf(input).to(Number(input.value)) : input.value;
  const before = state;
  state = checked({ ...state, [input.name]: value });
  if (input.name === "density" && before.density !== state.density) tool = state.density === "own" ? "draw" : "probe";
  if (input.name === "start") tool = state.start === "drops" ? "drop" : "probe";
  if (input.name === "guidance" && state.guidance !== "none" && state.scale === 1) state.scale = state.guidance === "cfg" ? 4 : 3;
  writeControls();
  if (["background", "trails"].includes(input.name)) {
    saveLink();
    if (state.background === "loss") refreshLosses();
    render();
  } else {
    restartSoon();
  }
}

const saveLink = debounced(150, () => {
  const hash = toHash(state);
  history.replaceState(null, "", hash === "" ? location.pathname + location.search : `#${hash}`);
});

// ---------------------------------------------------------------- panels
const events = {
  change: (panel, method) => {
    state.panels[panels.indexOf(panel)] = method;
    panel.setMethod(method);
    restart();
  },
  remove: (panel) => {
    if (panels.length === 1) return;
    state.panels.splice(panels.indexOf(panel), 1);
    restart();
  },
  point: (panel, x, y, kind) => {
    const inside = Math.max(Math.abs(x), Math.abs(y)) <= ms.HALF_WIDTH;
    if (tool === "probe") {
      if (inside && kind !== "up") moveProbe([x, y]);
    } else if (kind === "down") {
      stroke = [[x, y]];
    } else if (stroke !== null && kind === "drag" && inside) {
      const [lx, ly] = stroke[stroke.length - 1];
      if (Math.hypot(x - lx, y - ly) > 0.08) stroke.push([x, y]);
    } else if (stroke !== null && kind === "up") {
      stroke = stroke.map((p) => p.map((v) => Math.round(100 * v) / 100)); // as a link keeps it
      if (tool === "draw") state.strokes = [...state.strokes, stroke].slice(-40);
      else state.drops = [...state.drops, ...stroke].slice(-200);
      stroke = null;
      restart();
    }
    if (stroke !== null) drawStroke(panel.canvas);
  },
  move: (dx, dy) => moveProbe([state.probe[0] + dx, state.probe[1] + dy].map((v) => Math.max(-ms.HALF_WIDTH, Math.min(ms.HALF_WIDTH, v)))),
};

function drawStroke(canvas) {
  const { context, width } = fitted(canvas), [sx, sy] = toScreen(width), ink = INKS[theme()];
  context.fillStyle = tool === "draw" ? ink.line : ink.point;
  for (const [x, y] of stroke) dot(context, sx(x), sy(y), 4);
}

function layPanels() {
  while (panels.length > state.panels.length) panels.pop().close();
  state.panels.forEach((method, i) => {
    if (panels[i] === undefined) {
      panels[i] = new Panel(method, data, events);
      byId("panels").append(panels[i].root);
      byId("lenses").append(panels[i].lens.root);
    } else if (panels[i].method !== method) {
      panels[i].setMethod(method);
    }
    panels[i].remove.disabled = state.panels.length === 1;
  });
  byId("panels").dataset.count = String(panels.length);
}

// ---------------------------------------------------------------- runs
async function restart() {
  const mine = ++generation;
  saveLink();
  layPanels();
  writeControls();
  shown = 0;
  const settings = structuredClone(state);
  await Promise.all([loadDensity(settings), ...panels.map((panel) => panel.start(settings))]);
  if (mine !== generation) return;
  render();
  refreshLosses();
  refreshProbe();
  if (playing) loop();
}
const restartSoon = debounced(140, restart);

let densityKey = "";
async function loadDensity(settings) {
  const key = `${settings.density} ${JSON.stringify(settings.strokes)}`;
  if (key === densityKey) return;
  const found = await fields.ask({ kind: "image", settings, size: 200 });
  densityKey = key;
  density = { ...found, contour: contourOf(found), picture: densityPicture(found) };
}

async function advance() {
  const mine = generation, index = live() + 1;
  await Promise.all(panels.map((panel) => panel.step(index % 5 === 0 || index >= state.total || !playing)));
  if (mine !== generation) return false;
  shown = live();
  return true;
}

let looping = false;
async function loop() {
  if (looping) return;
  looping = true;
  let refreshed = performance.now();
  while (playing && live() < state.total) {
    const mine = generation;
    if (!(await advance()) || mine !== generation) break;
    if (still.matches && live() % 25 !== 0 && live() < state.total) continue;
    render();
    if (performance.now() - refreshed > 700 && !still.matches) {
      refreshed = performance.now();
      refreshLosses();
      refreshProbe();
    }
    await frame();
  }
  looping = false;
  if (live() >= state.total) {
    setPlaying(false);
    refreshLosses();
    refreshProbe();
    announce();
  }
}

function setPlaying(on) {
  playing = on;
  byId("play").querySelector("span").textContent = on ? "Pause" : "Play";
  byId("play").querySelector("path").setAttribute("d", on ? "M3 2h4v12H3zM9 2h4v12H9z" : "M4 2l10 6-10 6z");
}

async function play() {
  if (playing) {
    setPlaying(false);
    refreshLosses();
    refreshProbe();
    return;
  }
  setPlaying(true);
  if (live() >= state.total) await restart();
  else loop();
}

async function stepOnce(direction) {
  setPlaying(false);
  if (direction < 0 || shown < live()) shown = Math.max(0, Math.min(live(), shown + direction));
  else if (live() < state.total) await advance();
  render();
  settle();
}
const settle = debounced(120, () => {
  refreshLosses();
  refreshProbe();
});

// ---------------------------------------------------------------- loss and probe
const progressShown = () => Math.min(1, shown / Math.max(1, state.total - 1));
const depends = (panel) => !["sds", "sjc"].includes(panel.method); // their loss is the same at every step

async function refreshLosses() {
  if (state.background !== "loss") return;
  const mine = generation, progress = progressShown();
  const n = state.denoiser === "learned" ? 26 : 48;
  for (const [slot, panel] of panels.entries()) {
    if (panel.asking || (panel.loss !== null && (panel.loss.progress === progress || !depends(panel)))) continue;
    panel.asking = true;
    const particles = ms.thinned(panel.pointsAt(shown), 1024);
    const question = { kind: "field", slot, method: panel.method, settings: panel.settings, n, progress, particles };
    fields.ask(question).then((found) => {
      panel.asking = false;
      if (mine !== generation) return refreshSoon();
      if (found.cancelled || found.potential === null) return undefined;
      panel.loss = { ...found, picture: lossPicture(found), lowest: lowestPoint(found) };
      render();
      if (!playing && panel.loss.progress !== progressShown()) refreshSoon();
      return undefined;
    });
  }
}
const refreshSoon = debounced(30, refreshLosses);

function moveProbe(point) {
  state.probe = point;
  saveLink();
  render();
  refreshProbe();
}

let probing = false, again = false;
async function refreshProbe() {
  if (probing) {
    again = true;
    return;
  }
  probing = true;
  await Promise.all(panels.map((panel) => panel.frames.length > 0 && panel.probe(state, progressShown(), shown)));
  probing = false;
  if (again) {
    again = false;
    refreshProbe();
  }
}

// ---------------------------------------------------------------- the view
function render() {
  const mixture = ms.mixtureOf(data, state);
  for (const panel of panels) panel.show({ state, shown, density, mixture });
  const scrub = byId("scrub"), last = Math.max(0, live());
  scrub.max = String(last);
  scrub.value = String(shown);
  const info = panels.map((panel) => panel.infos[shown]).find((found) => found?.bandwidth);
  const bandwidth = info ? `, bandwidth ${info.bandwidth.toFixed(3)}` : "";
  byId("clock").textContent = `step ${shown} of ${state.total}${bandwidth}`;
}

function announce() {
  byId("status").textContent = panels
    .map((panel) => `${ms.METHODS[panel.method].label}: ${panel.verdict.textContent}`)
    .join(" ");
}

function redraw() {
  if (density) density.picture = densityPicture(density);
  for (const panel of panels) {
    if (panel.loss) panel.loss.picture = lossPicture(panel.loss);
    panel.showLens();
  }
  render();
}

async function pose(index) {
  setPlaying(false);
  const { state: changes } = QUESTIONS[index];
  const { probing: _, ...settings } = changes;
  state = checked({ ...structuredClone(DEFAULTS), ...structuredClone(settings) });
  tool = "probe";
  [...byId("questions").children].forEach((button, i) => button.setAttribute("aria-pressed", String(i === index)));
  await restart();
  if (changes.probing) document.querySelector(".probe").scrollIntoView({ behavior: still.matches ? "auto" : "smooth", block: "nearest" });
  else if (!still.matches) play();
}

function keys(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, select, textarea, summary")) return;
  if (event.key === " " && event.target.closest("button")) return;
  const actions = {
    " ": play, ArrowRight: () => stepOnce(1), ArrowLeft: () => stepOnce(-1), r: restart,
    l: () => form.elements.background.dispatchEvent(toggled("background", state.background === "loss" ? "density" : "loss")),
    t: () => form.elements.trails.dispatchEvent(toggled("trails", !state.trails)),
    1: () => pose(0), 2: () => pose(1), 3: () => pose(2),
  };
  const action = actions[event.key.toLowerCase()] ?? actions[event.key];
  if (action) {
    event.preventDefault();
    action();
  }
}

function toggled(name, value) {
  const input = form.elements[name];
  if (input.type === "checkbox") input.checked = value;
  else input.value = value;
  return new Event("input", { bubbles: true });
}

/** Start the page once the data are there. */
function begin() {
  data = MODESEEK_DATA;
  state = fromHash(location.hash);
  for (const [id, { label }] of Object.entries(ms.DENSITIES)) form.elements.density.append(new Option(label, id));
  QUESTIONS.forEach(({ title, hint }, i) => {
    const button = element("button", { type: "button", "aria-pressed": "false", "aria-keyshortcuts": String(i + 1) }, element("b", { textContent: title }), element("span", { textContent: hint }));
    button.onclick = () => pose(i);
    byId("questions").append(button);
  });
  fields = new Helper(data);
  form.addEventListener("input", (event) => readControl(event.target));
  form.addEventListener("submit", (event) => event.preventDefault());
  byId("play").onclick = play;
  byId("step").onclick = () => stepOnce(1);
  byId("reset").onclick = () => {
    setPlaying(false);
    restart();
  };
  byId("add").onclick = () => {
    state.panels.push(Object.keys(ms.METHODS).find((id) => !state.panels.includes(id)) ?? "exact");
    restart();
  };
  byId("scrub").oninput = (event) => {
    setPlaying(false);
    shown = Number(event.target.value);
    render();
    settle();
  };
  for (const [id, kind] of [["draw", "draw"], ["drop", "drop"]]) {
    byId(id).onclick = () => {
      tool = tool === kind ? "probe" : kind;
      writeControls();
    };
  }
  byId("erase").onclick = () => {
    state = checked({ ...state, strokes: [] });
    restart();
  };
  byId("undrop").onclick = () => {
    state.drops = [];
    restart();
  };
  byId("link").onclick = async () => {
    const hash = toHash(state);
    history.replaceState(null, "", `#${hash}`);
    let said = "The address of this page is the link.";
    try {
      await navigator.clipboard.writeText(location.href);
      said = "Link copied.";
    } catch {
      /* no clipboard: the address bar has the link */
    }
    byId("status").textContent = said;
  };
  addEventListener("keydown", keys);
  addEventListener("hashchange", () => {
    if (toHash(state) === toHash(fromHash(location.hash))) return;
    state = fromHash(location.hash);
    restart();
  });
  addEventListener("resize", debounced(100, redraw));
  darkQuery.addEventListener("change", redraw);
  layPanels();
  restart().then(() => document.body.classList.add("ready"));
}
