/* The form, the link and the keys: how a reader changes the state. */
"use strict";

const byId = (id) => document.getElementById(id);
const form = byId("settings");
const maps = {
  square: { to: (v) => v * v, from: (v) => Math.round(Math.sqrt(v)), text: (v) => String(v) },
  power: { to: (v) => Number((10 ** v).toPrecision(3)), from: Math.log10, text: (v) => Number(v.toPrecision(2)).toString() },
  plain: { to: Number, from: (v) => v, text: (v) => String(v) },
};
const mapOf = (input) => maps[input.dataset.map ?? "plain"];

function debounced(milliseconds, work) {
  let timer = 0;
  return () => {
    clearTimeout(timer);
    timer = setTimeout(work, milliseconds);
  };
}

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
  const visible = { guidance: guidances.length > 1, scale: state.guidance !== "none", own: state.density === "own", drops: state.start === "drops" };
  for (const node of form.querySelectorAll("[data-for]")) node.hidden = !visible[node.dataset.for];
  document.body.dataset.tool = tool;
  hint({ draw: "Draw strokes on a panel; a tap makes a dot.", drop: "Tap or draw on a panel to drop particles.", probe: "" }[tool]);
  byId("draw").setAttribute("aria-pressed", String(tool === "draw"));
  byId("drop").setAttribute("aria-pressed", String(tool === "drop"));
  byId("add").disabled = panels.length >= 6;
}

function readControl(input) {
  if (!input.name || !(input.name in state)) return;
  const value = input.type === "checkbox" ? input.checked : input.type === "range" || input.type === "number" ? mapOf(input).to(Number(input.value)) : input.value;
  const before = state;
  for (const button of byId("questions").children) button.setAttribute("aria-pressed", "false");
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
