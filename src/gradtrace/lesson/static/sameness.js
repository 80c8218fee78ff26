"use strict";
/* How alike have two different inputs become? Mean cosine between the outputs of a layer, over all pairs of the batch. */
gt.cosines = (y, width) => {
  const batch = y.length / width, rows = d3.range(batch).map((b) => y.subarray(b * width, (b + 1) * width)), norms = rows.map(gt.norm);
  let sum = 0, pairs = 0;
  for (let i = 0; i < batch; i += 1)
    for (let j = 0; j < i; j += 1) {
      if (norms[i] === 0 || norms[j] === 0) continue;
      let dot = 0;
      for (let k = 0; k < width; k += 1) dot += (rows[i][k] / norms[i]) * (rows[j][k] / norms[j]);
      sum += dot;
      pairs += 1;
    }
  return pairs ? sum / pairs : NaN;
};

gt.plots.sameness = (place, data) => {
  const of = (setting) => gt.run(setting).ys.map((y) => gt.cosines(y, setting.width));
  gt.chapter(place, data.setting, {
    compute: (setting) => ({ setting, plain: of({ ...setting, alpha: 0 }), skip: of(setting), layers: d3.range(setting.depth + 1) }),
    legend: ({ setting }) => [["thin four", "plain stack"], ...(setting.alpha ? [["thin ink", "with skip connections"]] : [])],
    draw: (width, { setting, plain, skip, layers }) => {
      const axes = gt.axes(width, 15 * gt.rem(), { scale: d3.scaleLinear().domain([0, layers.length - 1]), label: "layer l", format: String, ticks: gt.wholeTicks(0, layers.length - 1, width) }, { scale: d3.scaleLinear().domain([Math.min(-0.1, ...plain, ...skip), 1.05]), format: gt.short, ticks: [0, 0.25, 0.5, 0.75, 1] }, "Mean cosine between the outputs of two inputs, by layer");
      gt.level(axes, 1, "level", "all inputs look the same");
      gt.line(axes, plain.map((value, l) => [l, value]), "four");
      if (setting.alpha) gt.line(axes, skip.map((value, l) => [l, value]), "ink");
      gt.follow(axes, layers, (l) => [l ? `output of layer ${l}` : "input", [["plain stack", gt.short(plain[l])], ["with skip connections", gt.short(skip[l])]]]);
      return axes.picture;
    },
    told: ({ setting, plain, skip, layers }) => `Behind ${layers.length - 1} layers the outputs of two different inputs have a cosine of ${gt.short(plain.at(-1))}${setting.alpha ? `; with skip connections, of ${gt.short(skip.at(-1))}` : ""}.`,
    table: ({ plain, skip, layers }) => [["layer l", "plain stack", "with skip connections"], layers.map((layer) => [String(layer), gt.short(plain[layer]), gt.short(skip[layer])])],
  });
};
