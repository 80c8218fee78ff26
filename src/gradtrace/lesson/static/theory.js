"use strict";
/* What wide networks do on average, as in gradtrace.theory.mean_field: pre-activations are Gaussian, z ~ N(0, q), and

     q = sigma_w^2 E[y^2],        E[g^2] is multiplied per layer by chi = sigma_w^2 E[a'(z)^2];

   with a skip connection q = E[y^2] grows by alpha^2 sigma_w^2 E[a^2], and E[g^2] by the factor 1 + alpha^2 chi. */
(() => {
  const CELLS = 600, REACH = 9;  // midpoints of cells, of which one edge is the kink at zero

  /* E[a^2] and E[a'^2] over z ~ N(0, q). */
  gt.moments = (name, q) => {
    const { a, slope } = gt.functions[name], deviation = Math.sqrt(q), step = (2 * REACH) / CELLS;
    let second = 0, slopes = 0;
    for (let i = 0; i < CELLS; i += 1) {
      const x = -REACH + (i + 0.5) * step, weight = (step * Math.exp(-0.5 * x * x)) / Math.sqrt(2 * Math.PI);
      second += weight * a(deviation * x) ** 2;
      slopes += weight * slope(deviation * x) ** 2;
    }
    return { second, slopes };
  };

  /* Per layer l = 1 ... L the growth of E[g^2] from l to l-1, and q. */
  gt.growth = ({ activation, depth, sigma_w, alpha }) => {
    const layers = [];
    let second = 1, before = null, same = null;
    for (let l = 0; l < depth; l += 1) {
      const q = alpha ? second : sigma_w ** 2 * second;
      if (before === null || Math.abs(q / before - 1) > 1e-9) same = gt.moments(activation, q);
      before = q;
      const chi = sigma_w ** 2 * same.slopes;
      layers.push({ q, chi: alpha ? 1 + alpha ** 2 * chi : chi });
      second = alpha ? second + alpha ** 2 * sigma_w ** 2 * same.second : same.second;
    }
    return layers;
  };

  /* Decades of |L'(l)| / |L'(L)|, l = 1 ... L, that theory expects. */
  gt.expected = (setting) => {
    const layers = gt.growth(setting), decades = new Array(layers.length).fill(0);
    for (let l = layers.length - 2; l >= 0; l -= 1) decades[l] = decades[l + 1] + 0.5 * Math.log10(layers[l + 1].chi);
    return decades;
  };
})();
