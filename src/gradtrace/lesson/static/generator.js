"use strict";
/* The same random numbers as gradtrace.lesson.generator: number i of a stream is a hash of (seed, stream, i). */
(() => {
  const GOLDEN = 0x9e3779b9;
  const mix = (x) => {
    x ^= x >>> 16;
    x = Math.imul(x, 0x21f0aaad);
    x ^= x >>> 15;
    x = Math.imul(x, 0x735a2d97);
    return x ^ (x >>> 15);
  };

  gt.uniforms = (seed, stream, count) => {
    const key = mix(mix((seed + GOLDEN) | 0) ^ stream), drawn = new Float64Array(count);
    for (let i = 0; i < count; i += 1) drawn[i] = ((mix(mix((key + Math.imul(i, GOLDEN)) | 0)) >>> 0) + 0.5) / 2 ** 32;
    return drawn;
  };

  const draw = (seed, stream, count) => {
    const even = 2 * Math.ceil(count / 2), u = gt.uniforms(seed, stream, even), drawn = new Float64Array(even);
    for (let i = 0; i < even; i += 2) {
      const radius = Math.sqrt(-2 * Math.log(u[i])), angle = 2 * Math.PI * u[i + 1];
      drawn[i] = radius * Math.cos(angle);
      drawn[i + 1] = radius * Math.sin(angle);
    }
    return drawn.subarray(0, count);
  };

  /* Standard normal numbers; the latest ones are kept, as a slider asks for the same again and again. */
  const kept = new Map();
  gt.gaussians = (seed, stream, count) => {
    const name = `${seed} ${stream} ${count}`;
    if (!kept.has(name)) {
      if (kept.size > 600) kept.clear();
      kept.set(name, draw(seed, stream, count));
    }
    return kept.get(name);
  };
})();
