/* The page: one state, its controls, its panels, and the loop that plays them in step. */
"use strict";

let data = null;
let state = null;
let density = null; // canvas, contour and highest log p of the current density
let panels = [];
let fields = null; // the worker of implied losses and of the density's image
let shown = 0;
let playing = false;
let generation = 0; // a restart makes answers of earlier runs worthless
let tool = "probe";
let stroke = null;

const still = matchMedia("(prefers-reduced-motion: reduce)");
const live = () => Math.min(...panels.map((panel) => panel.frames.length)) - 1;
const frame = () => new Promise((resolve) => requestAnimationFrame(resolve));

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
  const found = await fields.request({ kind: "image", settings, size: 200 });
  densityKey = key;
  density = { ...found, contour: contourOf(found), canvas: paintDensity(found) };
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
  if (panels.length > 0 && panels[0].frames.length > 0) render();
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

// ---------------------------------------------------------------- the view
function render() {
  const mixture = ms.mixtureOf(data, state);
  for (const panel of panels) panel.show({ state, shown, density, mixture });
  const scrub = byId("scrub"), last = Math.max(0, live());
  scrub.max = String(last);
  scrub.value = String(shown);
  const info = panels.map((panel) => panel.infos[shown]).find((found) => found?.bandwidth);
  const bandwidth = info ? `, bandwidth ${info.bandwidth.toFixed(3)}` : "";
  const slowest = Math.max(...panels.map((panel) => panel.infos[shown]?.milliseconds ?? 0));
  const speed = playing && slowest > 0 ? `, ${(1000 / Math.max(slowest, 1)).toFixed(0)} steps/s` : "";
  byId("clock").textContent = `step ${shown} of ${state.total}${bandwidth}${speed}`;
}

/** A line under the panels that everybody reads. */
function hint(text) {
  byId("hint").textContent = text;
}

function announce() {
  byId("status").textContent = panels
    .map((panel) => `${ms.METHODS[panel.method].label}: ${panel.verdict.textContent}`)
    .join(" ");
}

function redraw() {
  if (density) density.canvas = paintDensity(density);
  for (const panel of panels) {
    if (panel.loss) panel.loss.canvas = paintLoss(panel.loss);
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

/** Say what to do where the data are not there. */
function missing() {
  hint("data.js is missing next to this page: write the folder with `modeseek playground --export DIR`.");
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
    hint(said);
  };
  addEventListener("keydown", keys);
  addEventListener("hashchange", () => {
    if (toHash(state) === toHash(fromHash(location.hash))) return;
    state = fromHash(location.hash);
    restart();
  });
  addEventListener("resize", debounced(100, redraw));
  darkQuery.addEventListener("change", redraw);
  addEventListener("unhandledrejection", (event) => hint(`Something went wrong: ${event.reason?.message ?? event.reason}`));
  layPanels();
  restart().then(() => document.body.classList.add("ready"));
}
