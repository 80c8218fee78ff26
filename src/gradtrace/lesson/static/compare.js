"use strict";
/* Several activations in the same network: how much of the gradient reaches each layer? */
gt.plots.compare = (place, data) => {
  const looks = ["two", "four", "one", "three", "five"], names = data.names;
  gt.chapter(place, data.setting, {
    compute: (setting) => {
      const lines = names.map((activation) => {
        const about = gt.about(activation), sigma_w = setting.weights === "critical" ? gt.number(about.rule) : Number(setting.weights);
        const full = { ...setting, activation, sigma_w };
        return { activation, sigma_w, ...gt.product(full), measured: gt.measuredAt(data.measured, full) };
      });
      return { setting, lines, layers: d3.range(1, setting.depth + 1) };
    },
    legend: ({ lines }) => [...lines.map((line, i) => [`thin ${looks[i]}`, `${gt.functions[line.activation].name}, σ = ${gt.short(line.sigma_w)}`]), ...(lines.some((line) => line.measured) ? [["dot-swatch", "measured by gradtrace"]] : [])],
    draw: (width, { lines, layers }) => {
      const axes = gt.axes(width, 20 * gt.rem(), { scale: d3.scaleLinear().domain([1, layers.length]), label: "← layer l, the way of the gradient", format: String, ticks: gt.wholeTicks(1, layers.length, width) },
        gt.decadeAxis(lines.flatMap((line) => line.whole)), "Gradient by layer for several activations");
      gt.level(axes, 0, "level", "");
      lines.forEach((line, i) => {
        gt.line(axes, line.whole.map((value, l) => [l + 1, value]), looks[i]);
        if (line.measured) gt.dots(axes, line.measured.decades.map((value, l) => [l + 1, gt.number(value)]));
      });
      gt.follow(axes, layers, (l) => [`layer ${layers[l]}`, lines.map((line) => [gt.functions[line.activation].name, gt.times(line.whole[l])])]);
      return axes.picture;
    },
    told: ({ lines }) => `What reaches the first layer: ${lines.map((line) => `${gt.functions[line.activation].name} ${gt.times(line.whole[0])}`).join(", ")}.`,
    table: ({ lines, layers }) => [["layer l", ...lines.map((line) => `${gt.functions[line.activation].name}, decades`)], layers.map((layer, l) => [String(layer), ...lines.map((line) => gt.decades(line.whole[l]))]).reverse()],
  });
};
