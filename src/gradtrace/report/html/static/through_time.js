"use strict";
/* Lines over a whole number: gradient by step, horizon by lag. */

gt.plots.series = (place, data) => {
  const lines = data.lines.map(([name, values]) => ({ name, values: values.map(gt.number) }));
  if (lines.length > 1) place.append(gt.legend(lines.map((line, i) => [`thin ${SERIES[i]}`, line.name])));
  const known = lines.flatMap((line) => line.values).concat(data.levels.map((level) => level[0])).filter(Number.isFinite);
  const domain = [Math.min(...known, 0), Math.max(...known, known.length ? -Infinity : 1)], count = Math.max(...lines.map((line) => line.values.length));
  if (domain[1] - domain[0] < 1) domain[0] = domain[1] - 1;
  gt.drawn(place, (width) => {
    const rem = gt.rem(), height = 16 * rem, y = d3.scaleLinear().domain(domain).nice();
    const axes = gt.axes(width, height, { scale: d3.scaleLinear().domain([0, Math.max(count - 1, 1)]), label: data.x, format: String, ticks: d3.ticks(0, Math.max(count - 1, 1), Math.max(2, width / (6 * rem))).filter(Number.isInteger) },
      { scale: y, ticks: gt.decadeTicks(y, 6), format: gt.decadeLabel }, `${data.y} over ${data.x}`);
    data.levels.forEach(([at, words], i) => gt.level(axes, at, "level", words, i > 0));
    data.cuts.forEach((t) => gt.upright(axes, t, "cut", "cut"));
    lines.forEach((line, i) => gt.line(axes, line.values.map((value, t) => [t, value]), SERIES[i]));
    gt.follow(axes, d3.range(count), (t) => [`${data.x} ${t}`, lines.map((line) => [line.name, Number.isFinite(line.values[t]) ? gt.short(10 ** line.values[t]) : line.values[t] < 0 ? "zero" : "NaN"])]);
    return axes.picture;
  });
};

gt.plots.timemap = (place, data) => {
  const rows = data.rows.map(([t, values]) => [t, values.map(gt.number)]).reverse();  // time upwards: the latest on top
  const known = rows.flatMap((row) => row[1]).filter(Number.isFinite), high = Math.max(...known, -300), low = Math.max(Math.min(...known, 300), high - 12);
  const cut = known.some((value) => value < low) ? "\u2264 " : "";
  place.append(gt.colourBar(`${cut}${gt.short(10 ** low)}`, gt.short(10 ** high)));
  gt.drawn(place, (width) => {
    const missing = gt.colour("raised"), broken = gt.colour("critical"), zero = [0, 0, 0], columns = data.columns.length;
    const every = Math.max(1, Math.ceil(columns / Math.max(3, width / (6 * gt.rem()))));
    return gt.heat(width, {
      rows: rows.length, columns: [0, columns], names: rows.map((row) => `t = ${row[0]}`), label: "Gradient from t back to s",
      colour: (row, column) => {
        const value = rows[row][1][column];
        if (data.columns[column] > rows[row][0]) return missing;
        return Number.isNaN(value) || value === Infinity ? broken : value === -Infinity ? zero : gt.scaleColour((value - low) / Math.max(high - low, 1e-9));
      },
      tell: (row, column) => {
        const value = rows[row][1][column], s = data.columns[column];
        return [`t = ${rows[row][0]}, s = ${s}`, [[`|dL_t/d${data.letter}_s|`, s > rows[row][0] ? "later than t" : value === -Infinity ? "0" : gt.short(10 ** value)]]];
      },
      ticks: d3.range(0, columns, every).map((c) => [c + 0.5, String(data.columns[c])]), caption: "s",
    });
  });
};

gt.plots.exponents = (place, data) => {
  const values = data.values.map(gt.number), errors = data.errors.map(gt.number);
  const domain = [Math.min(0, ...values.map((v, i) => v - errors[i])), Math.max(0, ...values.map((v, i) => v + errors[i]))];
  gt.drawn(place, (width) => {
    const rem = gt.rem(), axes = gt.axes(width, 14 * rem, { scale: d3.scaleLinear().domain([0.5, values.length + 0.5]), label: "rank", format: String, ticks: d3.ticks(1, values.length, Math.min(values.length, 10)).filter(Number.isInteger) },
      { scale: d3.scaleLinear().domain(domain).nice(), format: gt.short }, "Lyapunov exponents in nats per step");
    gt.level(axes, 0, "level", "keeps its size");
    values.forEach((value, i) => {
      const x = axes.x(i + 1);
      axes.inside.append(gt.svg("line", { class: "stem", x1: x, x2: x, y1: axes.y(value - errors[i]), y2: axes.y(value + errors[i]) }), gt.svg("circle", { class: "dot", cx: x, cy: axes.y(value), r: 0.22 * rem }));
    });
    gt.follow(axes, d3.range(1, values.length + 1), (i) => [`exponent ${i + 1}`, [["nats per step", gt.short(values[i])], ["standard error", gt.short(errors[i])], ["decades per step", gt.short(values[i] / Math.LN10)]]]);
    return axes.picture;
  });
};
