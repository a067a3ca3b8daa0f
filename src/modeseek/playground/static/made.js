/* Mixtures made in the page: the ideal denoiser of a set of points, and a density drawn by hand. */
"use strict";

function madePart(ms) {
  const ROW = 7;

  /** Points as a mixture of zero variances, ordered along a Morton curve so that groups are compact: the ideal denoiser. */
  ms.empirical = (points) => {
    const n = points.length / 2;
    const spread = (v) => {
      let b = Math.max(0, Math.min(1023, Math.round((v + 4) * 128)));
      b = (b | (b << 8)) & 0x00ff00ff;
      b = (b | (b << 4)) & 0x0f0f0f0f;
      b = (b | (b << 2)) & 0x33333333;
      return (b | (b << 1)) & 0x55555555;
    };
    const keys = Float64Array.from({ length: n }, (_, i) => spread(points[2 * i]) + 2 * spread(points[2 * i + 1]));
    const order = Uint32Array.from({ length: n }, (_, i) => i).sort((i, j) => keys[i] - keys[j]);
    const rows = new Float64Array(n * ROW);
    order.forEach((i, k) => rows.set([1, points[2 * i], points[2 * i + 1], 1, 0, 0, 0], k * ROW));
    return new ms.Mixture(rows);
  };

  /** A drawn density: a stroke is a list of points (x, y); Gaussians of the given width lie along it, one alone for a dot. */
  ms.fromStrokes = (strokes, width = 0.03) => {
    const rows = [];
    for (const stroke of strokes) {
      if (stroke.length === 1) rows.push([6, stroke[0][0], stroke[0][1], 1, 0, width * width * 4, width * width * 4]);
      for (let i = 1; i < stroke.length; i++) {
        const [x0, y0] = stroke[i - 1], [x1, y1] = stroke[i];
        const length = Math.hypot(x1 - x0, y1 - y0);
        const pieces = Math.max(1, Math.round(length / (1.5 * width)));
        for (let j = 0; j < pieces && length > 0; j++) {
          const t = (j + 0.5) / pieces, along = (length / pieces) * 0.75;
          const middle = [x0 + t * (x1 - x0), y0 + t * (y1 - y0)];
          rows.push([length / pieces / width, ...middle, (x1 - x0) / length, (y1 - y0) / length, along * along, width * width]);
        }
      }
    }
    return new ms.Mixture(Float64Array.from(rows.flat()));
  };
}
