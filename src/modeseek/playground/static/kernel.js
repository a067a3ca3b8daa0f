/* The inner loop of score.js in WebAssembly, two points at a time: nearly twice as fast. Without WebAssembly (or its vector
 * instructions) `ms.kernel` is null and the loop in score.js does the same. The source is kernel.wat in the package, compiled by wat2wasm. */
"use strict";

function kernelPart(ms) {
  const BYTES = [
    "AGFzbQEAAAABHgNgBHt7f38Be2ADf39/AX9gC39/f39/f39/f398AAMEAwABAgUDAQABBxQCBm1lbW9yeQIAB2Rlbm9pc2UAAgqYCgOZAQEDe0QAAAAAAA",
    "Dw//0UIQQDQCAAIAL9CgMA/fEBIQUgASAC/QoDCP3xASEGIAQgAv0KAyhEAAAAAAAA4D/9FCAFIAL9CgMQIAX98gEgAv0KAxggBv3yAf3wAf3yASAGIAL9",
    "CgMYIAX98gEgAv0KAyAgBv3yAf3wAf3yAf3wAf3yAf3wAf33ASEEIAJBMGoiAiADSQ0ACyAECyIBAX8gAEEBakEDdCEDIAMgAksEQCACIQMLIAEgA0EwbG",
    "oL1wgDEnsGfwJ8A0AgAP0ABAAhCyAA/QAEECEMIAsgDP0NAAECAwQFBgcQERITFBUWFyENIAsgDP0NCAkKCwwNDg8YGRobHB0eHyEOQQAhHUEAISFBACEi",
    "RAAAAAAAAPD/ISNEAAAAAAAA8P8hJANAIAYgHUEYbGohICANICD9CgMA/fEBIQ8gDiAg/QoDCP3xASEQRAAAAAAAAAAA/RQgDyAP/fIBIBAgEP3yAf3wAf",
    "3vASAg/QoDEP3xAf33ASETIAUgHUEEdGohICAg/QoDACAg/QoDCCATIBP98gH98gH98AEhEyAHIB1BBHRqIBP9CwQAIBP9IQAgI2QEQCAT/SEAISMgHSEh",
    "CyAT/SEBICRkBEAgE/0hASEkIB0hIgsgHUEBaiIdIAhJDQALIA0gDiADICFBgANsaiAhIAMgBBABEAAgDSAOIAMgIkGAA2xqICIgAyAEEAEQAP33ASEWA0",
    "AgFkQAAAAAAAAxQP0U/fEBIRdEAAAAAAAAAAD9FCEYRAAAAAAAAAAA/RQhGUQAAAAAAAAAAP0UIRpEAAAAAAAAAAD9FCEbQQAhHQNAIAcgHUEEdGr9AAQA",
    "IBf9TP1TBEAgAyAdQYADbGohHiAdIAMgBBABIR8DQCANIB79CgMA/fEBIQ8gDiAe/QoDCP3xASEQIB79CgMYIQsgHv0KAxAgD/3yASALIBD98gH98AEhES",
    "ALIA/98gEgHv0KAyAgEP3yAf3wASESIB79CgMoRAAAAAAAAOA//RQgESAP/fIBIBIgEP3yAf3wAf3yAf3wASAX/fEBIRMgGCAT/fcBIRggE0QAAAAAAAAA",
    "AP0U/Uz9UwRAIBNEAAAAAAAAAAD9FP33AUQAAAAAAABBQP0U/fYBIQsgC0QAAAAAAABQQP0U/fIBRAAAAAAAADhD/RT98AEhFSALRAAAAAAAAJA//RQgFU",
    "QAAAAAAAA4Q/0U/fEB/fIB/fEBIRQgCSAV/RsCQQN0aiAJIBX9GwBBA3Rq/V0DAP1XAwABIRxEVVVVVVVVxT/9FCAURFVVVVVVVaU//RT98gH98AEhDEQA",
    "AAAAAADgP/0UIBQgDP3yAf3wASEMRAAAAAAAAPA//RQgFCAM/fIB/fABIQxEAAAAAAAA8D/9FCAUIAz98gH98AEhDCAcIAz98gEgE0QAAAAAAAAAAP0U/U",
    "z9TiEcIBkgHP3wASEZIBogHCAR/fIB/fABIRogGyAcIBL98gH98AEhGwsgHkEwaiIeIB9JDQALCyAdQQFqIh0gCEkNAAsgGEQAAAAAAABBQP0U/Ur9UwRA",
    "IBYgGCAX/fAB/fcBIRYMAQsLIA0gCv0UIBr98gEgGf3zAf3wASELIA4gCv0UIBv98gEgGf3zAf3wASEMIAEgCyAM/Q0AAQIDBAUGBxAREhMUFRYX/QsEAC",
    "ABIAsgDP0NCAkKCwwNDg8YGRobHB0eH/0LBBAgAEEgaiEAIAFBIGohASACQQFrIgINAAsL",
  ].join("");

  /** `denoise(mixture, level, table, x, sigma, out)`, or null. */
  ms.kernel = null;
  try {
    const instance = new WebAssembly.Instance(new WebAssembly.Module(ms.decode(BYTES, Uint8Array)));
    const { memory, denoise } = instance.exports;
    ms.kernel = (mixture, level, table, x, sigma, out) => {
      const pairs = Math.ceil(x.length / 4), { count, groups } = mixture;
      let end = 0;
      const room = (numbers) => {
        const at = end;
        end += Math.ceil(numbers / 2) * 16; // whole vectors
        return at;
      };
      const parts = [table, mixture.circles, level.forms, level.bounds].map((values) => [room(values.length), values]);
      const [scratch, from, to] = [2 * groups, 4 * pairs, 4 * pairs].map(room);
      const missing = end - memory.buffer.byteLength;
      if (missing > 0) memory.grow(Math.ceil(missing / 65536));
      const heap = new Float64Array(memory.buffer);
      for (const [at, values] of parts) heap.set(values, at / 8);
      heap.set(x, from / 8);
      if (x.length % 4 !== 0) heap.set(x.subarray(x.length - 2), from / 8 + x.length);
      const [[tableAt], [circles], [forms], [bounds]] = parts;
      denoise(from, to, pairs, forms, count, bounds, circles, scratch, groups, tableAt, sigma * sigma);
      out.set(heap.subarray(to / 8, to / 8 + x.length));
      return out;
    };
  } catch {
    /* no WebAssembly here */
  }
}
