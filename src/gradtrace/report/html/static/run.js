"use strict";
/* The run: every picture shows the same stretch of steps; brushing one zooms all. */
gt.zoom = { steps: null, followers: [] };
gt.zoom.to = (steps) => {
  gt.zoom.steps = steps;
  for (const follow of gt.zoom.followers) follow();
  gt.say(steps ? `Steps ${steps[0]} to ${steps[1]}` : "All steps");
};

/* What marks are called in the legend. */
const MARKS = { sample: "whole trace", nonfinite: "NaN or Inf", onset: "onset of a finding", skipped: "step skipped" };

gt.plots.steps = (place, data) => {
  const first = data.first, last = data.last, all = [first[0], last[last.length - 1]];
  const read = (line) => ({ name: line.name, low: line.low.map(gt.number), high: line.high.map(gt.number) });
  const lines = data.lines.map(read), told = [...lines, ...data.told.map(read)];
  const marks = [...data.events, ...data.onsets.map(([step, words]) => [step, "onset", words])].sort((a, b) => a[0] - b[0]);
  let hidden = new Set(), linear = data.linear, smooth = false;
  if (data.controls) place.append(controls());
  const choices = gt.make("div", { class: "legends" });
  if (!data.low && !data.linear) choices.append(gt.choice("Axis", ["Log axis", "Linear axis"], 0, (i) => { linear = i === 1; again(); }));
  if (!data.low) choices.append(gt.choice("Line", ["As measured", "Smoothed"], 0, (i) => { smooth = i === 1; again(); }));
  place.append(choices);
  const kinds = [...new Set(marks.map((mark) => mark[1]))].map((kind) => [`event ${kind}`, MARKS[kind] ?? kind]), shade = data.broken.length ? [["broken", "not finite"]] : [];
  if (!data.low) place.append(gt.make("div", { class: "legends" },
    gt.switches(lines.map((line, i) => [`thin ${SERIES[i]}`, line.name]), (now) => { hidden = now; again(); }), gt.legend([...shade, ...kinds])));
  const again = gt.drawn(place, draw);
  gt.zoom.followers.push(again);

  function controls() {
    const from = gt.make("input", { type: "number", min: all[0], max: all[1], value: all[0], "aria-label": "first step" });
    const to = gt.make("input", { type: "number", min: all[0], max: all[1], value: all[1], "aria-label": "last step" });
    const whole = gt.make("button", { type: "button" }, "All steps"), form = gt.make("form", { class: "tools" }, "Steps ", from, " to ", to, gt.make("button", { type: "submit" }, "Show"), whole);
    form.addEventListener("submit", (event) => { event.preventDefault(); zoom(Number(from.value), Number(to.value)); });
    whole.addEventListener("click", () => gt.zoom.to(null));
    gt.zoom.followers.push(() => { [from.value, to.value] = gt.zoom.steps ?? all; });
    return form;
  }

  function zoom(a, b) {
    const ends = [Math.max(all[0], Math.min(a, b)), Math.min(all[1], Math.max(a, b))].map(Math.round);
    gt.zoom.to(ends[1] > ends[0] ? ends : null);
  }

  function draw(width) {
    const rem = gt.rem(), [from, to] = gt.zoom.steps ?? all, height = (data.low ? 8 : 16) * rem;
    const shown = d3.range(first.length).filter((i) => last[i] >= from && first[i] <= to), log = (value) => (linear ? value : value > 0 ? Math.log10(value) : NaN);
    const seen = lines.filter((_, i) => !hidden.has(i)), known = seen.flatMap((line) => shown.flatMap((i) => [log(line.low[i]), log(line.high[i])])).filter(Number.isFinite);
    const y = d3.scaleLinear().domain(known.length ? d3.extent(known) : [0, 1]).nice();
    const axes = gt.axes(width, height, { scale: d3.scaleLinear().domain([from, Math.max(to, from + 1)]), label: "step", format: d3.format(",d"), ticks: d3.ticks(from, Math.max(to, from + 1), Math.max(2, width / (7 * rem))).filter(Number.isInteger) },
      linear ? { scale: y, format: gt.short } : { scale: y, ticks: gt.decadeTicks(y, 6), format: gt.decadeLabel }, `${lines.map((line) => line.name).join(", ")} over the steps`);
    const clip = (points) => points.map(([s, v]) => [Math.max(from, Math.min(to, s)), v]);
    for (const [a, b] of data.broken.filter(([a, b]) => b >= from && a <= to)) {
      const left = axes.x(Math.max(a - 0.5, from)), right = axes.x(Math.min(b + 0.5, to));
      axes.inside.append(gt.svg("rect", { class: "broken", x: left, width: Math.max(right - left, 2), y: axes.margin.top, height: height - axes.margin.top - axes.margin.bottom }));
    }
    lines.forEach((line, i) => {
      if (hidden.has(i)) return;
      const band = d3.area().defined((k) => Number.isFinite(log(line.low[k])) && Number.isFinite(log(line.high[k]))).x((k) => axes.x(Math.max(from, Math.min(to, (first[k] + last[k]) / 2)))).y0((k) => axes.y(log(line.low[k]))).y1((k) => axes.y(log(line.high[k])));
      axes.inside.append(gt.svg("path", { class: `area ${SERIES[i]}`, d: band(shown) ?? "" }));
      const points = shown.map((k) => [(first[k] + last[k]) / 2, log(line.high[k])]);
      if (smooth) gt.line(axes, clip(points), `${SERIES[i]} faint`);
      gt.line(axes, clip(smooth ? smoothed(points) : points), SERIES[i]);
    });
    const brush = d3.brushX().extent([[axes.margin.left, axes.margin.top], [width - axes.margin.right, height - axes.margin.bottom]]).keyModifiers(false)
      .on("end", (event) => { if (event.sourceEvent && event.selection) { gt.hush(); zoom(...event.selection.map(axes.x.invert)); } });
    const pull = gt.svg("g", { class: "brush" });
    axes.inside.append(pull);
    brush(d3.select(pull));
    gt.follow(axes, first.map((s, i) => (s + last[i]) / 2), (i) => [first[i] === last[i] ? `step ${first[i]}` : `steps ${first[i]} to ${last[i]}`,
      told.map((line) => [line.name, line.low[i] === line.high[i] ? gt.short(line.high[i]) : `${gt.short(line.low[i])} to ${gt.short(line.high[i])}`])]);
    for (const [step, kind, words] of marks.filter((mark) => mark[0] >= from && mark[0] <= to)) {
      const mark = gt.svg("g", { class: `mark ${kind}`, tabindex: "0", role: "img", "aria-label": `step ${step}: ${kind} ${words}` },
        gt.svg("line", { x1: axes.x(step), x2: axes.x(step), y1: axes.margin.top, y2: height - axes.margin.bottom }),
        gt.svg("path", { d: `M${axes.x(step)},${axes.margin.top + 2}l-5,-9h10z` }));
      gt.tells(mark, () => [`step ${step}: ${kind}`, words ? [["", words]] : []]);
      axes.inside.append(mark);
    }
    return axes.picture;
  }
};

/* An exponential mean over about a twentieth of what is shown, from its first value on; gaps stay gaps. */
function smoothed(points) {
  const keep = Math.exp(-20 / Math.max(points.length, 20));
  let mean = NaN;
  return points.map(([x, y]) => {
    if (!Number.isFinite(y)) return [x, NaN];
    mean = Number.isFinite(mean) ? keep * mean + (1 - keep) * y : y;
    return [x, mean];
  });
}

gt.plots.runmap = (place, data) => {
  const halves = [data.largest, data.smallest].map((text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0)));
  const rows = data.names.length, columns = data.first.length, low = gt.number(data.low), high = gt.number(data.high);
  const value = (code) => (code === 255 ? NaN : code === 254 ? Infinity : code === 253 ? 0 : 10 ** (low + code / 249 * (high - low)));
  let half = 0;
  place.append(gt.choice("Which of the pooled values", ["Largest", "Smallest"], 0, (i) => { half = i; again(); }), gt.colourBar(gt.short(10 ** low), gt.short(10 ** high)));
  const again = gt.drawn(place, (width) => {
    const rem = gt.rem(), missing = gt.colour("raised"), broken = gt.colour("critical"), zero = [0, 0, 0], [from, to] = gt.zoom.steps ?? [data.first[0], data.last[columns - 1]];
    const a = Math.max(0, d3.bisectRight(data.first, from) - 1), b = Math.max(a + 1, d3.bisectRight(data.first, to));
    // no more cells than pixels: a spike that is narrower than a pixel would not be drawn
    const down = groups(0, rows, Math.floor(28 * rem)), across = groups(a, b, Math.floor(width * 0.6)), numRows = down.length - 1, numColumns = across.length - 1;
    const starts = across.slice(0, -1).map((c) => data.first[c]), cells = pool(down, across);
    // where steps are left out, as between two reports of ranks, ticks come close to each other
    const ticks = d3.ticks(from, to, Math.max(2, width / (10 * rem))).filter(Number.isInteger).map((step) => [d3.bisectRight(starts, step) - 0.5, d3.format(",d")(step)]);
    const apart = ticks.filter(([at], i) => i === 0 || (at - ticks[i - 1][0]) * width / numColumns > 4 * rem);
    return gt.heat(width, {
      rows: numRows, columns: [0, numColumns], names: d3.range(numRows).map((r) => span(data.names[down[r]], data.names[down[r + 1] - 1])), label: `${data.label} by parameter and step`, cell: Math.min(1.25 * rem, 28 * rem / numRows),
      colour: (row, column) => {
        const code = cells[row * numColumns + column];
        return code === 255 ? missing : code === 254 ? broken : code === 253 ? zero : gt.scaleColour(code / 249);
      },
      tell: (row, column) => [span(data.names[down[row]], data.names[down[row + 1] - 1]), [["step", span(String(data.first[across[column]]), String(data.last[across[column + 1] - 1]))],
        [half ? "smallest, about" : "largest, about", gt.short(value(cells[row * numColumns + column]))]]],
      ticks: apart, caption: "step",
      lines: data.events.filter((step) => step >= from && step <= to).map((step) => [d3.bisectRight(across.slice(0, -1), d3.bisectRight(data.first, step) - 1) - 0.5, "event-line", ""]),
    });
  });
  gt.zoom.followers.push(again);

  function span(from, to) { return from === to ? from : `${from} … ${to}`; }

  function groups(from, to, most) {
    const count = Math.min(to - from, most);
    return d3.range(count + 1).map((i) => from + Math.floor(i * (to - from) / count));
  }

  /* By the largest an infinity wins, by the smallest a zero; what was not measured never does. */
  function pool(down, across) {
    const rank = half ? (code) => (code === 253 ? -1 : code) : (code) => (code === 254 ? 300 : code === 253 ? -1 : code === 255 ? -2 : code);
    const cells = new Uint8Array((down.length - 1) * (across.length - 1));
    let k = 0;
    for (let r = 0; r + 1 < down.length; r += 1)
      for (let c = 0; c + 1 < across.length; c += 1, k += 1) {
        let best = halves[half][down[r] * columns + across[c]];
        for (let row = down[r]; row < down[r + 1]; row += 1)
          for (let column = across[c]; column < across[c + 1]; column += 1) {
            const code = halves[half][row * columns + column];
            if (half ? rank(code) < rank(best) : rank(code) > rank(best)) best = code;
          }
        cells[k] = best;
      }
    return cells;
  }
};
