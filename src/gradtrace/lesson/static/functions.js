"use strict";
/* The activation functions a and their derivatives a' in float64, as in gradtrace.theory.nonlinearities. */
(() => {
  const sigmoid = (z) => (z >= 0 ? 1 / (1 + Math.exp(-z)) : Math.exp(z) / (1 + Math.exp(z)));
  const density = (z) => Math.exp(-0.5 * z * z) / Math.sqrt(2 * Math.PI);

  /* Phi(z) by its Taylor series (G. Marsaglia, 2004); beyond 8 it is 0 or 1 to sixteen digits. */
  const normal = (z) => {
    if (z < -8) return 0;
    if (z > 8) return 1;
    let sum = z, term = z, before = NaN;
    for (let i = 3; sum !== before; i += 2) {
      before = sum;
      term *= (z * z) / i;
      sum += term;
    }
    return 0.5 + sum * density(z);
  };

  /* `most` is max |a'|; the derivative at a kink is the one that autograd takes. */
  gt.functions = {
    sigmoid: { name: "sigmoid", a: sigmoid, slope: (z) => sigmoid(z) * sigmoid(-z) },
    tanh: { name: "tanh", a: Math.tanh, slope: (z) => 4 * sigmoid(2 * z) * sigmoid(-2 * z) },
    relu: { name: "ReLU", a: (z) => (z > 0 ? z : 0), slope: (z) => (z > 0 ? 1 : 0) },
    leaky_relu: { name: "leaky ReLU", a: (z) => (z > 0 ? z : 0.01 * z), slope: (z) => (z > 0 ? 1 : 0.01) },
    gelu: { name: "GELU", a: (z) => z * normal(z), slope: (z) => normal(z) + z * density(z) },
    silu: { name: "SiLU", a: (z) => z * sigmoid(z), slope: (z) => sigmoid(z) * (1 + z * sigmoid(-z)) },
    identity: { name: "none (linear)", a: (z) => z, slope: () => 1 },
  };
})();
