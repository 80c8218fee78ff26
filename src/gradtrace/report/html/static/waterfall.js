"use strict";
/* A treegrid (WAI-ARIA practices): one row per visible line of the tree, with its bar; arrow keys move and fold. */
gt.plots.waterfall = (place, data) => {
  const steps = [...(data.steps ?? []), [data.step, data]].filter(([step]) => step !== undefined);
  if (steps.length < 2) {
    gt.rows = gt.waterfall(place, data, domainOf([data]));
    return;
  }
  const domain = domainOf(steps.map(([, one]) => one)), drawn = new Map(), last = steps.length - 1;
  const slider = gt.make("input", { type: "range", min: 0, max: last, value: last, step: 1, "aria-label": "Trace of which step" });
  const words = gt.make("output", { class: "step-of" }), holder = gt.make("div");
  place.append(gt.make("div", { class: "tools slider" }, words, slider), holder);
  slider.addEventListener("input", () => show(Number(slider.value)));
  show(last);

  /* Each trace is drawn once; what is folded stays so from trace to trace. */
  function show(k) {
    const folds = gt.rows?.folds();
    for (const one of drawn.values()) one.place.hidden = true;
    if (!drawn.has(k)) {
      const one = gt.make("div");
      holder.append(one);
      drawn.set(k, { place: one, layers: gt.waterfall(one, steps[k][1], domain) });
    }
    const { place: shown, layers } = drawn.get(k);
    shown.hidden = false;
    gt.rows = layers;
    if (folds) layers.fold(folds);
    words.textContent = `Trace of step ${d3.format(",d")(steps[k][0])}`;
    slider.setAttribute("aria-valuetext", words.textContent);
  }
};

function domainOf(all) {
  const seen = all.flatMap((one) => [one.rows.after, one.rows.bound, one.rows.expected, one.band].flatMap((values) => values.map(gt.number))).filter(Number.isFinite);
  return [Math.floor(Math.min(-1, ...seen)), Math.ceil(Math.max(1, ...seen))];
}

/* One trace; returns {folds, fold, find}: which modules are unfolded, unfold these, and go to the row of a layer. */
gt.waterfall = (place, data, domain) => {
  const rows = data.rows, numRows = rows.name.length;
  const after = rows.after.map(gt.number), bound = rows.bound.map(gt.number), expected = rows.expected.map(gt.number);
  const gains = rows.gains.map((row) => row.map(gt.number));
  const lines = data.lines.map(([label, first, last, level, parent, open, numChildren]) =>
    ({ label, first, last, level, parent, open: open === 1, numChildren }));
  const before = (row) => (row ? after[row - 1] : 0);
  const sums = lines.map((line) => data.factors.map((_, i) => {
    let sum = 0;
    for (let row = line.first; row <= line.last; row += 1) sum += gains[row][i];
    return sum;
  }));

  const band = data.band.map(gt.number), hasBand = band.every(Number.isFinite), hasExpected = expected.some(Number.isFinite);
  const hasBound = bound[numRows - 1] < -0.5 && Number.isFinite(bound[numRows - 1]);
  const body = gt.make("tbody"), axisCell = gt.make("th", { scope: "col" });
  const table = gt.make("table", { class: "waterfall", role: "treegrid", "aria-label": "Gradient by layer, in decades" },
    gt.make("thead", {}, gt.make("tr", {}, gt.make("th", { class: "name", scope: "col" }, "layer"), axisCell,
      gt.make("th", { class: "sum own", scope: "col" }, "this"), gt.make("th", { class: "sum", scope: "col" }, "so far"))),
    body);
  let x, height, focused = 0;

  place.append(legend(), tools(), table);
  const again = gt.fitted(place, draw);
  return { folds, fold: unfolded, find };

  function folds() { return new Map(lines.filter((line) => line.numChildren).map((line) => [line.label, line.open])); }

  function unfolded(kept) {
    let changed = false;
    for (const line of lines)
      if (kept.has(line.label) && line.numChildren && line.open !== kept.get(line.label)) { line.open = kept.get(line.label); changed = true; }
    if (changed) again();
  }

  /* The nth line that `fits`, its modules unfolded; returns how many there are. */
  function find(fits, nth = 0, take = true) {
    const found = lines.map((line, i) => (fits(line.label) || fits(full(line)) ? i : -1)).filter((i) => i >= 0);
    body.querySelectorAll(".found").forEach((row) => row.classList.remove("found"));
    if (!found.length) return 0;
    const at = found[nth % found.length];
    for (let up = lines[at].parent; up >= 0; up = lines[up].parent) lines[up].open = true;
    draw();
    const row = body.querySelector(`[data-line="${at}"]`);
    row?.classList.add("found");
    if (take) focus(at);
    row?.scrollIntoView({ block: "center" });
    return found.length;
  }

  function legend() {
    const pairs = data.factors.map(([key, words]) => [key, words]);
    if (hasBound) pairs.push(["thin bound", "bound: the most that max |a'| allows"]);
    if (hasExpected) pairs.push(["thin dashed expected", "theory for independent weights"]);
    if (hasBand) pairs.push(["band", "healthy"]);
    return gt.legend(pairs);
  }

  function tools() {
    const all = (open) => () => { lines.forEach((line) => { line.open = open && line.numChildren > 0; }); draw(); };
    const search = gt.make("input", { type: "search", placeholder: "Find a layer", "aria-label": "Find a layer" });
    let nth = 0;
    const look = () => {
      const wanted = search.value.trim().toLowerCase(), count = wanted ? find((label) => label.toLowerCase().includes(wanted), nth, false) : find(() => false);
      if (wanted) gt.say(count ? `${(nth % count) + 1} of ${count} layers` : "no such layer");
      search.classList.toggle("none", Boolean(wanted) && !count);
    };
    search.addEventListener("input", () => { nth = 0; look(); });
    search.addEventListener("keydown", (event) => { if (event.key === "Enter") { nth += 1; look(); } });
    if (!lines.some((line) => line.numChildren)) return lines.length > 12 ? gt.make("div", { class: "tools" }, search) : "";
    const unfold = gt.make("button", { type: "button" }, "Unfold all"), fold = gt.make("button", { type: "button" }, "Fold all");
    unfold.addEventListener("click", all(true));
    fold.addEventListener("click", all(false));
    return gt.make("div", { class: "tools" }, unfold, fold, search);
  }

  function visible() {
    const shown = [], hidden = new Set();
    lines.forEach((line, i) => {
      const parent = line.parent;
      if (parent >= 0 && (hidden.has(parent) || !lines[parent].open)) hidden.add(i);
      else shown.push(i);
    });
    return shown;
  }

  function draw() {
    const rem = gt.rem(), shown = visible();
    axisCell.replaceChildren();
    height = 1.625 * rem;
    body.replaceChildren(...shown.map(line));
    const cell = axisCell.clientWidth || 300;
    x = d3.scaleLinear().domain(domain).range([1.25 * rem, cell - 1.25 * rem]);
    axisCell.append(gt.make("span", { class: "unseen" }, "gradient"), axis(cell));
    shown.forEach((i, k) => body.rows[k].cells[1].append(bar(i, cell, k === shown.length - 1)));
    if (!shown.includes(focused)) focused = 0;
    body.querySelector(`[data-line="${focused}"]`)?.setAttribute("tabindex", "0");
  }

  function axis(width) {
    const rem = gt.rem(), picture = gt.svg("svg", { width, height: 1.75 * rem, "aria-hidden": "true" });
    for (const tick of x.ticks(Math.max(2, Math.min(10, width / (4 * rem)))).filter(Number.isInteger))
      picture.append(gt.svg("text", { x: x(tick), y: 1.25 * rem, "text-anchor": "middle" }, gt.power(tick)));
    return picture;
  }

  function line(i) {
    const { label, level, open, numChildren, first, last } = lines[i];
    const total = sums[i].reduce((a, b) => a + b, 0);
    const words = gt.make("span", { title: full(lines[i]) }, shorten(label, lines[i].parent));
    const name = gt.make("th", { class: "name", scope: "row", role: "rowheader" },
      gt.make("div", { class: "label" }, gt.make("i", { class: "fold", "aria-hidden": "true" }), words, gt.make("small", {}, kind(first, last))));
    name.firstChild.style.paddingLeft = `${Math.min(level, 8) * 0.75}rem`;
    const row = gt.make("tr", { role: "row", "data-line": i, "aria-level": level + 1, tabindex: "-1",
      "aria-expanded": numChildren ? String(open) : undefined }, name,
    gt.make("td", { role: "gridcell", "aria-label": about(i)[1].map((pair) => pair.join(" ")).join(", ") }),
    gt.make("td", { class: "sum own", role: "gridcell" }, gt.decades(total)),
    gt.make("td", { class: "sum", role: "gridcell" }, gt.decades(after[last])));
    row.addEventListener("click", () => { if (numChildren) fold(i, !lines[i].open); else focus(i); });
    row.addEventListener("keydown", (event) => key(event, i));
    gt.tells(row, () => about(i));
    return row;
  }

  /* With class and shape, where the line is one layer: `38 Linear 32x32`. */
  function full({ label, first, last }) { return kind(first, last) ? `${label} ${kind(first, last)}` : label; }

  function kind(first, last) { return first === last ? rows.kind[first] : ""; }

  /* Below its module a layer needs only the rest of its path; the module's own row is 'itself'. */
  function shorten(label, parent) {
    if (parent >= 0 && label === lines[parent].label) return "itself";
    const start = parent < 0 ? "" : `${lines[parent].label}.`;
    return start && label.startsWith(start) && !label.includes(" ") ? label.slice(start.length - 1) : label;
  }

  function about(i) {
    const { first, last, label } = lines[i], count = last - first + 1;
    const pairs = data.factors.map(([, words], f) => [words, gt.decades(sums[i][f])]).filter(([, told]) => told !== "0.00");
    pairs.push(["so far", gt.decades(after[last])]);
    if (hasBound) pairs.push(["bound", gt.decades(bound[last])]);
    pairs.push(["theory", gt.decades(expected[last])]);
    if (count === 1) {
      pairs.push(["|gradient| here", gt.short(gt.number(rows.norm[first]))]);
      const relative = gt.number(rows.relative[first]);
      if (!Number.isNaN(relative)) pairs.push(["|grad| / |W|", gt.short(relative)]);
      const update = gt.number(rows.update[first]);
      if (!Number.isNaN(update)) pairs.push(["update / |W|", `${gt.short(update)} (fine: up to ${gt.short(data.fine)})`]);
      if (rows.source[first]) pairs.push(["line", rows.source[first]]);
    } else pairs.push(["rows", String(count)]);
    return [full(lines[i]), pairs];
  }

  /* The step of each factor is a bar of its own height, from where the one before it ended. */
  function bar(i, width, isLast) {
    const { first, last, open } = lines[i], picture = gt.svg("svg", { width, height, "aria-hidden": "true" });
    if (hasBand) picture.append(gt.svg("rect", { class: "band", x: x(band[0]), width: x(band[1]) - x(band[0]), height: height + 1 }));
    for (const tick of x.ticks(Math.max(2, Math.min(10, width / (4 * gt.rem())))).filter(Number.isInteger))
      picture.append(gt.svg("line", { class: "grid", x1: x(tick), x2: x(tick), y2: height + 1 }));
    const steps = sums[i].map((sum, f) => [data.factors[f][0], sum]).filter(([, sum]) => Number.isFinite(sum) && Math.abs(sum) >= 0.005);
    const start = before(first), size = (height - 6) / Math.max(steps.length, 1);
    let level = start;
    steps.forEach(([key, sum], k) => {
      const from = x(level), to = x(level + sum), y = 3 + k * size;
      picture.append(gt.svg("rect", { class: `step ${key}`, x: Math.min(from, to), width: Math.max(Math.abs(to - from), 1.5), y, height: Math.max(size - 0.5, 1.5) }));
      level += sum;
    });
    if (Number.isFinite(start)) picture.append(gt.svg("line", { class: "stem", x1: x(start), x2: x(start), y1: -1, y2: 3 }));
    const end = after[last];
    if (Number.isFinite(end)) picture.append(gt.svg("line", { class: "stem", x1: x(end), x2: x(end), y1: height - 3, y2: height + (isLast ? 0 : 1) }));
    else if (Number.isFinite(start)) picture.append(gt.svg("text", { class: "strong", x: Math.min(x(start) + 6, width - 60), y: height * 0.68 }, end < 0 ? "to zero" : "not finite"));
    if (open) picture.classList.add("opened");
    const thread = (levels, look) => {  // an unfolded module leaves the slope to its rows
      const top = first ? levels[first - 1] : 0, bottom = open ? top : levels[last];
      if (Number.isFinite(top) && Number.isFinite(bottom)) picture.append(gt.svg("line", { class: look, x1: x(top), x2: x(bottom), y2: height }));
    };
    if (hasBound) thread(bound, "bound");
    thread(expected, "expected");
    return picture;
  }

  function fold(i, open) {
    lines[i].open = open;
    focused = i;
    gt.hush();
    draw();
    focus(i);
    gt.say(`${lines[i].label} ${open ? "unfolded" : "folded"}`);
  }

  function focus(i) {
    body.querySelector('[tabindex="0"]')?.setAttribute("tabindex", "-1");
    focused = i;
    const row = body.querySelector(`[data-line="${i}"]`);
    row?.setAttribute("tabindex", "0");
    row?.focus({ preventScroll: false });
  }

  function key(event, i) {
    const shown = visible(), at = shown.indexOf(i), line = lines[i];
    const go = { ArrowDown: shown[at + 1], ArrowUp: shown[at - 1], Home: shown[0], End: shown[shown.length - 1] }[event.key];
    if (go !== undefined) focus(go);
    else if (event.key === "ArrowRight" && line.numChildren) { if (line.open) focus(shown[at + 1]); else fold(i, true); }
    else if (event.key === "ArrowLeft") { if (line.open && line.numChildren) fold(i, false); else if (line.parent >= 0) focus(line.parent); }
    else if ((event.key === "Enter" || event.key === " ") && line.numChildren) fold(i, !line.open);
    else return;
    event.preventDefault();
  }
};
