"use strict";
/* A chapter's picture: what the controls say -> numbers -> picture, sentence and table. */
gt.controls = (form) => [...form.elements].filter((field) => field.name);

/* The value of a control; one that a button has set keeps its exact value until it is moved. */
gt.valueOf = (field) => {
  if (field.tagName === "SELECT") return field.dataset.kind === "number" ? Number(field.value) : field.value;
  if (field.dataset.exact) return Number(field.dataset.exact);
  return field.dataset.scale === "log" ? Number((10 ** Number(field.value)).toPrecision(3)) : Number(field.value);
};

gt.setControl = (field, value) => {
  field.value = field.dataset.scale === "log" ? Math.log10(value) : value;
  if (field.type === "range") field.dataset.exact = value;
};

gt.read = (form, rest = {}) => ({ ...rest, ...Object.fromEntries(gt.controls(form).map((field) => [field.name, gt.valueOf(field)])) });

/* Numbers beside the sliders, for eyes and for readers of screens. */
gt.showValues = (form) => {
  for (const field of gt.controls(form)) {
    const shown = form.querySelector(`output[for="${field.id}"]`);
    if (!shown) continue;
    shown.textContent = String(gt.valueOf(field));
    field.setAttribute("aria-valuetext", shown.textContent);
  }
};

/* Call `again` soon after any control has moved, at most once for every picture of the screen. */
gt.listen = (form, again) => {
  form.hidden = false;
  let waiting = false;
  const soon = () => {
    gt.showValues(form);
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => { waiting = false; again(); });
  };
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("input", (event) => { delete event.target.dataset.exact; soon(); });
  for (const button of form.closest("section").querySelectorAll(`[data-for="${form.id}"]`)) {
    button.hidden = false;
    button.addEventListener("click", () => {
      for (const [name, value] of Object.entries(JSON.parse(button.dataset.set))) gt.setControl(form.elements[name], value);
      soon();
    });
  }
  gt.showValues(form);
};

/* The table beside a picture, written when it is looked at. */
gt.tableOf = (figure) => {
  const details = figure.querySelector("details"), head = details.querySelector("thead tr"), body = details.querySelector("tbody");
  let make = null;
  const write = () => {
    if (!make || !details.open) return;
    const [columns, rows] = make();
    head.replaceChildren(...columns.map((column) => gt.make("th", { scope: "col" }, column)));
    body.replaceChildren(...rows.map((row) => gt.make("tr", {}, ...row.map((cell, i) => (i ? gt.make("td", {}, cell) : gt.make("th", { scope: "row" }, cell))))));
  };
  details.addEventListener("toggle", write);
  return (next) => { make = next; write(); };
};

/* `base` holds what has no control; compute(setting) -> result; draw(width, result) -> picture; told(result) -> sentence; table(result) -> [columns, rows]. */
gt.chapter = (place, base, { compute, draw, told, table, legend }) => {
  const figure = place.closest("figure"), form = figure.querySelector("form") ?? figure.closest("section").querySelector("form"), said = figure.querySelector(".told"), write = gt.tableOf(figure);
  const words = gt.make("div");
  let result = compute(gt.read(form, base));
  place.append(words);
  const redraw = gt.drawn(place, (width) => draw(width, result));
  const tell = () => {
    words.replaceChildren(gt.legend(legend(result)));
    said.textContent = told(result);
    write(() => table(result));
  };
  gt.listen(form, () => { result = compute(gt.read(form, base)); redraw(); tell(); });
  tell();
};

/* Of the settings that gradtrace has measured, the one that the controls say. */
gt.measuredAt = (measured, setting) =>
  measured.find((one) => Object.entries(one.setting).every(([name, value]) => setting[name] === undefined || setting[name] === value));

gt.dots = (axes, points) => {
  for (const [x, y] of points.filter((_, i) => (points.length - 1 - i) % Math.ceil(points.length / 32) === 0))
    if (Number.isFinite(y)) axes.inside.append(gt.svg("circle", { class: "measured", cx: axes.x(x), cy: axes.y(y), r: 0.22 * gt.rem() }));
};

/* A number in a sentence: 0.25, or 9.1 × 10⁻⁹. */
gt.nice = (value) => (value === 0 || !Number.isFinite(value) || (Math.abs(value) >= 0.01 && Math.abs(value) < 1e4) ? gt.short(value) : (value < 0 ? "−" : "") + gt.times(Math.log10(Math.abs(value))));

/* A scale over these decades, with a decade of air, whole numbers at the ends. */
gt.decadeAxis = (values, least = 1) => {
  const known = values.filter(Number.isFinite), low = Math.floor(Math.min(-least, ...known)), high = Math.ceil(Math.max(least, ...known));
  const scale = d3.scaleLinear().domain([low, high]);
  return { scale, ticks: gt.decadeTicks(scale, 7), format: gt.decadeLabel };
};
gt.wholeTicks = (low, high, width) => d3.ticks(low, high, Math.max(2, width / (5 * gt.rem()))).filter(Number.isInteger);
/* A factor of so many decades: 0.25, or 9.9 × 10⁻¹³. */
gt.times = (decades) => {
  if (!Number.isFinite(decades)) return decades < 0 ? "0" : "∞";
  if (Math.abs(decades) < 2) return gt.short(10 ** decades);
  const digits = Number((10 ** (decades - Math.floor(decades))).toPrecision(2));
  return digits === 10 ? `1 × ${gt.power(Math.floor(decades) + 1)}` : `${digits} × ${gt.power(Math.floor(decades))}`;
};

/* What theory says of an activation: max a', where it is flat, its critical weight scale. */
gt.about = (name) => gt.data.functions.find((one) => one.key === name);
gt.mostSlope = (name) => gt.number(gt.about(name).most);
