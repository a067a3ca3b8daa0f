/* Messages between the page and a worker, and how a worker is made. */
"use strict";

/** The worker's side: receives {kind, id, ...}, answers {id, ...}. One run a worker; fields are computed a few rows at a time. */
function workerPart(ms) {
  ms.serve = (scope) => {
    let data = null, run = null, wanted = new Map();
    const answer = (message, moved = []) => scope.postMessage(message, moved);
    const channel = new MessageChannel();
    const queue = [];
    channel.port1.onmessage = () => queue.shift()();
    const later = (work) => {
      queue.push(work);
      channel.port2.postMessage(0);
    };

    const handlers = {
      data: (message) => {
        data = message.data;
      },
      start: ({ id, method, settings }) => {
        run = new ms.Run(data, method, settings);
        answer({ id, points: Float32Array.from(run.x), index: 0, calls: 0, scores: run.scores(), highest: run.highest });
      },
      step: ({ id, scored }) => {
        const shown = run.step();
        const points = Float32Array.from(run.x);
        answer({ id, ...shown, points, scores: scored && shown.finite ? run.scores() : null }, [points.buffer]);
      },
      image: ({ id, settings, size }) => {
        const mixture = ms.mixtureOf(data, settings), image = new Float32Array(size * size), scratch = new Float64Array(2);
        let top = -Infinity;
        for (let row = 0; row < size; row++) {
          for (let column = 0; column < size; column++) {
            const x = ms.HALF_WIDTH * ((2 * (column + 0.5)) / size - 1), y = -ms.HALF_WIDTH * ((2 * (row + 0.5)) / size - 1);
            image[row * size + column] = mixture.point(x, y, 0, scratch, 0);
            top = Math.max(top, image[row * size + column]);
          }
        }
        const highest = settings.density === "own" ? mixture.highest() : data.mixtures[settings.density].highest;
        answer({ id, image, size, highest }, [image.buffer]);
      },
      probe: ({ id, method, settings, at }) => answer({ id, ...ms.probe(data, method, settings, at) }),
      field: ({ id, slot, method, settings, n, progress, particles }) => {
        wanted.set(slot, id);
        const field = new Float64Array(2 * n * n);
        const rows = (from) => {
          if (wanted.get(slot) !== id) return answer({ id, cancelled: true });
          const to = Math.min(n, from + 4);
          field.set(ms.fieldRows(data, method, settings, { n, progress, particles, from, to }), 2 * n * from);
          if (to < n) return later(() => rows(to));
          const spacing = (2 * ms.HALF_WIDTH) / (n - 1);
          const finite = field.every(Number.isFinite);
          const { potential, curl } = finite ? ms.integrate(field, n, spacing) : { potential: null, curl: NaN };
          answer({ id, n, potential, curl, progress });
        };
        rows(0);
      },
    };
    scope.onmessage = ({ data: message }) => {
      try {
        handlers[message.kind](message);
      } catch (error) {
        answer({ id: message.id, error: String(error && error.message) });
      }
    };
  };
}

const PARTS = [randomPart, kernelPart, scorePart, mixturePart, madePart, networkPart, samplersPart, gradientsPart, metricsPart, enginePart, workerPart];

/** The mathematics, for the page itself. */
const ms = {};
for (const part of PARTS) part(ms);

/** The page's side: `request(message)` resolves with the answer. */
class Helper {
  constructor(data) {
    const source = `"use strict"; const ms = {}; ${PARTS.map((part) => `(${part})(ms);`).join("\n")} ms.serve(self);`;
    const address = URL.createObjectURL(new Blob([source], { type: "text/javascript" }));
    this.worker = new Worker(address);
    URL.revokeObjectURL(address);
    this.waiting = new Map();
    this.next = 1;
    this.worker.onmessage = ({ data: message }) => {
      const { resolve, reject } = this.waiting.get(message.id);
      this.waiting.delete(message.id);
      if (message.error) reject(new Error(message.error));
      else resolve(message);
    };
    this.worker.onerror = () => hint("This browser refuses to start a worker from a script of the page; another browser or host will do.");
    this.worker.postMessage({ kind: "data", data });
  }

  request(message, moved = []) {
    const id = this.next++;
    return new Promise((resolve, reject) => {
      this.waiting.set(id, { resolve, reject });
      this.worker.postMessage({ ...message, id }, moved);
    });
  }

  close() {
    this.worker.terminate();
  }
}
