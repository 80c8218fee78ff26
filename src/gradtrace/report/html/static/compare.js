"use strict";
/* Several runs over each other: a line for each, on one axis of steps. */
gt.plots.overlay = (place, data) => {
  const lines = data.lines.map((line, i) => ({ name: line.name, steps: line.steps, values: line.values.map(gt.number), broken: line.broken, look: `${SERIES[i % SERIES.length]}${i >= SERIES.length ? " dashes" : ""}` }));
  const all = d3.extent(lines.flatMap((line) => [line.steps[0], line.steps[line.steps.length - 1]])), steps = [...new Set(lines.flatMap((line) => line.steps))].sort((a, b) => a - b);
  let hidden = new Set(), linear = data.linear;
  place.append(gt.switches(lines.map((line) => [`thin ${line.look}`, line.name]), (now) => { hidden = now; again(); }));
  if (!data.linear) place.append(gt.choice("Axis", ["Log axis", "Linear axis"], 0, (i) => { linear = i === 1; again(); }));
  const again = gt.drawn(place, (width) => {
    const rem = gt.rem(), height = 16 * rem, log = (value) => (linear ? value : value > 0 ? Math.log10(value) : NaN), shown = lines.filter((_, i) => !hidden.has(i));
    const known = shown.flatMap((line) => line.values.map(log)).filter(Number.isFinite), y = d3.scaleLinear().domain(known.length ? d3.extent(known) : [0, 1]).nice();
    const axes = gt.axes(width, height, { scale: d3.scaleLinear().domain([all[0], Math.max(all[1], all[0] + 1)]), label: "step", format: d3.format(",d"), ticks: d3.ticks(all[0], Math.max(all[1], all[0] + 1), Math.max(2, width / (7 * rem))).filter(Number.isInteger) },
      linear ? { scale: y, format: gt.short } : { scale: y, ticks: gt.decadeTicks(y, 6), format: gt.decadeLabel }, `${data.label} of ${lines.length} runs over the steps`);
    for (const [place, line] of shown.entries()) {
      gt.line(axes, line.steps.map((step, k) => [step, log(line.values[k])]), line.look);
      if (data.ends && line.broken.length) {
        const x = axes.x(line.broken[0][0]), past = x > width * 0.6;
        axes.inside.append(gt.svg("line", { class: `line ${line.look}`, "stroke-dasharray": "2 4", x1: x, x2: x, y1: axes.margin.top, y2: height - axes.margin.bottom }),
          gt.svg("text", { class: "halo", x: x + (past ? -6 : 6), "text-anchor": past ? "end" : "start", y: axes.margin.top + (0.75 + 1.1 * place) * rem }, `${line.name}: not finite`));
      }
    }
    gt.follow(axes, steps, (i) => [`step ${d3.format(",d")(steps[i])}`, shown.map((line) => {
      const k = d3.bisectRight(line.steps, steps[i]) - 1;
      return [line.name, k < 0 || steps[i] > line.steps[line.steps.length - 1] ? "" : gt.short(line.values[k])];
    })]);
    return axes.picture;
  });
};
