"use strict";
/* Axes, lines and marks as SVG, drawn again when their place changes its width. Colours come from the style sheet. */

/* The looks of several lines, in this order. */
const SERIES = ["one", "two", "three", "four", "five"];

/* A picture that `draw` makes for a width in pixels, made again whenever that changes. */
gt.drawn = (place, draw) => {
  const target = gt.make("div");
  place.append(target);
  return gt.fitted(place, (width) => target.replaceChildren(draw(width)));
};

/* A picture with two axes. `x` and `y` are {scale, label, format, ticks}; ranges are set here. */
gt.axes = (width, height, x, y, label) => {
  const rem = gt.rem(), margin = { top: 0.75 * rem, right: 0.75 * rem, bottom: 2.75 * rem, left: 4.25 * rem };
  const picture = gt.svg("svg", { width, height, role: "img", "aria-label": label, tabindex: "0", class: "chart" });
  x.scale.range([margin.left, width - margin.right]);
  y.scale.range([height - margin.bottom, margin.top]);
  const xs = x.ticks ?? x.scale.ticks(Math.max(2, Math.floor(width / (6 * rem)))), ys = y.ticks ?? y.scale.ticks(Math.max(2, Math.floor(height / (3 * rem))));
  for (const tick of ys) {
    picture.append(gt.svg("line", { class: "grid", x1: margin.left, x2: width - margin.right, y1: y.scale(tick), y2: y.scale(tick) }),
      gt.svg("text", { x: margin.left - 0.5 * rem, y: y.scale(tick), dy: "0.35em", "text-anchor": "end" }, y.format(tick)));
  }
  for (const tick of xs)
    picture.append(gt.svg("text", { x: x.scale(tick), y: height - margin.bottom + 1.125 * rem, "text-anchor": "middle" }, x.format(tick)));
  picture.append(gt.svg("line", { class: "axis", x1: margin.left, x2: width - margin.right, y1: height - margin.bottom, y2: height - margin.bottom }),
    gt.svg("text", { x: (margin.left + width - margin.right) / 2, y: height - 0.375 * rem, "text-anchor": "middle" }, x.label));
  const inside = gt.svg("g", {});
  picture.append(inside);
  return { picture, inside, margin, x: x.scale, y: y.scale, height, width };
};

/* Points with a gap at every one that is not finite. */
gt.line = (axes, points, look) => {
  const path = d3.line().defined(([a, b]) => Number.isFinite(a) && Number.isFinite(b)).x((p) => axes.x(p[0])).y((p) => axes.y(p[1]));
  axes.inside.append(gt.svg("path", { class: `line ${look}`, d: path(points) ?? "" }));
};

gt.upright = (axes, at, look, words = "") => {
  const x = axes.x(at);
  axes.inside.append(gt.svg("line", { class: look, x1: x, x2: x, y1: axes.margin.top, y2: axes.height - axes.margin.bottom }));
  if (words) axes.inside.append(gt.svg("text", { class: "halo", x: x + 4, y: axes.margin.top + 0.75 * gt.rem() }, words));
};

/* A line across, its words above it or below. */
gt.level = (axes, at, look, words, below = false) => {
  const y = axes.y(at);
  axes.inside.append(gt.svg("line", { class: look, x1: axes.margin.left, x2: axes.width - axes.margin.right, y1: y, y2: y }),
    gt.svg("text", { class: "halo", x: axes.width - axes.margin.right - 4, y: below ? y + 0.9 * gt.rem() : y - 5, "text-anchor": "end" }, words));
};

/* A line that follows the pointer, or the arrow keys; `tell(i)` of the nearest of `xs`. */
gt.follow = (axes, xs, tell) => {
  const { picture } = axes, mark = gt.svg("line", { class: "pointer", y1: axes.margin.top, y2: axes.height - axes.margin.bottom, visibility: "hidden" });
  axes.inside.append(mark);
  let at = -1;
  const show = (i, x, y) => {
    at = Math.max(0, Math.min(xs.length - 1, i));
    mark.setAttribute("visibility", "visible");
    mark.setAttribute("x1", axes.x(xs[at]));
    mark.setAttribute("x2", axes.x(xs[at]));
    const box = picture.getBoundingClientRect();
    gt.tell(...tell(at), x ?? box.left + axes.x(xs[at]), y ?? box.top + axes.margin.top);
  };
  const hide = () => { mark.setAttribute("visibility", "hidden"); gt.hush(); };
  picture.addEventListener("pointermove", (event) => {
    const box = picture.getBoundingClientRect();
    show(d3.bisectCenter(xs, axes.x.invert(event.clientX - box.left)), event.clientX, event.clientY);
  });
  picture.addEventListener("pointerleave", hide);
  picture.addEventListener("blur", hide);
  picture.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1, PageUp: -10, PageDown: 10 }[event.key];
    if (step === undefined) return;
    event.preventDefault();
    show(at + step);
  });
};

/* Ticks of decades as 10^n, whole numbers only. */
gt.decadeTicks = (scale, count) => {
  const [low, high] = scale.domain();
  if (high - low > 2.5) return scale.ticks(Math.max(2, count)).filter(Number.isInteger);
  const between = d3.range(Math.floor(low), Math.ceil(high) + 1).flatMap((decade) => [1, 2, 5].map((digit) => decade + Math.log10(digit)));
  const ticks = between.filter((tick) => tick >= low && tick <= high);
  return ticks.length > 1 ? ticks : d3.ticks(10 ** low, 10 ** high, 4).filter((value) => value > 0).map(Math.log10);  // round numbers all the same
};
gt.decadeLabel = (tick) => (Number.isInteger(tick) ? gt.power(tick) : gt.short(10 ** tick));
