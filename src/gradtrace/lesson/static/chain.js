"use strict";
/* Four layers of one unit: every factor is a number, and each step back is one line of arithmetic. */
gt.plots.chain = (place, data) => {
  const figure = place.closest("figure"), form = figure.querySelector("form"), said = figure.querySelector(".told"), write = gt.tableOf(figure);
  const { input, target, depth } = data, lines = gt.make("ol", { class: "lines" });
  let shown = depth, result = compute();
  const buttons = gt.make("div", { class: "tools", role: "group", "aria-label": "Step through the backward pass" });
  const start = gt.make("button", { type: "button" }, "Start at the loss"), next = gt.make("button", { type: "button" }, "One step back");
  start.addEventListener("click", () => { shown = 1; show(); });
  next.addEventListener("click", () => { shown = Math.min(depth, shown + 1); show(); });
  buttons.append(start, next);
  place.append(buttons);
  const redraw = gt.drawn(place, draw);
  place.append(lines);
  gt.listen(form, () => { result = compute(); show(); });
  show();

  function compute() {
    const setting = gt.read(form), layers = d3.range(1, depth + 1).map((l) => ({ W: Float64Array.of(setting[`w${l}`]), inputs: 1, outputs: 1, activation: setting.activation, alpha: 0 }));
    const made = gt.forward(layers, Float64Array.of(input)), { slope } = gt.functions[setting.activation], { loss, gradient } = gt.meanSquare(made.ys[depth], [target]);
    const ys = made.ys.map(([y]) => y), slopes = made.zs.map(([z]) => slope(z)), weights = layers.map((layer) => layer.W[0]), gradients = [gradient[0]];
    for (let l = depth - 1; l >= 0; l -= 1) gradients.unshift(gradients[0] * slopes[l] * weights[l]);
    return { setting, loss, ys, slopes, weights, gradients, learns: weights.map((_, l) => gradients[l + 1] * slopes[l] * ys[l]), measured: gt.measuredAt(data.measured, setting) };
  }

  function show() {
    next.disabled = shown === depth;
    redraw();
    const { gradients, slopes, weights, ys, loss, measured } = result, n = gt.nice;
    const told = [[`L′(${depth}) = 2 (y(${depth}) − t) = 2 (${n(ys[depth])} − ${n(target)})`, gradients[depth], depth]];
    for (let l = depth; l > 1; l -= 1)
      told.push([`L′(${l - 1}) = L′(${l}) · a′(${l}) · f′(${l}) = ${n(gradients[l])} · ${n(slopes[l - 1])} · ${n(weights[l - 1])}`, gradients[l - 1], l - 1]);
    lines.replaceChildren(...told.slice(0, shown).map(([words, value, l]) => gt.make("li", {}, gt.make("span", {}, `${words} = `), gt.make("b", {}, n(value)),
      measured ? gt.make("span", { class: "check" }, `gradtrace: ${n(gt.number(measured.gradients[l - 1]))}`) : "")));
    said.textContent = `The loss is ${n(loss)}. What arrives at layer 1 is ${gt.nice(Math.abs(gradients[1] / gradients[depth]))} of the gradient at layer ${depth}. Its weight gets dL/dW(1) = L′(1) a′(1) y(0) = ${gt.nice(result.learns[0])}.`;
    write(() => [["layer l", "y(l)", "a′(l)", "f′(l) = W(l)", "L′(l)", "dL/dW(l)", ...(measured ? ["L′(l) by gradtrace", "dL/dW(l) by gradtrace"] : [])],
      d3.range(depth, 0, -1).map((l) => [String(l), n(ys[l]), n(slopes[l - 1]), n(weights[l - 1]), n(gradients[l]), n(result.learns[l - 1]),
        ...(measured ? [n(gt.number(measured.gradients[l - 1])), n(gt.number(measured.learns[l - 1]))] : [])])]);
  }

  /* Above, the values on their way forward; below, a bar for each gradient, and the factors between them. */
  function draw(width) {
    const rem = gt.rem(), height = 16 * rem, { ys, slopes, weights, gradients } = result, x = d3.scalePoint().domain(d3.range(depth + 1)).range([1.75 * rem, width - 1.75 * rem]);
    const most = Math.max(...gradients.slice(1).map(Math.abs), 1e-300), top = 3.5 * rem, floor = height - 3.5 * rem, y = d3.scaleLinear().domain([0, most]).range([floor, top + 3.5 * rem]);
    const picture = gt.svg("svg", { width, height, role: "img", "aria-label": "Values going forward above, gradients coming back below" });
    const word = (at, up, words, look = "", anchor = "middle") => picture.append(gt.svg("text", { x: at, y: up, "text-anchor": anchor, class: look }, words));
    for (let l = 0; l <= depth; l += 1) {
      const at = x(l);
      if (l) picture.append(gt.svg("line", { class: "stem", x1: x(l - 1) + 0.7 * rem, x2: at - 0.7 * rem, y1: top, y2: top, "marker-end": "url(#arrow)" }));
      picture.append(gt.svg("circle", { class: "node", cx: at, cy: top, r: 0.5 * rem }));
      word(at, top - 1.9 * rem, `y(${l})`);
      word(at, top - 0.85 * rem, gt.short(ys[l]), "strong");
      if (l && depth - l < shown) {
        const bar = y(Math.abs(gradients[l]));
        picture.append(gt.svg("rect", { class: "bar", x: at - 0.9 * rem, width: 1.8 * rem, y: bar, height: floor - bar }));
        word(at, bar - 0.35 * rem, gt.short(gradients[l]), "strong");
        if (l < depth) word((at + x(l + 1)) / 2, height - 0.625 * rem, `${width < 28 * rem ? "" : "← "}×${gt.short(slopes[l] * weights[l])}`, "factor");
      }
      if (l) word(at, floor + 1.25 * rem, `L′(${l})`);
    }
    picture.append(gt.svg("line", { class: "axis", x1: x(0), x2: width - 0.5 * rem, y1: floor, y2: floor }));
    return picture;
  }
};
