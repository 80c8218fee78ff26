"use strict";
/* Back propagation itself, as in gradtrace.theory.backprop, on arrays of float64, row by row.

     y(l) = a(W(l) y(l-1)),  or with a skip connection  y(l) = y(l-1) + alpha W(l) a(y(l-1))
     L'(l-1) = L'(l) a'(l) f'(l),  f'(l) = W(l),        dL/dW(l) = (L'(l) a'(l))^T y(l-1)

   A layer is {W: [outputs * inputs], inputs, outputs, activation, alpha}. */
(() => {
  const INPUTS = 0, STARTS = 1, WEIGHTS = 2;
  gt.BATCH = 16;

  /* Frobenius norm; scaled, as the square of 1e-200 is zero and that of 1e200 infinite. */
  gt.norm = (values) => {
    let most = 0, sum = 0;
    for (const value of values) most = Math.max(most, Math.abs(value));
    if (most === 0 || !Number.isFinite(most)) return most;
    for (const value of values) sum += (value / most) ** 2;
    return most * Math.sqrt(sum);
  };

  /* y W^T: [batch, inputs] to [batch, outputs]. */
  const product = (y, { W, inputs, outputs }) => {
    const batch = y.length / inputs, z = new Float64Array(batch * outputs);
    for (let b = 0; b < batch; b += 1)
      for (let o = 0; o < outputs; o += 1) {
        let sum = 0;
        for (let i = 0, w = o * inputs, k = b * inputs; i < inputs; i += 1) sum += W[w + i] * y[k + i];
        z[b * outputs + o] = sum;
      }
    return z;
  };

  /* g W: [batch, outputs] back to [batch, inputs]. */
  const back = (g, { W, inputs, outputs }) => {
    const batch = g.length / outputs, passed = new Float64Array(batch * inputs);
    for (let b = 0; b < batch; b += 1)
      for (let o = 0; o < outputs; o += 1) {
        const value = g[b * outputs + o];
        for (let i = 0, w = o * inputs, k = b * inputs; i < inputs; i += 1) passed[k + i] += value * W[w + i];
      }
    return passed;
  };

  const ofWeights = (g, y, { inputs, outputs }) => {
    const batch = g.length / outputs, dW = new Float64Array(outputs * inputs);
    for (let b = 0; b < batch; b += 1)
      for (let o = 0; o < outputs; o += 1) {
        const value = g[b * outputs + o];
        for (let i = 0, w = o * inputs, k = b * inputs; i < inputs; i += 1) dW[w + i] += value * y[k + i];
      }
    return dW;
  };

  /* All pre-activations z(1 ... L), and outputs y(0 ... L). */
  gt.forward = (layers, x) => {
    const zs = [], ys = [x];
    for (const layer of layers) {
      const before = ys[ys.length - 1], { a } = gt.functions[layer.activation], z = layer.alpha ? before : product(before, layer);
      const y = layer.alpha ? product(z.map(a), layer).map((value, k) => before[k] + layer.alpha * value) : z.map(a);
      zs.push(z);
      ys.push(y);
    }
    return { zs, ys };
  };

  /* From L'(L), in descending order of layers: |L'(l)|, |L'(l) a'(l)|, |L'(l-1)|, and with `learns` dL/dW(l).
     With a skip connection L'(l-1) = L'(l) + alpha L'(l) f'(l) a'(l), which is no product of a' and f': `after` is NaN. */
  gt.backward = (layers, { zs, ys }, gradient, learns = false) => {
    const steps = [];
    for (let l = layers.length - 1; l >= 0; l -= 1) {
      const layer = layers[l], { slope } = gt.functions[layer.activation], z = zs[l], { alpha } = layer;
      const after = alpha ? back(gradient, layer) : gradient.map((value, k) => value * slope(z[k]));
      const passed = alpha ? gradient.map((value, k) => value + alpha * slope(z[k]) * after[k]) : back(after, layer);
      steps.push({ norm: gt.norm(gradient), after: alpha ? NaN : gt.norm(after), passed: gt.norm(passed), dW: learns ? ofWeights(after, ys[l], layer) : null });
      gradient = passed;
    }
    return steps.reverse();
  };

  /* Mean of t y, and its gradient: the same wherever the network stands. */
  gt.meanProduct = (y, start) => ({ loss: y.reduce((sum, value, k) => sum + value * start[k] / y.length, 0), gradient: start.map((value) => value / y.length) });

  /* Mean squared distance, and its gradient. */
  gt.meanSquare = (y, target) => {
    let loss = 0;
    const gradient = y.map((value, k) => { loss += (value - target[k]) ** 2 / y.length; return 2 * (value - target[k]) / y.length; });
    return { loss, gradient };
  };

  /* Mean of -log softmax(y)[label] over the batch, and its gradient. */
  gt.crossEntropy = (y, labels, classes) => {
    const gradient = new Float64Array(y.length), batch = labels.length;
    let loss = 0;
    for (let b = 0; b < batch; b += 1) {
      const row = y.subarray(b * classes, (b + 1) * classes), most = Math.max(...row);
      let sum = 0;
      for (const value of row) sum += Math.exp(value - most);
      loss -= (row[labels[b]] - most - Math.log(sum)) / batch;
      for (let c = 0; c < classes; c += 1) gradient[b * classes + c] = (Math.exp(row[c] - most) / sum - (c === labels[b] ? 1 : 0)) / batch;
    }
    return { loss, gradient };
  };

  gt.layers = ({ activation, depth, sigma_w, width, alpha, seed }) => {
    const scale = sigma_w / Math.sqrt(width);
    return d3.range(1, depth + 1).map((l) => (
      { W: gt.gaussians(seed, WEIGHTS + l, width * width).map((value) => scale * value), inputs: width, outputs: width, activation, alpha }));
  };

  /* One backward pass of a setting's network. */
  gt.run = (setting) => {
    const { width, seed } = setting, layers = gt.layers(setting), made = gt.forward(layers, gt.gaussians(seed, INPUTS, gt.BATCH * width));
    const { loss, gradient } = gt.meanProduct(made.ys[made.ys.length - 1], gt.gaussians(seed, STARTS, gt.BATCH * width));
    return { ...made, loss, steps: gt.backward(layers, made, gradient) };
  };

  /* h(t) = tanh(W h(t-1) + x(t)), and |L'(h_t)| from the last state back to the first; the loss as above. */
  gt.runInTime = ({ num_steps, sigma_w, width, seed }, inputSize) => {
    const size = gt.BATCH * width, scale = sigma_w / Math.sqrt(width), xs = gt.gaussians(seed, INPUTS, num_steps * size);
    const layer = { W: gt.gaussians(seed, WEIGHTS, width * width).map((value) => scale * value), inputs: width, outputs: width };
    const states = [new Float64Array(size)];
    for (let t = 0; t < num_steps; t += 1) {
      const z = product(states[t], layer);
      for (let k = 0; k < size; k += 1) z[k] = Math.tanh(z[k] + inputSize * xs[t * size + k]);
      states.push(z);
    }
    let { gradient } = gt.meanProduct(states[num_steps], gt.gaussians(seed, STARTS, size));
    const norms = [gt.norm(gradient)], slopes = [];
    for (let t = num_steps; t > 0; t -= 1) {
      const after = gradient.map((value, k) => value * (1 - states[t][k] ** 2));
      slopes.push(gt.norm(after) / norms[norms.length - 1]);
      gradient = back(after, layer);
      norms.push(gt.norm(gradient));
    }
    return { norms: norms.reverse(), slopes: slopes.reverse(), states, singular: gt.largestSingular(layer) };
  };

  /* The largest singular value by power iteration on W^T W. */
  gt.largestSingular = (layer) => {
    let v = new Float64Array(layer.inputs).fill(1), size = 0;
    for (let i = 0; i < 200; i += 1) {
      const u = back(product(v, layer), layer), norm = gt.norm(u);
      if (norm === 0) return 0;
      size = Math.sqrt(norm / gt.norm(v));
      v = u.map((value) => value / norm);
    }
    return size;
  };
})();
