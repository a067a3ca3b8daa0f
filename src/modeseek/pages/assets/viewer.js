/* A viewer of one .glb (glTF 2.0, y up) in WebGL: turn, move, zoom; several on one page may share a camera.
   It reads what a mesh export needs: nodes with matrices or TRS, triangles, POSITION, NORMAL, TEXCOORD_0, COLOR_0, one base colour texture. */
'use strict';
const Viewer = (() => {
  const identity = () => [1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1];
  const times = (a, b) => {  // column-major 4 x 4
    const c = new Array(16).fill(0);
    for (let i = 0; i < 4; i++) for (let j = 0; j < 4; j++) for (let k = 0; k < 4; k++) c[4 * j + i] += a[4 * k + i] * b[4 * j + k];
    return c;
  };
  const perspective = (fov, aspect, near, far) => {
    const f = 1 / Math.tan(fov / 2);
    return [f / aspect, 0, 0, 0, 0, f, 0, 0, 0, 0, (far + near) / (near - far), -1, 0, 0, 2 * far * near / (near - far), 0];
  };
  const local = (node) => {
    if (node.matrix) return node.matrix;
    const [x, y, z, w] = node.rotation || [0, 0, 0, 1], s = node.scale || [1, 1, 1], t = node.translation || [0, 0, 0];
    return [
      (1 - 2 * (y * y + z * z)) * s[0], 2 * (x * y + z * w) * s[0], 2 * (x * z - y * w) * s[0], 0,
      2 * (x * y - z * w) * s[1], (1 - 2 * (x * x + z * z)) * s[1], 2 * (y * z + x * w) * s[1], 0,
      2 * (x * z + y * w) * s[2], 2 * (y * z - x * w) * s[2], (1 - 2 * (x * x + y * y)) * s[2], 0,
      t[0], t[1], t[2], 1];
  };

  function parse(buffer) {
    const view = new DataView(buffer);
    if (buffer.byteLength < 20 || view.getUint32(0, true) !== 0x46546C67) throw new Error('this is no .glb file');
    let at = 12, json = null, bin = null;
    while (at + 8 <= buffer.byteLength) {
      const length = view.getUint32(at, true), kind = view.getUint32(at + 4, true);
      if (kind === 0x4E4F534A) json = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, at + 8, length)));
      if (kind === 0x004E4942) bin = at + 8;
      at += 8 + length;
    }
    const arrays = { 5120: Int8Array, 5121: Uint8Array, 5122: Int16Array, 5123: Uint16Array, 5125: Uint32Array, 5126: Float32Array };
    const widths = { SCALAR: 1, VEC2: 2, VEC3: 3, VEC4: 4 };
    const accessor = (index) => {
      const a = json.accessors[index], b = json.bufferViews[a.bufferView], Kind = arrays[a.componentType], n = widths[a.type];
      const start = bin + (b.byteOffset || 0) + (a.byteOffset || 0), stride = (b.byteStride || n * Kind.BYTES_PER_ELEMENT);
      const out = new Kind(a.count * n);
      for (let i = 0; i < a.count; i++) out.set(new Kind(buffer.slice(start + i * stride, start + i * stride + n * Kind.BYTES_PER_ELEMENT)), i * n);
      return { array: out, n, normalised: Kind !== Float32Array };
    };
    const image = (material) => {
      const chosen = json.materials?.[material]?.pbrMetallicRoughness?.baseColorTexture;
      if (!chosen) return null;
      const image = json.images[json.textures[chosen.index].source], b = json.bufferViews[image.bufferView];
      const start = bin + (b.byteOffset || 0);
      return createImageBitmap(new Blob([buffer.slice(start, start + b.byteLength)], { type: image.mimeType || 'image/png' }));
    };
    const parts = [];
    const walk = (index, above) => {
      const node = json.nodes[index], world = times(above, local(node));
      for (const p of node.mesh === undefined ? [] : json.meshes[node.mesh].primitives) {
        const a = p.attributes;
        parts.push({
          world, position: accessor(a.POSITION),
          normal: a.NORMAL === undefined ? null : accessor(a.NORMAL),
          uv: a.TEXCOORD_0 === undefined ? null : accessor(a.TEXCOORD_0),
          colour: a.COLOR_0 === undefined ? null : accessor(a.COLOR_0),
          index: p.indices === undefined ? null : accessor(p.indices).array,
          factor: json.materials?.[p.material]?.pbrMetallicRoughness?.baseColorFactor || [1, 1, 1, 1],
          image: image(p.material) });
      }
      for (const child of node.children || []) walk(child, world);
    };
    for (const root of json.scenes[json.scene || 0].nodes) walk(root, identity());
    return parts;
  }

  function smooth(part) {  // normals: the mean of the faces' around each place, vertices on texture seams together
    const p = part.position.array, index = part.index || Uint32Array.from({ length: p.length / 3 }, (_, k) => k);
    const place = new Map(), of = new Uint32Array(p.length / 3), sums = [];
    for (let k = 0; k < of.length; k++) {
      const key = `${p[3 * k]},${p[3 * k + 1]},${p[3 * k + 2]}`;
      if (!place.has(key)) { place.set(key, place.size); sums.push(0, 0, 0); }
      of[k] = place.get(key);
    }
    for (let f = 0; f < index.length; f += 3) {
      const [a, b, c] = [3 * index[f], 3 * index[f + 1], 3 * index[f + 2]];
      const u = [p[b] - p[a], p[b + 1] - p[a + 1], p[b + 2] - p[a + 2]], v = [p[c] - p[a], p[c + 1] - p[a + 1], p[c + 2] - p[a + 2]];
      const n = [u[1] * v[2] - u[2] * v[1], u[2] * v[0] - u[0] * v[2], u[0] * v[1] - u[1] * v[0]];
      for (let k = 0; k < 3; k++) for (let d = 0; d < 3; d++) sums[3 * of[index[f + k]] + d] += n[d];
    }
    const out = new Float32Array(p.length);
    for (let k = 0; k < of.length; k++) for (let d = 0; d < 3; d++) out[3 * k + d] = sums[3 * of[k] + d];
    return { array: out, n: 3, normalised: false };
  }

  const VERTEX = `#version 300 es
    in vec3 position; in vec3 normal; in vec2 uv; in vec4 colour; uniform mat4 world, camera; out vec3 n; out vec2 t; out vec4 c; out vec3 w;
    void main() { vec4 p = world * vec4(position, 1.0); w = p.xyz; n = mat3(world) * normal; t = uv; c = colour; gl_Position = camera * p; }`;
  const FRAGMENT = `#version 300 es
    precision highp float; in vec3 n; in vec2 t; in vec4 c; in vec3 w; out vec4 shown;
    uniform sampler2D image; uniform bool textured, plain, normals; uniform vec4 factor; uniform vec3 eye;
    void main() {
      vec3 m = normalize(n), v = normalize(eye - w); if (dot(m, v) < 0.0) m = -m;
      vec3 base = normals ? m * 0.5 + 0.5 : plain ? vec3(0.72) : (textured ? texture(image, t).rgb : c.rgb) * factor.rgb;
      float key = max(dot(m, normalize(v + vec3(0.35, 0.6, 0.2))), 0.0), sky = 0.5 + 0.5 * m.y;
      shown = vec4(normals ? base : base * (0.38 + 0.5 * key + 0.2 * sky), 1.0); }`;

  function compiled(gl) {
    const program = gl.createProgram();
    for (const [kind, text] of [[gl.VERTEX_SHADER, VERTEX], [gl.FRAGMENT_SHADER, FRAGMENT]]) {
      const shader = gl.createShader(kind);
      gl.shaderSource(shader, text); gl.compileShader(shader);
      if (!gl.getShaderParameter(shader, gl.COMPILE_STATUS)) throw new Error(gl.getShaderInfoLog(shader));
      gl.attachShader(program, shader);
    }
    gl.linkProgram(program); gl.useProgram(program);
    return program;
  }

  class Camera {  // one may serve several viewers
    constructor() { this.listeners = []; this.reset(); }
    reset() { Object.assign(this, { azimuth: 0.6, elevation: 0.35, distance: 1, shift: [0, 0] }); this.changed(); }
    changed() {
      this.elevation = Math.max(-1.55, Math.min(1.55, this.elevation));
      this.distance = Math.max(0.2, Math.min(6, this.distance));
      for (const listener of this.listeners) listener();
    }
  }

  class View {
    constructor(root, camera = new Camera()) {
      this.root = root; this.camera = camera; this.mode = 'colour'; this.parts = [];
      this.canvas = root.querySelector('canvas');
      this.gl = this.canvas.getContext('webgl2', { antialias: true, preserveDrawingBuffer: true });
      if (!this.gl) throw new Error('this browser has no WebGL 2');
      this.program = compiled(this.gl);
      camera.listeners.push(() => this.later());
      new ResizeObserver(() => this.later()).observe(this.canvas);
      this.controls();
    }

    async load(buffer) {
      const gl = this.gl, parts = parse(buffer);
      if (!parts.length) throw new Error('the file holds no mesh');
      this.box = [[Infinity, Infinity, Infinity], [-Infinity, -Infinity, -Infinity]];
      this.parts = [];
      for (const part of parts) {
        part.normal = part.normal || smooth(part);
        const p = part.position.array, m = part.world;
        for (let k = 0; k < p.length; k += 3) for (let d = 0; d < 3; d++) {
          const value = m[d] * p[k] + m[4 + d] * p[k + 1] + m[8 + d] * p[k + 2] + m[12 + d];
          this.box[0][d] = Math.min(this.box[0][d], value); this.box[1][d] = Math.max(this.box[1][d], value);
        }
        const array = gl.createVertexArray();
        gl.bindVertexArray(array);
        for (const [name, from] of [['position', part.position], ['normal', part.normal], ['uv', part.uv], ['colour', part.colour]]) {
          const where = gl.getAttribLocation(this.program, name);
          if (where < 0) continue;
          if (!from) { gl.disableVertexAttribArray(where); gl.vertexAttrib4f(where, 1, 1, 1, 1); continue; }
          gl.bindBuffer(gl.ARRAY_BUFFER, gl.createBuffer());
          gl.bufferData(gl.ARRAY_BUFFER, from.array, gl.STATIC_DRAW);
          const kind = { Uint8Array: gl.UNSIGNED_BYTE, Uint16Array: gl.UNSIGNED_SHORT, Float32Array: gl.FLOAT }[from.array.constructor.name];
          gl.enableVertexAttribArray(where); gl.vertexAttribPointer(where, from.n, kind, from.normalised, 0, 0);
        }
        const index = Uint32Array.from(part.index || Array.from({ length: p.length / 3 }, (_, k) => k));
        gl.bindBuffer(gl.ELEMENT_ARRAY_BUFFER, gl.createBuffer());
        gl.bufferData(gl.ELEMENT_ARRAY_BUFFER, index, gl.STATIC_DRAW);
        const image = await part.image, texture = image && gl.createTexture();
        if (texture) {
          gl.bindTexture(gl.TEXTURE_2D, texture);
          gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA, gl.RGBA, gl.UNSIGNED_BYTE, image);
          gl.generateMipmap(gl.TEXTURE_2D);
        }
        this.parts.push({ array, texture, count: index.length, world: part.world, factor: part.factor });
      }
      this.root.dataset.triangles = this.parts.reduce((n, part) => n + part.count / 3, 0);
      this.draw();
      this.root.dataset.ready = 'true';
    }

    later() { if (!this.scheduled) { this.scheduled = true; requestAnimationFrame(() => { this.scheduled = false; this.draw(); }); } }

    draw() {
      const { gl, canvas, camera } = this, scale = Math.min(2, devicePixelRatio || 1);
      const width = Math.max(1, Math.round(canvas.clientWidth * scale)), height = Math.max(1, Math.round(canvas.clientHeight * scale));
      if (canvas.width !== width || canvas.height !== height) { canvas.width = width; canvas.height = height; }
      gl.viewport(0, 0, width, height);
      gl.clearColor(0, 0, 0, 0); gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT); gl.enable(gl.DEPTH_TEST);
      if (!this.parts.length) return;
      const middle = this.box[0].map((low, d) => (low + this.box[1][d]) / 2);
      const size = Math.hypot(...this.box[0].map((low, d) => this.box[1][d] - low)) / 2 || 1;
      const far = 2.9 * size * camera.distance / Math.min(1, width / height);
      const [ca, sa, ce, se] = [Math.cos(camera.azimuth), Math.sin(camera.azimuth), Math.cos(camera.elevation), Math.sin(camera.elevation)];
      const back = [ce * sa, se, ce * ca], right = [ca, 0, -sa], up = [-se * sa, ce, -se * ca];
      const target = middle.map((v, d) => v - camera.shift[0] * size * right[d] - camera.shift[1] * size * up[d]);
      const eye = target.map((v, d) => v + far * back[d]), dot = (a) => a[0] * eye[0] + a[1] * eye[1] + a[2] * eye[2];
      const view = [right[0], up[0], back[0], 0, right[1], up[1], back[1], 0, right[2], up[2], back[2], 0, -dot(right), -dot(up), -dot(back), 1];
      const at = (name) => gl.getUniformLocation(this.program, name);
      gl.uniformMatrix4fv(at('camera'), false, times(perspective(0.75, width / height, far / 100, far + 4 * size), view));
      gl.uniform3fv(at('eye'), eye);
      gl.uniform1i(at('plain'), this.mode === 'shape'); gl.uniform1i(at('normals'), this.mode === 'normals');
      for (const part of this.parts) {
        gl.bindVertexArray(part.array);
        gl.uniformMatrix4fv(at('world'), false, part.world); gl.uniform4fv(at('factor'), part.factor); gl.uniform1i(at('textured'), !!part.texture);
        if (part.texture) gl.bindTexture(gl.TEXTURE_2D, part.texture);
        gl.drawElements(gl.TRIANGLES, part.count, gl.UNSIGNED_INT, 0);
      }
    }

    controls() {
      const { canvas, camera } = this, down = new Map();
      let spread = 0;
      canvas.addEventListener('pointerdown', (e) => { canvas.setPointerCapture(e.pointerId); down.set(e.pointerId, [e.clientX, e.clientY]); spread = 0; });
      for (const name of ['pointerup', 'pointercancel']) canvas.addEventListener(name, (e) => { down.delete(e.pointerId); spread = 0; });
      canvas.addEventListener('pointermove', (e) => {
        if (!down.has(e.pointerId)) return;
        const [x, y] = down.get(e.pointerId), [dx, dy] = [(e.clientX - x) / canvas.clientHeight, (e.clientY - y) / canvas.clientHeight];
        down.set(e.pointerId, [e.clientX, e.clientY]);
        if (down.size === 2) {
          const [a, b] = [...down.values()], now = Math.hypot(a[0] - b[0], a[1] - b[1]);
          if (spread) camera.distance *= spread / now;
          spread = now;
        } else if (e.shiftKey || e.buttons === 2) {
          camera.shift = [camera.shift[0] + 2 * dx * camera.distance, camera.shift[1] - 2 * dy * camera.distance];
        } else { camera.azimuth -= 4 * dx; camera.elevation += 4 * dy; }
        camera.changed();
      });
      canvas.addEventListener('contextmenu', (e) => e.preventDefault());
      canvas.addEventListener('wheel', (e) => { e.preventDefault(); camera.distance *= Math.exp(e.deltaY / 700); camera.changed(); }, { passive: false });
      canvas.addEventListener('dblclick', () => camera.reset());
      canvas.addEventListener('keydown', (e) => {
        const moves = {
          ArrowLeft: () => { camera.azimuth -= 0.12; }, ArrowRight: () => { camera.azimuth += 0.12; },
          ArrowUp: () => { camera.elevation += 0.1; }, ArrowDown: () => { camera.elevation -= 0.1; },
          '+': () => { camera.distance /= 1.1; }, '=': () => { camera.distance /= 1.1; }, '-': () => { camera.distance *= 1.1; }, 0: () => camera.reset() };
        if (moves[e.key]) { e.preventDefault(); moves[e.key](); camera.changed(); }
      });
      for (const button of this.root.querySelectorAll('button[data-mode]')) button.addEventListener('click', () => {
        this.mode = button.dataset.mode;
        for (const other of this.root.querySelectorAll('button[data-mode]')) other.setAttribute('aria-pressed', String(other === button));
        this.later();
      });
      this.root.querySelector('button[data-reset]')?.addEventListener('click', () => camera.reset());
    }
  }

  const bytes = (text) => Uint8Array.from(atob(text.trim()), (c) => c.charCodeAt(0)).buffer;
  const cameras = {};
  const views = [];
  for (const root of document.querySelectorAll('.viewer')) {
    const note = root.querySelector('.note');
    try {
      const camera = cameras[root.dataset.camera] ||= new Camera();
      const view = new View(root, camera);
      views.push(view);
      const fail = (error) => { note.textContent = `The mesh cannot be shown: ${error.message}.`; root.dataset.ready = 'failed'; };
      const payload = document.getElementById(root.dataset.mesh);
      if (payload) view.load(bytes(payload.textContent)).catch(fail);
      root.addEventListener('dragover', (e) => e.preventDefault());
      root.addEventListener('drop', async (e) => { e.preventDefault(); const file = e.dataTransfer.files[0]; if (file) view.load(await file.arrayBuffer()).catch(fail); });
    } catch (error) { note.textContent = `The mesh cannot be shown: ${error.message}.`; root.dataset.ready = 'failed'; }
  }
  return { views, cameras, parse };
})();
