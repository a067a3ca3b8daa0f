/* Random numbers that depend on a seed, a step and a purpose alone, so that every panel can replay one noise stream.
 *
 * Each file of the mathematics is one function that adds to the object `ms`. The page calls them, and a worker is made of their
 * sources: scripts and workers then load from a file as well as from a server, where modules and worker files would not. */
"use strict";

function randomPart(ms) {
  /** xoshiro128** (Blackman & Vigna 2018) seeded by splitmix32; `uniform()` lies in [0, 1) with 32 bits. */
  ms.Random = class Random {
    constructor(seed, step = 0, purpose = 0) {
      let h = (seed ^ Math.imul(step + 1, 0x9e3779b9) ^ Math.imul(purpose + 1, 0x85ebca6b)) | 0;
      const word = () => {
        h = (h + 0x9e3779b9) | 0;
        let z = h ^ (h >>> 16);
        z = Math.imul(z, 0x21f0aaad);
        z ^= z >>> 15;
        z = Math.imul(z, 0x735a2d97);
        return z ^ (z >>> 15);
      };
      this.a = word();
      this.b = word();
      this.c = word();
      this.d = word() | 1;
    }

    uniform() {
      const scaled = Math.imul(this.b, 5);
      const result = Math.imul((scaled << 7) | (scaled >>> 25), 9);
      const t = this.b << 9;
      this.c ^= this.a;
      this.d ^= this.b;
      this.b ^= this.c;
      this.a ^= this.d;
      this.c ^= t;
      this.d = (this.d << 11) | (this.d >>> 21);
      return (result >>> 0) / 4294967296;
    }

    /** `count` draws of N(0, 1) by Marsaglia's polar method. */
    normals(count) {
      const out = new Float64Array(count);
      for (let i = 0; i < count; i += 2) {
        let u, v, square;
        do {
          u = 2 * this.uniform() - 1;
          v = 2 * this.uniform() - 1;
          square = u * u + v * v;
        } while (square >= 1 || square === 0);
        const scale = Math.sqrt((-2 * Math.log(square)) / square);
        out[i] = u * scale;
        if (i + 1 < count) out[i + 1] = v * scale;
      }
      return out;
    }

    uniforms(count) {
      const out = new Float64Array(count);
      for (let i = 0; i < count; i++) out[i] = this.uniform();
      return out;
    }
  };

  /** The noise of one step: normals and uniforms come from two streams, so methods that draw no levels see the same normals. */
  ms.stepNoise = (seed, step) => {
    const normal = new ms.Random(seed, step, 1);
    const uniform = new ms.Random(seed, step, 2);
    return { normals: (count) => normal.normals(count), uniforms: (count) => uniform.uniforms(count) };
  };

  /** The same noise for every one of `n` points: a field estimated with it is smooth in x. Levels are stratified over `samples`; normals
   *  come in pairs n, -n along a low-discrepancy sequence, so that few of them have nearly the right moments. */
  ms.commonNoise = (n, samples) => {
    let sample = 0, drawn = 0;
    return {
      normals: () => {
        const pair = Math.floor(drawn / 2) + 1, sign = drawn % 2 === 0 ? 1 : -1;
        drawn++;
        const radius = sign * Math.sqrt(-2 * Math.log(1 - ((pair * 0.7548776662466927) % 1)));
        const angle = 2 * Math.PI * ((pair * 0.5698402909980532) % 1);
        const out = new Float64Array(2 * n);
        for (let i = 0; i < n; i++) {
          out[2 * i] = radius * Math.cos(angle);
          out[2 * i + 1] = radius * Math.sin(angle);
        }
        return out;
      },
      uniforms: () => new Float64Array(n).fill((sample++ % samples) / samples + 0.5 / samples),
    };
  };

  /** Decode base64 into a typed array. */
  ms.decode = (text, Type) => {
    const binary = atob(text);
    const bytes = new Uint8Array(binary.length);
    for (let i = 0; i < binary.length; i++) bytes[i] = binary.charCodeAt(i);
    return new Type(bytes.buffer);
  };
}
