"use strict";
/* The repair: whose the lost decades are, and the gradient by layer before and after. */
gt.plots.shares = (place, data) => {
  const parts = data.parts.map(([key, words, value]) => ({ key, words, value: gt.number(value) }));
  place.append(gt.legend(parts.map((part) => [part.key, part.words])));
  gt.drawn(place, (width) => {
    const rem = gt.rem(), height = 5 * rem, margin = 0.75 * rem;
    const whole = d3.sum(parts, (part) => Math.abs(part.value)) || 1, x = d3.scaleLinear().domain([0, whole]).range([margin, width - margin]);
    const picture = gt.svg("svg", { width, height, role: "img", "aria-label": data.label, class: "chart" });
    let from = 0;
    for (const part of parts) {
      const to = from + Math.abs(part.value), wide = x(to) - x(from);
      const bar = gt.svg("rect", { class: part.key, x: x(from), y: rem, width: Math.max(0, wide), height: 2 * rem, tabindex: "0" });
      gt.tells(bar, () => [part.words, [["decades", gt.short(part.value)]]]);
      picture.append(bar);
      if (wide > 4 * rem) picture.append(gt.svg("text", { x: (x(from) + x(to)) / 2, y: 4.25 * rem, "text-anchor": "middle" }, gt.short(part.value)));
      from = to;
    }
    return picture;
  });
};

/* Lines over the layers, the loss on the left. */
gt.plots.levels = (place, data) => {
  const lines = data.lines.map(([name, values]) => ({ name, values: values.map(gt.number) })), looks = ["one", "two"];
  const number = Math.max(...lines.map((line) => line.values.length));
  place.append(gt.legend(lines.map((line, i) => [`thin ${looks[i]}`, line.name])));
  gt.drawn(place, (width) => {
    const rem = gt.rem(), known = lines.flatMap((line) => line.values).filter(Number.isFinite);
    const y = d3.scaleLinear().domain(known.length ? d3.extent([0, ...known]) : [0, 1]).nice();
    const axes = gt.axes(width, 16 * rem, { scale: d3.scaleLinear().domain([0, Math.max(1, number - 1)]), label: "layer, counted from the loss", format: d3.format("d"), ticks: d3.ticks(0, Math.max(1, number - 1), 8).filter(Number.isInteger) },
      { scale: y, ticks: gt.decadeTicks(y, 6), format: gt.decadeLabel }, "gradient by layer before and after");
    lines.forEach((line, i) => gt.line(axes, line.values.map((value, layer) => [layer, value]), looks[i]));
    gt.follow(axes, d3.range(number), (i) => [data.names[i] ?? `layer ${i}`, lines.map((line) => [line.name, gt.short(line.values[i] ?? NaN)])]);
    return axes.picture;
  });
};
