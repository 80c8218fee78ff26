"use strict";
/* What f' must be: growth per layer against the weight scale, where the signal has settled; and random layers beside. */
gt.plots.growth = (place, data) => {
  const scales = d3.range(-1, 1.5001, 0.025).map((power) => 10 ** power), settle = 60, curves = new Map();
  const perLayer = (activation, sigma_w) => 0.5 * Math.log10(gt.growth({ activation, sigma_w, depth: settle, alpha: 0 })[settle - 1].chi);
  const curve = (activation) => curves.get(activation) ?? curves.set(activation, scales.map((sigma_w) => perLayer(activation, sigma_w))).get(activation);
  gt.chapter(place, data.setting, {
    compute: (setting) => {
      const { whole, slopes, weights } = gt.product(setting), half = Math.floor(setting.depth / 2), layers = setting.depth - 1 - half;
      const per = (values) => (values[0] - values[half]) / half;  // the lower half, where the signal has settled
      return { setting, layers, curve: curve(setting.activation), here: perLayer(setting.activation, setting.sigma_w), drawn: per(whole), slope: per(slopes), weight: per(weights), about: gt.about(setting.activation) };
    },
    legend: () => [["thin ink", "theory for wide layers: √χ, the gain of one layer"], ["thin bound", "at best: max a′ · σ"], ["dot-swatch", "random layers, drawn in the page"]],
    draw: (width, { curve, setting, drawn, about }) => {
      const rem = gt.rem(), best = scales.map((scale) => Math.log10(scale * gt.number(about.most))), scale = d3.scaleLog().domain([0.1, 10 ** 1.5]);
      const axes = gt.axes(width, 19 * rem, { scale, label: "weight scale σ", format: gt.short, ticks: [0.1, 0.2, 0.5, 1, 2, 5, 10, 20] }, { scale: d3.scaleLinear().domain([-2, 1]), ticks: [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10].map(Math.log10), format: (tick) => gt.short(10 ** tick) }, "Gain of one layer against the weight scale");
      const points = (values) => values.map((value, i) => [scales[i], value < -2 || value > 1 ? NaN : value]);
      gt.level(axes, 0, "level", "");
      axes.inside.append(gt.svg("text", { class: "halo", x: axes.margin.left + 6, y: axes.y(0) - 5 }, "keeps its size"));
      gt.line(axes, points(best), "bound");
      gt.line(axes, points(curve), "ink");
      const critical = gt.number(about.critical);
      if (Number.isFinite(critical)) {
        gt.upright(axes, critical, "level");
        axes.inside.append(gt.svg("text", { class: "halo", x: axes.x(critical) - 5, y: axes.margin.top + 0.75 * rem, "text-anchor": "end" }, `σ = ${Number(critical.toPrecision(4))}`));
      }
      if (drawn >= -2 && drawn <= 1) gt.dots(axes, [[setting.sigma_w, drawn]]);
      gt.follow(axes, scales, (i) => [`σ = ${gt.short(scales[i])}`, [["gain of one layer", gt.short(10 ** curve[i])], ["at best", gt.short(10 ** best[i])], ["left after 20 layers", gt.times(20 * curve[i])]]]);
      return axes.picture;
    },
    told: ({ setting, drawn, here, slope, weight }) => `With σ = ${setting.sigma_w} a layer multiplies the gradient by ${gt.short(10 ** drawn)}: a′ does ${gt.short(10 ** slope)}, f′ does ${gt.short(10 ** weight)} (theory: ${gt.short(10 ** here)}). After 20 such layers ${gt.times(20 * drawn)} is left.`,
    table: ({ curve, about }) => [["σ", "gain of one layer", "at best", "left after 20 layers"], scales.filter((_, i) => i % 5 === 0).map((scale) => {
      const i = scales.indexOf(scale);
      return [gt.short(scale), gt.short(10 ** curve[i]), gt.short(scale * gt.number(about.most)), gt.times(20 * curve[i])];
    })],
  });
};
