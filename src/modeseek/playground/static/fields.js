/* What is computed besides the runs: the implied losses and the point under the cursor. */
"use strict";

const progressShown = () => Math.min(1, shown / Math.max(1, state.total - 1));
const depends = (panel) => !["sds", "sjc"].includes(panel.method); // their loss is the same at every step

async function refreshLosses() {
  if (state.background !== "loss") return;
  const mine = generation, progress = progressShown();
  const n = state.denoiser === "learned" ? 26 : 56;
  for (const [slot, panel] of panels.entries()) {
    if (panel.pending || (panel.loss !== null && (panel.loss.progress === progress || !depends(panel)))) continue;
    panel.pending = true;
    const particles = ms.thinned(panel.pointsAt(shown), 1024);
    const question = { kind: "field", slot, method: panel.method, settings: panel.settings, n, progress, particles };
    fields.request(question).then((found) => {
      panel.pending = false;
      if (mine !== generation) return refreshSoon();
      if (found.cancelled || found.potential === null) return undefined;
      panel.loss = { ...found, canvas: paintLoss(found), lowest: lowestPoint(found) };
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
