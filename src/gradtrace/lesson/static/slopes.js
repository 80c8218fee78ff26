"use strict";
/* An activation and its derivative, and where on them a pre-activation z stands. */
gt.plots.slopes = (place, data) => {
  const zs = d3.range(-8, 8.001, 0.05);
  gt.chapter(place, {}, {
    compute: ({ activation, z }) => {
      const { a, slope, name } = gt.functions[activation], about = gt.about(activation);
      return { name, about, z, a: zs.map(a), slopes: zs.map(slope), here: [a(z), slope(z)], flat: Math.abs(slope(z)) < data.saturated_frac * gt.number(about.most) };
    },
    legend: () => [["thin one", "a(z)"], ["thin two", "a′(z), its slope"], ["thin bound", "max a′"], ["flat", `saturated: a′ under ${gt.percent(data.saturated_frac)} of its maximum`]],
    draw: (width, { a, slopes, z, here, about, name }) => {
      const most = gt.number(about.most), axes = gt.axes(width, 18 * gt.rem(), { scale: d3.scaleLinear().domain([-8, 8]), label: "pre-activation z", format: String },
        { scale: d3.scaleLinear().domain([Math.min(-0.25, ...a.filter((value) => value > -1.2)), 1.3]).nice(), format: gt.short }, `${name} and its derivative`);
      const [top, bottom] = [axes.margin.top, axes.height - axes.margin.bottom], inside = (value) => Math.max(-8, Math.min(8, value));
      for (const [from, to] of [[-8, inside(gt.number(about.low))], [inside(gt.number(about.high)), 8]])
        if (to > from) axes.inside.append(gt.svg("rect", { class: "flat", x: axes.x(from), width: axes.x(to) - axes.x(from), y: top, height: bottom - top }));
      gt.level(axes, most, "bound", `max a′ = ${gt.short(most)}`);
      const clip = (values) => values.map((value, i) => [zs[i], value > 1.35 || value < axes.y.domain()[0] ? NaN : value]);
      gt.line(axes, clip(a), "one");
      gt.line(axes, clip(slopes), "two");
      gt.upright(axes, z, "stem");
      for (const [value, look] of [[here[0], "one"], [here[1], "two"]])
        if (value <= 1.3 && value >= axes.y.domain()[0]) axes.inside.append(gt.svg("circle", { class: `here ${look}`, cx: axes.x(z), cy: axes.y(value), r: 0.375 * gt.rem() }));
      gt.follow(axes, zs, (i) => [`z = ${gt.short(Number(zs[i].toFixed(2)))}`, [["a", gt.short(a[i])], ["a′", gt.short(slopes[i])]]]);
      return axes.picture;
    },
    told: ({ z, here, about, name, flat }) => {
      const most = gt.number(about.most), layers = Math.ceil(Math.log(1e-3) / Math.log(most)), many = most < 1 ? ` Even at its largest, ${layers} such layers leave less than a thousandth.` : " At its largest it takes nothing away.";
      return `${name}: a(${gt.short(z)}) = ${gt.short(here[0])}, a′(${gt.short(z)}) = ${gt.short(here[1])}${flat ? ", saturated" : ""}. max a′ = ${gt.short(most)}.${many}`;
    },
    table: () => [["activation", "max a′", "at z =", "saturated below", "saturated above", "layers until a thousandth, at best", "E[a′²] for z ~ N(0, 1)"], data.rows],
  });
};
