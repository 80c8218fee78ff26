"use strict";
/* Where the pre-activations lie, under the derivative that they meet there. */
gt.plots.curves = (place, panels) => { for (const panel of panels) gt.drawn(place, (width) => curvePanel(width, panel)); };

function curvePanel(width, panel) {
  const rem = gt.rem(), xs = panel.x.map(gt.number), slope = panel.slope.map(gt.number), layers = panel.layers;
  const room = width < 40 * rem ? 7.5 : 14, left = Math.min(room * rem, width * 0.34), right = 5 * rem, curve = 6.5 * rem, step = 1.375 * rem, top = 2 * rem;
  const height = top + curve + step * layers.length + 3 * rem, domain = [xs[0], xs[xs.length - 1]];
  const x = (panel.log ? d3.scaleSymlog().constant(1) : d3.scaleLinear()).domain(domain).range([left, width - right]);
  const most = Math.max(...slope.filter(Number.isFinite), 1e-9), y = d3.scaleLinear().domain([Math.min(0, ...slope.filter(Number.isFinite)), most]).range([top + curve - 6, top + 8]);
  const picture = gt.svg("svg", { width, height, role: "group", "aria-label": `Pre-activations over the derivative of ${panel.function}` });
  const of = panel.of > layers.length ? `, ${layers.length} of ${panel.of} layers` : "";
  picture.append(gt.svg("text", { class: "strong title", x: 0, y: 0.875 * rem }, `${panel.function}${of}`));
  const [low, high] = panel.flat.map(gt.number), bottom = top + curve + step * layers.length;
  for (const [a, b] of [[domain[0], Math.max(domain[0], low)], [Math.min(domain[1], high), domain[1]]])
    if (b > a) picture.append(gt.svg("rect", { class: "flat", x: x(a), width: x(b) - x(a), y: top, height: bottom - top }));
  const ticks = panel.log ? x.ticks(9).filter((t, i, all) => i === 0 || Math.abs(x(t) - x(all[i - 1])) > 2.5 * rem) : x.ticks(Math.max(3, Math.floor((width - left - right) / (5 * rem))));
  for (const tick of ticks)
    picture.append(gt.svg("line", { class: "grid", x1: x(tick), x2: x(tick), y1: top, y2: bottom }),
      gt.svg("text", { x: x(tick), y: bottom + 1.125 * rem, "text-anchor": "middle" }, gt.short(tick)));
  picture.append(gt.svg("text", { x: (left + width - right) / 2, y: bottom + 2.375 * rem, "text-anchor": "middle" }, "pre-activation z"));
  for (const level of [0, most])
    picture.append(gt.svg("text", { x: left - 0.5 * rem, y: y(level), dy: "0.35em", "text-anchor": "end" }, level ? `max a' ${gt.short(most)}` : "0"));
  picture.append(gt.svg("line", { class: "axis", x1: left, x2: width - right, y1: y(0), y2: y(0) }));
  const path = d3.line().defined((_, i) => Number.isFinite(slope[i])).x((v) => x(v)).y((_, i) => y(slope[i]));
  picture.append(gt.svg("path", { class: "line slope", d: path(xs) }),
    gt.svg("text", { x: width - right + 0.625 * rem, y: top + curve - 4 }, "flat"));
  const inside = (value) => Math.max(left, Math.min(width - right, x(value))), length = Math.floor((left - 0.5 * rem) / (0.47 * rem));
  layers.forEach(([name, raw, saturated, mean], i) => {
    const q = raw.map(gt.number), middle = top + curve + step * (i + 0.5);
    const row = gt.svg("g", { class: "spread", tabindex: "0", role: "img", "aria-label": `${name}: median ${gt.short(q[3])}, ${gt.percent(saturated)} saturated` },
      gt.svg("rect", { class: "under", x: 0, width, y: middle - step / 2, height: step }),
      gt.svg("text", { class: "strong", x: left - 0.5 * rem, y: middle, dy: "0.35em", "text-anchor": "end" }, name.length <= length ? name : `…${name.slice(name.length - length + 1)}`),
      gt.svg("line", { class: "whisker", x1: inside(q[1]), x2: inside(q[5]), y1: middle, y2: middle }),
      gt.svg("rect", { class: "half", x: inside(q[2]), width: Math.max(2, inside(q[4]) - inside(q[2])), y: middle - step * 0.26, height: step * 0.52, rx: 2 }),
      gt.svg("line", { class: "median", x1: inside(q[3]), x2: inside(q[3]), y1: middle - step * 0.34, y2: middle + step * 0.34 }),
      gt.svg("text", { class: saturated > 0.5 ? "strong" : "", x: width - right + 0.625 * rem, y: middle, dy: "0.35em" }, gt.percent(saturated)));
    gt.tells(row, () => [name, [["saturated", gt.percent(saturated)], ["mean |a'|", gt.short(mean)], ["median", gt.short(q[3])],
      ["middle half", `${gt.short(q[2])} to ${gt.short(q[4])}`], ["90 %", `${gt.short(q[1])} to ${gt.short(q[5])}`], ["all", `${gt.short(q[0])} to ${gt.short(q[6])}`]]]);
    picture.append(row);
  });
  return picture;
}

/* Dead units: each row has its own number of cells. */
gt.plots.dead = (place, rows) => {
  gt.drawn(place, (width) => {
    const most = Math.max(...rows.map((row) => row[3].length)), dead = gt.colour("critical"), alive = gt.colour("line"), none = gt.colour("paper");
    const bin = (row, column) => Math.floor(column * rows[row][3].length / most);
    const units = (row, b) => { const [, count, , bins] = rows[row]; return Math.max(1, Math.ceil((b + 1) * count / bins.length) - Math.ceil(b * count / bins.length)); };
    return gt.heat(width, {
      rows: rows.length, columns: [0, most], names: rows.map((row) => row[0]), label: "Dead units by layer",
      colour: (row, column) => (rows[row][3].length ? gt.blend(alive, dead, Math.min(1, rows[row][3][bin(row, column)] / units(row, bin(row, column)))) : none),
      tell: (row, column) => {
        const [name, count, sum, bins] = rows[row], b = bin(row, column), size = units(row, b), first = Math.ceil(b * count / bins.length);
        return [name, [["dead", `${sum} of ${count}`], [size > 1 ? `units ${first} to ${first + size - 1}` : `unit ${first}`, size > 1 ? `${bins[b]} dead` : bins[b] ? "dead" : "alive"]]];
      },
    });
  });
};

/* Histograms of log2 |g|; the limits of the formats are lines. */
gt.plots.formats = (place, data) => {
  const limits = [...data.limits.filter(([, smallest]) => smallest > data.low - 12).map(([name, smallest]) => [smallest, `0 ← ${name}`]),
    ...data.limits.filter(([, , largest]) => gt.number(largest) < data.high + 4).map(([name, , largest]) => [gt.number(largest), `${name} → inf`])].sort((a, b) => a[0] - b[0]);
  const low = Math.min(data.low, ...limits.map(([at]) => at)) - 2, high = Math.max(data.high, -6, ...limits.map(([at]) => Math.ceil(at))) + 2;
  gt.drawn(place, (width) => {
    const paper = gt.colour("paper"), full = gt.colour("weight"), most = 0.3;
    const share = (row, column) => data.rows[row][1 + column + low - data.low] ?? 0;
    const every = Math.ceil((high - low) / Math.max(3, width / (6 * gt.rem())));
    const ticks = d3.range(Math.ceil(low / every) * every, high, every).map((e) => [e - low + 0.5, `2${gt.power(e).slice(2) || "⁰"}`]);
    return gt.heat(width, {
      rows: data.rows.length, columns: [0, high - low], names: data.rows.map((row) => row[0]), label: "Histogram of log2 of the gradients by parameter",
      colour: (row, column) => { const part = share(row, column); return part > 0 ? gt.blend(paper, full, 0.12 + 0.88 * Math.min(1, part / most)) : paper; },
      tell: (row, column) => [data.rows[row][0], [[`2^${low + column} to 2^${low + column + 1}`, gt.percent(share(row, column))]]],
      ticks, caption: "|gradient entry|", lines: limits.map(([at, words]) => [at - low, "limit", words]),
    });
  });
};
