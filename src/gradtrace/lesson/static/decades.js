"use strict";
/* The gradient by layer, in decades of the last layer's: whole, activations alone, weights alone, bound and theory. */
(() => {
  const log = Math.log10;

  gt.product = (setting) => {
    const { steps, zs, loss } = gt.run(setting), depth = steps.length, whole = new Array(depth).fill(0), slopes = [...whole], bound = [...whole];
    const most = gt.mostSlope(setting.activation);
    for (let l = depth - 2; l >= 0; l -= 1) {
      const above = steps[l + 1];
      whole[l] = log(steps[l].norm) - log(steps[depth - 1].norm);
      slopes[l] = slopes[l + 1] + log(above.after / above.norm);
      bound[l] = bound[l + 1] + log(most);
    }
    const weights = whole.map((decades, l) => decades - slopes[l]);
    return { setting, loss, zs, steps, whole, slopes, weights, bound, expected: gt.expected(setting), layers: d3.range(1, depth + 1) };
  };


  gt.plots.decades = (place, data) => {
    const plain = !data.parts;
    gt.chapter(place, data.setting, {
      compute: (setting) => {
        const result = gt.product(setting);
        return { ...result, measured: gt.measuredAt(data.measured, setting), twin: data.twin && setting.alpha ? gt.product({ ...setting, alpha: 0 }) : null };
      },
      legend: (result) => [
        ["thin ink", "gradient |L′(l)|"],
        ...(plain || result.setting.alpha ? [] : [["thin dashed two", "activations alone: product of a′"], ["thin dashed one", "weights alone: product of f′"]]),
        ...(data.bound ? [["thin bound", "bound of the activations: (max a′)ᵏ"]] : []),
        ...(result.twin ? [["thin four", "the same without skip connections"]] : []),
        ["thin dashed expected", "theory for wide layers"],
        ...(result.measured ? [["dot-swatch", "measured by gradtrace"]] : []),
      ],
      draw: (width, result) => {
        const { layers, whole, slopes, weights, bound, expected, measured, twin } = result, rem = gt.rem(), depth = layers.length;
        const seen = [...whole, ...expected, ...(plain ? [] : [...slopes, ...weights]), ...(data.bound ? bound : []), ...(twin ? twin.whole : [])];
        const limits = (data.limits ?? []).filter(([, at]) => at < 1.6 * Math.max(4, ...seen.filter(Number.isFinite)));
        const axes = gt.axes(width, 20 * rem, { scale: d3.scaleLinear().domain([1, Math.max(depth, 2)]), label: "← layer l, the way of the gradient", format: String, ticks: gt.wholeTicks(1, depth, width) },
          gt.decadeAxis([...seen, ...limits.map(([, at]) => at)]), `Gradient by layer in decades; ${told(result)}`);
        gt.level(axes, 0, "level", "");
        for (const [words, at] of limits) gt.level(axes, at, "limit", words);
        if (!plain) for (const [values, look] of [[slopes, "dashed two"], [weights, "dashed one"]]) gt.line(axes, pairs(values), look);
        if (data.bound) gt.line(axes, pairs(bound), "bound");
        if (twin) gt.line(axes, pairs(twin.whole), "four");
        gt.line(axes, pairs(expected), "expected");
        gt.line(axes, pairs(whole), "ink");
        if (measured) gt.dots(axes, pairs(measured.decades.map(gt.number)));
        gt.follow(axes, layers, (i) => [`layer ${layers[i]}`, [["gradient", gt.times(whole[i])], ["decades", gt.decades(whole[i])], ["activations alone", gt.decades(slopes[i])],
          ["weights alone", gt.decades(weights[i])], ["bound of the activations", gt.decades(bound[i])], ["theory", gt.decades(expected[i])]]]);
        return axes.picture;
      },
      told,
      table: ({ layers, whole, slopes, weights, bound, expected, steps, measured }) => [
        ["layer l", "|L′(l)|", "decades", "activations alone", "weights alone", "bound of the activations", "theory", ...(measured ? ["measured by gradtrace"] : [])],
        layers.map((layer, i) => [String(layer), gt.short(steps[i].norm), ...[whole, slopes, weights, bound, expected].map((values) => gt.decades(values[i])),
          ...(measured ? [gt.decades(gt.number(measured.decades[i]))] : [])]).reverse()],
    });

    function pairs(values) { return values.map((value, i) => [i + 1, value]); }

    function told({ whole, slopes, weights, layers, measured, twin, setting }) {
      const count = layers.length - 1, [total] = whole, deep = whole.findIndex((decades) => decades > -3), left = deep > 0 ? ` It falls under a thousandth ${layers.length - deep} layers below the last.` : "";
      const parts = setting.alpha ? "" : ` Activations ${gt.decades(slopes[0])}, weights ${gt.decades(weights[0])}.`;
      const checked = measured ? ` gradtrace, tracing this network in PyTorch: ${gt.decades(gt.number(measured.decades[0]))}.` : "";
      const other = twin ? ` Without skip connections: ${gt.decades(twin.whole[0])}.` : "";
      const whatIsLeft = Math.abs(total) < 0.05 ? "the gradient keeps its size" : total < 0 ? `${gt.times(total)} of the gradient is left` : `the gradient grows ${gt.times(total)}-fold`;
      return `Over ${count} layers ${whatIsLeft}: ${gt.decades(total)} decades.${parts}${left}${other}${checked}`;
    }
  };
})();
