/* log p_sigma, its gradient and the denoiser of a Gaussian mixture in the plane (the package's densities/mixture.py).
 *
 * A component is a row (weight, mean x, mean y, axis x, axis y, variance along the axis, variance across it). With zero variances the
 * mixture is a set of points, whose denoiser is the ideal denoiser of the paper's Eq. 16.
 *
 * Speed: components are taken in groups of eight neighbours. A bound on a group's terms skips it where it lies more than CUT nats below
 * the largest term found, so a call costs about as many terms as matter at its level. What is skipped weighs less than 1e-6 in all. */
"use strict";

function scorePart(ms) {
  const GROUP = 8;
  const CUT = 17;
  const STEPS = 64;
  const ROW = 7;
  const LOG_2PI = Math.log(2 * Math.PI);

  // exp(t - CUT) for t in [0, 2 CUT] from a table and six terms of the series: relative error below 1e-13.
  const TABLE = Float64Array.from({ length: 2 * CUT * STEPS + 1 }, (_, i) => Math.exp(i / STEPS - CUT));

  /** The values that occur at least 16 times, each with the indices where. */
  const frequent = (values) => {
    const where = new Map();
    values.forEach((value, i) => {
      if (where.has(value)) where.get(value).push(i);
      else where.set(value, [i]);
    });
    return new Map([...where].filter(([, indices]) => indices.length >= 16));
  };

  ms.MixtureScore = class MixtureScore {
    /** rows: Float64Array of K rows of seven numbers; weights need not sum to 1. Neighbours in the list should be neighbours in space. */
    constructor(rows) {
      const count = rows.length / ROW;
      let total = 0;
      for (let k = 0; k < count; k++) total += rows[k * ROW];
      this.rows = Float64Array.from(rows);
      this.count = count;
      this.logWeights = new Float64Array(count);
      for (let k = 0; k < count; k++) {
        this.rows[k * ROW] /= total;
        this.logWeights[k] = Math.log(this.rows[k * ROW]);
      }
      this.groups = Math.ceil(count / GROUP);
      this.circles = new Float64Array(3 * this.groups); // centre and radius of each group's means
      for (let g = 0; g < this.groups; g++) this._circle(g);
      this.levels = new Map();
      this.bounds = new Float64Array(this.groups);
      this.kept = new Int32Array(count);
      this.terms = new Float64Array(count);
      this.heaviest = this.logWeights.reduce((a, b) => Math.max(a, b), -Infinity);
      this.narrow = [Infinity, Infinity];
      this.wide = 0;
      for (let r = 0; r < count * ROW; r += ROW) {
        this.narrow = [Math.min(this.narrow[0], rows[r + 5]), Math.min(this.narrow[1], rows[r + 6])];
        this.wide = Math.max(this.wide, rows[r + 5], rows[r + 6]);
      }
    }

    _circle(g) {
      const from = g * GROUP;
      const to = Math.min(from + GROUP, this.count);
      let x = 0, y = 0, radius = 0;
      for (let k = from; k < to; k++) {
        x += this.rows[k * ROW + 1] / (to - from);
        y += this.rows[k * ROW + 2] / (to - from);
      }
      for (let k = from; k < to; k++) radius = Math.max(radius, Math.hypot(this.rows[k * ROW + 1] - x, this.rows[k * ROW + 2] - y));
      this.circles.set([x, y, radius], 3 * g);
    }

    /** Coefficients of every component's quadratic form at level sigma: (mx, my, hxx, hxy, hyy, c) so that a term is
     *  c + (hxx dx^2 + 2 hxy dx dy + hyy dy^2) / 2; and of each group's bound. The last few levels are kept. */
    prepared(sigma) {
      const found = this.levels.get(sigma);
      if (found !== undefined) return found;
      const { rows, count, groups } = this;
      const forms = new Float64Array(6 * count);
      const bounds = new Float64Array(2 * groups);
      const s2 = sigma * sigma;
      for (let g = 0; g < groups; g++) {
        let highest = -Infinity, widest = 0;
        for (let k = g * GROUP; k < Math.min((g + 1) * GROUP, count); k++) {
          const r = k * ROW;
          const ax = rows[r + 3], ay = rows[r + 4];
          const v1 = rows[r + 5] + s2, v2 = rows[r + 6] + s2;
          const i1 = 1 / v1, i2 = 1 / v2;
          const c = this.logWeights[k] - 0.5 * Math.log(v1 * v2) - LOG_2PI;
          forms[6 * k] = rows[r + 1];
          forms[6 * k + 1] = rows[r + 2];
          forms[6 * k + 2] = -(i1 * ax * ax + i2 * ay * ay);
          forms[6 * k + 3] = -(i1 - i2) * ax * ay;
          forms[6 * k + 4] = -(i1 * ay * ay + i2 * ax * ax);
          forms[6 * k + 5] = c;
          highest = Math.max(highest, c);
          widest = Math.max(widest, v1, v2);
        }
        bounds[2 * g] = highest;
        bounds[2 * g + 1] = -0.5 / widest;
      }
      if (this.levels.size > 128) this.levels.clear();
      const level = { forms, bounds };
      this.levels.set(sigma, level);
      return level;
    }

    /** log p_sigma and its gradient at one point: writes the gradient to out[o], out[o + 1] and returns log p_sigma. */
    point(x, y, sigma, out, o) {
      const { forms, bounds } = this.prepared(sigma);
      return this._point(x, y, forms, bounds, out, o);
    }

    _point(x, y, forms, bounds, out, o) {
      const { circles, groups, count } = this;
      const groupBounds = this.bounds;
      let best = 0, bestBound = -Infinity;
      for (let g = 0; g < groups; g++) {
        const dx = x - circles[3 * g], dy = y - circles[3 * g + 1], radius = circles[3 * g + 2];
        const square = dx * dx + dy * dy;
        let bound = bounds[2 * g];
        if (square > radius * radius) {
          const gap = Math.sqrt(square) - radius;
          bound += bounds[2 * g + 1] * gap * gap;
        }
        groupBounds[g] = bound;
        if (bound > bestBound) {
          bestBound = bound;
          best = g;
        }
      }
      // The largest term of the most promising group is the reference of the exponentials, which makes one pass enough.
      let reference = -Infinity;
      for (let f = 6 * GROUP * best, to = 6 * Math.min((best + 1) * GROUP, count); f < to; f += 6) {
        const dx = x - forms[f], dy = y - forms[f + 1];
        const u = forms[f + 2] * dx + forms[f + 3] * dy, v = forms[f + 3] * dx + forms[f + 4] * dy;
        const term = forms[f + 5] + 0.5 * (u * dx + v * dy);
        if (term > reference) reference = term;
      }
      for (;;) {
        const floor = reference - CUT;
        let sum = 0, gx = 0, gy = 0, above = reference;
        for (let g = 0; g < groups; g++) {
          if (groupBounds[g] < floor) continue;
          for (let f = 6 * GROUP * g, to = 6 * Math.min((g + 1) * GROUP, count); f < to; f += 6) {
            const dx = x - forms[f], dy = y - forms[f + 1];
            const u = forms[f + 2] * dx + forms[f + 3] * dy, v = forms[f + 3] * dx + forms[f + 4] * dy;
            const t = forms[f + 5] + 0.5 * (u * dx + v * dy) - floor;
            if (t < 0) continue;
            if (t > 2 * CUT) {
              above = Math.max(above, t + floor);
              continue;
            }
            const index = (t * STEPS) | 0;
            const r = t - index / STEPS;
            const share = TABLE[index] * (1 + r * (1 + r * (0.5 + r * (1 / 6 + r * (1 / 24 + r * (1 / 120))))));
            sum += share;
            gx += share * u;
            gy += share * v;
          }
        }
        if (above > reference) {
          reference = above; // a term too large for the table: start again from it
          continue;
        }
        out[o] = gx / sum;
        out[o + 1] = gy / sum;
        return reference + Math.log(sum);
      }
    }

    /** The same at a level that few points share: nothing is prepared, and the bound of a group is looser. */
    _single(x, y, sigma, out, o) {
      const { rows, logWeights, circles, groups, count, kept, terms } = this;
      const s2 = sigma * sigma, highest = this.heaviest - 0.5 * Math.log((this.narrow[0] + s2) * (this.narrow[1] + s2));
      const slope = -0.5 / (this.wide + s2);
      const groupBounds = this.bounds;
      let best = 0;
      for (let g = 0; g < groups; g++) {
        const gap = Math.max(0, Math.hypot(x - circles[3 * g], y - circles[3 * g + 1]) - circles[3 * g + 2]);
        groupBounds[g] = highest + slope * gap * gap;
        if (groupBounds[g] > groupBounds[best]) best = g;
      }
      let top = -Infinity, number = 0;
      for (let turn = -1; turn < groups; turn++) {
        const g = turn < 0 ? best : turn; // the nearest group first
        if (turn === best || groupBounds[g] < top - CUT) continue;
        for (let k = GROUP * g, to = Math.min(k + GROUP, count); k < to; k++) {
          const r = k * ROW;
          const dx = x - rows[r + 1], dy = y - rows[r + 2], ax = rows[r + 3], ay = rows[r + 4];
          const v1 = rows[r + 5] + s2, v2 = rows[r + 6] + s2;
          const u = dx * ax + dy * ay, v = dy * ax - dx * ay;
          const term = logWeights[k] - 0.5 * ((u * u) / v1 + (v * v) / v2 + Math.log(v1 * v2));
          if (term < top - CUT) continue;
          kept[number] = k;
          terms[number++] = term;
          if (term > top) top = term;
        }
      }
      let sum = 0, gx = 0, gy = 0;
      for (let i = 0; i < number; i++) {
        if (terms[i] < top - CUT) continue;
        const share = Math.exp(terms[i] - top), r = kept[i] * ROW;
        const dx = x - rows[r + 1], dy = y - rows[r + 2], ax = rows[r + 3], ay = rows[r + 4];
        const u = (share * (dx * ax + dy * ay)) / (rows[r + 5] + s2), v = (share * (dy * ax - dx * ay)) / (rows[r + 6] + s2);
        sum += share;
        gx -= u * ax - v * ay;
        gy -= u * ay + v * ax;
      }
      out[o] = gx / sum;
      out[o + 1] = gy / sum;
    }

    /** The denoiser D = x + sigma^2 grad log p_sigma of n points (2n numbers); sigma is a number or one per point. */
    denoise(x, sigma, out) {
      if (typeof sigma === "number") return this._batch(x, sigma, out);
      const shared = frequent(sigma);
      for (const [s, indices] of shared) {
        const some = new Float64Array(2 * indices.length);
        indices.forEach((i, k) => some.set([x[2 * i], x[2 * i + 1]], 2 * k));
        const found = this._batch(some, s, new Float64Array(some.length));
        indices.forEach((i, k) => out.set([found[2 * k], found[2 * k + 1]], 2 * i));
      }
      for (let i = 0; i < sigma.length; i++) {
        const s = sigma[i];
        if (shared.has(s)) continue;
        this._single(x[2 * i], x[2 * i + 1], s, out, 2 * i);
        out[2 * i] = x[2 * i] + s * s * out[2 * i];
        out[2 * i + 1] = x[2 * i + 1] + s * s * out[2 * i + 1];
      }
      return out;
    }

    _batch(x, sigma, out) {
      const level = this.prepared(sigma);
      if (ms.kernel !== null && x.length >= 32) return ms.kernel(this, level, TABLE, x, sigma, out);
      for (let i = 0; i < x.length; i += 2) {
        this._point(x[i], x[i + 1], level.forms, level.bounds, out, i);
        out[i] = x[i] + sigma * sigma * out[i];
        out[i + 1] = x[i + 1] + sigma * sigma * out[i + 1];
      }
      return out;
    }
  };
}
