/* Drawings on canvases: colour maps, the density's contour, points, trails and the probe. Coordinates are the plane's. */
"use strict";

const RAMPS = {
  light: { loss: ["#0d3b4f", "#1d6a78", "#58a39c", "#a9cfbf", "#e4e9d8", "#f7f4e9"], density: ["#fbfaf6", "#dfe5e6", "#b3c2c8", "#7e95a1", "#536b7b"] },
  dark: { loss: ["#c9f2dc", "#6fc3b1", "#2f8288", "#1d5363", "#163442", "#111f29"], density: ["#0f151c", "#1a2631", "#2a3d4b", "#446072", "#7393a3"] },
};
const INKS = {
  light: { point: "#d1345b", edge: "#fffdf8", line: "#20262e", soft: "rgba(32,38,46,.55)", draw: "#d1345b", mean: "#20262e", q: [29, 106, 120] },
  dark: { point: "#ff6f86", edge: "#0f151c", line: "#eef2f4", soft: "rgba(238,242,244,.6)", draw: "#ff6f86", mean: "#ffffff", q: [95, 190, 175] },
};

const darkQuery = matchMedia("(prefers-color-scheme: dark)");
const theme = () => (darkQuery.matches ? "dark" : "light");

/** 256 colours between a ramp's stops, as [r, g, b]. */
function lookup(stops) {
  const rgb = stops.map((hex) => [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16)));
  return Array.from({ length: 256 }, (_, i) => {
    const t = (i / 255) * (rgb.length - 1), k = Math.min(rgb.length - 2, Math.floor(t));
    return rgb[k].map((c, j) => Math.round(c + (t - k) * (rgb[k + 1][j] - c)));
  });
}

/** A canvas of size x size from `value(row, column)` in [0, 1]. */
function painted(size, stops, value) {
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = size;
  const context = canvas.getContext("2d"), image = context.createImageData(size, size), colours = lookup(stops);
  for (let row = 0; row < size; row++) {
    for (let column = 0; column < size; column++) {
      const t = Math.min(1, Math.max(0, value(row, column)));
      image.data.set([...colours[Math.round(t * 255)], 255], 4 * (row * size + column));
    }
  }
  context.putImageData(image, 0, 0);
  return canvas;
}

/** The density as a canvas: log p down to 10 nats below its maximum. */
function paintDensity({ image, size, highest }) {
  return painted(size, RAMPS[theme()].density, (row, column) => 1 + (image[row * size + column] - highest) / 10);
}

/** The implied loss as a canvas: dark (in the dark theme: bright) is low. Ranks and values are mixed so that basins stay visible. */
function paintLoss({ potential, n }) {
  const sorted = Float64Array.from(potential).sort();
  const low = sorted[0], high = sorted[Math.floor(0.97 * (sorted.length - 1))];
  const smooth = (row, column) => potential[column * n + (n - 1 - row)];
  return painted(n, RAMPS[theme()].loss, (row, column) => Math.sqrt(Math.max(0, (smooth(row, column) - low) / (high - low || 1))));
}

/** Where the implied loss is lowest, in the plane; null where it falls towards the edge. */
function lowestPoint({ potential, n }) {
  let best = 0;
  for (let i = 1; i < potential.length; i++) if (potential[i] < potential[best]) best = i;
  if ([Math.floor(best / n), best % n].some((i) => i < 2 || i > n - 3)) return null;
  const at = (i) => -ms.HALF_WIDTH + (2 * ms.HALF_WIDTH * i) / (n - 1);
  return [at(Math.floor(best / n)), at(best % n)];
}

/** Marching squares on the density's image at `highest - 4.494`: segments [x0, y0, x1, y1] in the plane. */
function contourOf({ image, size, highest }) {
  const level = highest - ms.CONTOUR, out = [];
  const x = (column) => ms.HALF_WIDTH * ((2 * (column + 0.5)) / size - 1), y = (row) => -ms.HALF_WIDTH * ((2 * (row + 0.5)) / size - 1);
  for (let row = 0; row + 1 < size; row++) {
    for (let column = 0; column + 1 < size; column++) {
      const a = image[row * size + column] - level, b = image[row * size + column + 1] - level;
      const c = image[(row + 1) * size + column + 1] - level, d = image[(row + 1) * size + column] - level;
      const kinds = (a > 0) + (b > 0) + (c > 0) + (d > 0);
      if (kinds === 0 || kinds === 4) continue;
      const cuts = [];
      if (a > 0 !== b > 0) cuts.push([column + a / (a - b), row]);
      if (b > 0 !== c > 0) cuts.push([column + 1, row + b / (b - c)]);
      if (d > 0 !== c > 0) cuts.push([column + d / (d - c), row + 1]);
      if (a > 0 !== d > 0) cuts.push([column, row + a / (a - d)]);
      for (let i = 0; i + 1 < cuts.length; i += 2) out.push([x(cuts[i][0]), y(cuts[i][1]), x(cuts[i + 1][0]), y(cuts[i + 1][1])]);
    }
  }
  return out;
}

/** Make a canvas fit its box at the screen's resolution; returns its context in CSS pixels and its width. */
function fitted(canvas) {
  const width = Math.max(1, canvas.clientWidth), ratio = Math.min(3, window.devicePixelRatio || 1);
  if (canvas.width !== Math.round(width * ratio)) canvas.width = canvas.height = Math.round(width * ratio);
  const context = canvas.getContext("2d");
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  return { context, width };
}

const toScreen = (width) => [(x) => (width * (x / ms.HALF_WIDTH + 1)) / 2, (y) => (width * (1 - y / ms.HALF_WIDTH)) / 2];

/** Draw one panel: background image, contour, trails, particles, the lowest loss and the probe. */
function drawPanel(canvas, { background, contour, frames, shown, trails, trail, jumps, lowest, probe, onData }) {
  const { context, width } = fitted(canvas), ink = INKS[theme()];
  const [sx, sy] = toScreen(width);
  context.clearRect(0, 0, width, width);
  if (background) {
    context.imageSmoothingEnabled = true;
    context.imageSmoothingQuality = "high";
    context.drawImage(background, 0, 0, width, width);
  }
  if (contour) {
    context.beginPath();
    for (const [x0, y0, x1, y1] of contour) {
      context.moveTo(sx(x0), sy(y0));
      context.lineTo(sx(x1), sy(y1));
    }
    for (const [colour, line, alpha] of [[ink.edge, 2.4, 0.35], [ink.soft, 0.9, 1]]) {
      context.globalAlpha = alpha;
      context.strokeStyle = colour;
      context.lineWidth = line;
      context.stroke();
    }
    context.globalAlpha = 1;
  }
  const points = frames[shown];
  if (!points) return;
  const n = points.length / 2;
  if (trails) context.drawImage(paintTrails(trail, frames, shown, width, jumps ? 0.1 : 0.24), 0, 0, width, width);
  const radius = n > 2000 ? 1.1 : n > 700 ? 1.5 : n > 100 ? 2 : 3;
  context.fillStyle = ink.edge;
  context.globalAlpha = 0.75;
  for (let i = 0; i < n && n <= 1200; i++) dot(context, sx(points[2 * i]), sy(points[2 * i + 1]), radius + 0.8);
  context.globalAlpha = 1;
  context.fillStyle = ink.point;
  for (let i = 0; i < n; i++) dot(context, sx(points[2 * i]), sy(points[2 * i + 1]), radius);
  if (lowest) marker(context, sx(lowest[0]), sy(lowest[1]), `lowest loss, ${onData ? "on" : "off"} the data`, width);
  if (probe) crosshair(context, sx(probe[0]), sy(probe[1]), ink);
}

/** Paths of at most 220 particles up to a frame, on a canvas of their own that grows by one step at a time; `trail` keeps it. */
function paintTrails(trail, frames, shown, width, alpha) {
  const ratio = Math.min(3, window.devicePixelRatio || 1), size = Math.round(width * ratio), ink = INKS[theme()];
  if (!trail.canvas || trail.upTo > shown || trail.size !== size || trail.ink !== ink || trail.start !== frames[0]) {
    trail.canvas ??= document.createElement("canvas");
    trail.canvas.width = trail.canvas.height = size;
    Object.assign(trail, { upTo: 0, size, ink, start: frames[0] });
  }
  const context = trail.canvas.getContext("2d"), [sx, sy] = toScreen(size);
  context.strokeStyle = ink.point;
  context.globalAlpha = alpha;
  context.lineWidth = 0.8 * ratio;
  const n = frames[0].length / 2, stride = Math.max(1, Math.ceil(n / 220));
  for (let t = trail.upTo + 1; t <= shown; t++) {
    context.beginPath();
    for (let i = 0; i < n; i += stride) {
      context.moveTo(sx(frames[t - 1][2 * i]), sy(frames[t - 1][2 * i + 1]));
      context.lineTo(sx(frames[t][2 * i]), sy(frames[t][2 * i + 1]));
    }
    context.stroke();
  }
  trail.upTo = shown;
  return trail.canvas;
}

function dot(context, x, y, radius) {
  context.beginPath();
  context.arc(x, y, radius, 0, 2 * Math.PI);
  context.fill();
}

/** A labelled ring. */
function marker(context, x, y, label, width) {
  context.font = "600 12px system-ui, sans-serif";
  const ink = INKS[theme()], size = context.measureText(label).width + 14;
  const left = x + 16 + size < width - 4 ? x + 16 : Math.max(4, x - 16 - size);
  const top = y < 30 ? y + 12 : y - 32;
  for (const [colour, line] of [[ink.edge, 4.5], [ink.line, 2]]) {
    context.lineWidth = line;
    context.strokeStyle = colour;
    context.beginPath();
    context.arc(x, y, 8, 0, 2 * Math.PI);
    context.stroke();
  }
  context.globalAlpha = 0.9;
  context.fillStyle = ink.edge;
  context.beginPath();
  context.roundRect(left, top, size, 21, 6);
  context.fill();
  context.globalAlpha = 1;
  context.fillStyle = ink.line;
  context.fillText(label, left + 7, top + 15);
}

function crosshair(context, x, y, ink) {
  for (const [colour, width] of [[ink.edge, 4], [ink.line, 1.6]]) {
    context.strokeStyle = colour;
    context.lineWidth = width;
    context.beginPath();
    for (const [dx, dy] of [[1, 0], [-1, 0], [0, 1], [0, -1]]) {
      context.moveTo(x + 4 * dx, y + 4 * dy);
      context.lineTo(x + 10 * dx, y + 10 * dy);
    }
    context.stroke();
  }
}

/** Draw the lens of one method: q as colour, its true mean, and fifty targets of the method. */
function drawLens(canvas, { x, y, half, image, size, truth, targets }) {
  const { context, width } = fitted(canvas), ink = INKS[theme()];
  const stops = theme() === "dark" ? ["#0f151c", "#1b4a52", "#3d9a90", "#a7ead2"] : ["#fbfaf6", "#bcd9d0", "#5aa49d", "#125062"];
  const sx = (v) => (width * ((v - x) / half + 1)) / 2, sy = (v) => (width * (1 - (v - y) / half)) / 2;
  context.drawImage(painted(size, stops, (row, column) => image[row * size + column] ** 0.6), 0, 0, width, width);
  let outside = 0;
  for (let i = 0; i < targets.length; i += 2) {
    const px = sx(targets[i]), py = sy(targets[i + 1]);
    if (px < 0 || py < 0 || px > width || py > width) outside++;
    context.fillStyle = ink.edge;
    dot(context, Math.min(width, Math.max(0, px)), Math.min(width, Math.max(0, py)), 4.2);
  }
  context.fillStyle = ink.draw;
  context.globalAlpha = 0.8;
  for (let i = 0; i < targets.length; i += 2) {
    dot(context, Math.min(width, Math.max(0, sx(targets[i]))), Math.min(width, Math.max(0, sy(targets[i + 1]))), 3);
  }
  context.globalAlpha = 1;
  crosshair(context, sx(x), sy(y), ink);
  const mx = sx(truth[0]), my = sy(truth[1]);
  for (const [colour, line] of [[ink.edge, 4.5], [ink.mean, 2]]) {
    context.strokeStyle = colour;
    context.lineWidth = line;
    context.beginPath();
    context.moveTo(mx - 6, my - 6);
    context.lineTo(mx + 6, my + 6);
    context.moveTo(mx + 6, my - 6);
    context.lineTo(mx - 6, my + 6);
    context.stroke();
  }
  return outside;
}
