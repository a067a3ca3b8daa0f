/* Scores of particles and the loss that a vector field implies (the package's metrics/). */
"use strict";

function metricsPart(ms) {
  /** Depth of the outlier contour below the largest log density. */
  ms.CONTOUR = 4.494;

  const kthNearest = (points, k) => {
    const n = points.length / 2, out = new Float64Array(n), nearest = new Float64Array(k);
    for (let i = 0; i < n; i++) {
      nearest.fill(Infinity);
      const x = points[2 * i], y = points[2 * i + 1];
      for (let j = 0; j < n; j++) {
        if (j === i) continue;
        const dx = points[2 * j] - x, dy = points[2 * j + 1] - y;
        let square = dx * dx + dy * dy;
        if (square >= nearest[k - 1]) continue;
        for (let m = 0; m < k; m++) {
          if (square < nearest[m]) [nearest[m], square] = [square, nearest[m]];
        }
      }
      out[i] = nearest[k - 1];
    }
    return out;
  };

  /** Squared radii of the balls of true points, to be kept: they depend on the true points alone. */
  ms.ballRadii = (truth, k = 3) => kthNearest(truth, k);

  /** Precision: share of generated points inside a true point's k-NN ball. Coverage: share of true balls with a generated point in them. */
  ms.precisionCoverage = (generated, truth, radii) => {
    const n = generated.length / 2, m = truth.length / 2;
    const hit = new Uint8Array(m);
    let inside = 0;
    for (let i = 0; i < n; i++) {
      const x = generated[2 * i], y = generated[2 * i + 1];
      let any = 0;
      for (let j = 0; j < m; j++) {
        const dx = truth[2 * j] - x, dy = truth[2 * j + 1] - y;
        if (dx * dx + dy * dy <= radii[j]) any = hit[j] = 1;
      }
      inside += any;
    }
    let covered = 0;
    for (let j = 0; j < m; j++) covered += hit[j];
    return { precision: inside / n, coverage: covered / m };
  };

  /** NLL (mean of -log p) and the share of points outside the contour log p = highest - 4.494. */
  ms.likelihood = (mixture, points, highest) => {
    const n = points.length / 2, unused = new Float64Array(2);
    let sum = 0, outside = 0;
    for (let i = 0; i < n; i++) {
      const value = mixture.point(points[2 * i], points[2 * i + 1], 0, unused, 0);
      sum -= value;
      if (value < highest - ms.CONTOUR) outside++;
    }
    return { nll: sum / n, outliers: outside / n };
  };

  /** The least-squares potential of a gradient field on an n x n grid, by the cosine transform (metrics/landscape.py).
   *  field: 2 n^2 numbers, (i, j) at x_i, y_j. Returns the potential, [i n + j], and the share of |g|^2 that it leaves unexplained. */
  ms.integrate = (field, n, spacing) => {
    const alongX = (i, j) => 0.5 * (field[2 * ((i + 1) * n + j)] + field[2 * (i * n + j)]);
    const alongY = (i, j) => 0.5 * (field[2 * (i * n + j + 1) + 1] + field[2 * (i * n + j) + 1]);
    const divergence = new Float64Array(n * n);
    for (let i = 0; i < n; i++) {
      for (let j = 0; j < n; j++) {
        const here = i * n + j;
        if (i + 1 < n) {
          const g = alongX(i, j);
          divergence[here] += g * spacing;
          divergence[here + n] -= g * spacing;
        }
        if (j + 1 < n) {
          const g = alongY(i, j);
          divergence[here] += g * spacing;
          divergence[here + 1] -= g * spacing;
        }
      }
    }
    const cosine = new Float64Array(n * n);
    for (let k = 0; k < n; k++) {
      const scale = Math.sqrt((k === 0 ? 1 : 2) / n);
      for (let i = 0; i < n; i++) cosine[k * n + i] = Math.cos((Math.PI * k * (i + 0.5)) / n) * scale;
    }
    const spectrum = sandwich(cosine, divergence, n, false);
    for (let k = 0; k < n; k++) {
      for (let l = 0; l < n; l++) {
        const eigenvalue = 2 * Math.cos((Math.PI * k) / n) - 2 + 2 * Math.cos((Math.PI * l) / n) - 2;
        spectrum[k * n + l] = k + l === 0 ? 0 : spectrum[k * n + l] / eigenvalue;
      }
    }
    const potential = sandwich(cosine, spectrum, n, true);
    let left = 0, size = 0;
    for (let i = 0; i < n; i++) {
      for (let j = 0; j < n; j++) {
        const here = i * n + j;
        if (i + 1 < n) {
          const g = alongX(i, j);
          left += ((potential[here + n] - potential[here]) / spacing - g) ** 2;
          size += g * g;
        }
        if (j + 1 < n) {
          const g = alongY(i, j);
          left += ((potential[here + 1] - potential[here]) / spacing - g) ** 2;
          size += g * g;
        }
      }
    }
    return { potential, curl: left / Math.max(size, 1e-300) };
  };

  /** C a C^T, or C^T a C. */
  function sandwich(c, a, n, transposed) {
    const half = new Float64Array(n * n), out = new Float64Array(n * n);
    const entry = transposed ? (row, i) => c[i * n + row] : (row, i) => c[row * n + i];
    for (let row = 0; row < n; row++) {
      for (let i = 0; i < n; i++) {
        const factor = entry(row, i);
        for (let j = 0; j < n; j++) half[row * n + j] += factor * a[i * n + j];
      }
    }
    for (let row = 0; row < n; row++) {
      for (let column = 0; column < n; column++) {
        let sum = 0;
        for (let j = 0; j < n; j++) sum += half[row * n + j] * entry(column, j);
        out[row * n + column] = sum;
      }
    }
    return out;
  }
}
