"use strict";
/* Matrices as pixels: a canvas with one pixel for each cell, scaled up; labels and lines are SVG over it. */

gt.colour = (name) => {
  const { r, g, b } = d3.rgb(getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim());
  return [r, g, b];
};

/* From 0 to 1: dark blue to yellow, for any eye (cividis; Nunez, Anderton and Renslow, 2018). */
const cividis = Array.from({ length: 256 }, (_, i) => { const { r, g, b } = d3.rgb(d3.interpolateCividis(i / 255)); return [r, g, b]; });
gt.scaleColour = (share) => cividis[Math.max(0, Math.min(255, Math.round(share * 255)))];

gt.blend = (from, to, share) => from.map((c, i) => Math.round(c + (to[i] - c) * share));

/* options: rows, columns [from, to), colour(row, column) -> [r, g, b], tell(row, column) -> [title, pairs],
   names (of the rows), height of the cells in pixels, ticks [[column, words]], lines [[column, look, words]], label */
gt.heat = (width, options) => {
  const rem = gt.rem(), { rows, columns: [from, to], names, label } = options;
  const left = Math.min(width * 0.32, (0.5 * Math.max(...names.map((name) => Math.min(name.length, 26))) + 1) * rem), places = lineLabels(), top = (0.25 + 1.1 * Math.max(0, ...places.map((place) => place + 1))) * rem + 4;
  const cell = options.cell ?? Math.max(Math.min(1.25 * rem, 26 * rem / rows), 0.5), inner = width - left - 0.75 * rem, high = cell * rows;
  const frame = gt.make("div", { class: "heat" }), canvas = gt.make("canvas", { width: to - from, height: rows, tabindex: "0", role: "img", "aria-label": `${label}; arrow keys move from cell to cell` });
  const bottom = options.ticks ? 2.5 * rem : 0.5 * rem;
  const overlay = gt.svg("svg", { width, height: top + high + bottom, "aria-hidden": "true" });
  frame.style.height = `${top + high + bottom}px`;
  Object.assign(canvas.style, { left: `${left}px`, top: `${top}px`, width: `${inner}px`, height: `${high}px` });
  paint();
  const x = (column) => left + (column - from) / (to - from) * inner;
  const every = Math.max(1, Math.ceil(1.05 * rem / cell)), length = Math.floor((left - 0.5 * rem) / (0.47 * rem));
  for (let row = 0; row < rows && (row + 0.5) * cell < high; row += every) {
    if (every > 1 && row * cell + 0.6 * rem > high) break;
    const text = names[row].length <= length ? names[row] : `…${names[row].slice(names[row].length - length + 1)}`;
    overlay.append(gt.svg("text", { x: left - 0.5 * rem, y: top + (row + Math.min(every, rows) / 2 * (every > 1 ? 0 : 1)) * cell + (every > 1 ? 0.5 * rem : 0), dy: "0.35em", "text-anchor": "end" }, text));
  }
  for (const [column, words] of options.ticks ?? []) overlay.append(gt.svg("text", { x: x(column), y: top + high + 1.125 * rem, "text-anchor": "middle" }, words));
  if (options.caption) overlay.append(gt.svg("text", { x: left + inner / 2, y: top + high + 2.25 * rem, "text-anchor": "middle" }, options.caption));
  (options.lines ?? []).forEach(([column, look, words], i) => {
    overlay.append(gt.svg("line", { class: look, x1: x(column), x2: x(column), y1: top - 4, y2: top + high }),
      gt.svg("text", { x: x(column), y: top - (0.4 + 1.1 * places[i]) * rem, "text-anchor": "middle" }, words));
  });
  const cursor = gt.svg("rect", { class: "cursor", visibility: "hidden" });
  overlay.append(cursor);
  frame.append(canvas, overlay);
  let at = [0, from];

  /* Above each other where they would overlap: per line the row of its words, -1 without words. */
  function lineLabels() {
    const ends = [], scale = (width * 0.68 - 2 * rem) / (to - from);
    return (options.lines ?? []).map(([column, , words]) => {
      if (!words) return -1;
      const middle = column * scale, half = 0.27 * words.length * rem;
      let place = ends.findIndex((end) => end < middle - half);
      if (place < 0) place = ends.length;
      ends[place] = middle + half;
      return place;
    });
  }

  function paint() {
    const pen = canvas.getContext("2d"), image = pen.createImageData(to - from, rows);
    for (let row = 0, k = 0; row < rows; row += 1)
      for (let column = from; column < to; column += 1, k += 4) {
        const [r, g, b] = options.colour(row, column);
        image.data[k] = r; image.data[k + 1] = g; image.data[k + 2] = b; image.data[k + 3] = 255;
      }
    pen.putImageData(image, 0, 0);
  }
  const show = (row, column, px, py) => {
    at = [Math.max(0, Math.min(rows - 1, row)), Math.max(from, Math.min(to - 1, column))];
    const box = canvas.getBoundingClientRect(), wide = inner / (to - from);
    for (const [key, value] of Object.entries({ x: x(at[1]), y: top + at[0] * cell, width: Math.max(wide, 2), height: Math.max(cell, 2), visibility: "visible" })) cursor.setAttribute(key, value);
    gt.tell(...options.tell(...at), px ?? box.left + (at[1] - from + 1) * wide, py ?? box.top + (at[0] + 1) * cell);
  };
  const hide = () => { cursor.setAttribute("visibility", "hidden"); gt.hush(); };
  canvas.addEventListener("pointermove", (event) => {
    const box = canvas.getBoundingClientRect();
    show(Math.floor((event.clientY - box.top) / box.height * rows), from + Math.floor((event.clientX - box.left) / box.width * (to - from)), event.clientX, event.clientY);
  });
  canvas.addEventListener("pointerleave", hide);
  canvas.addEventListener("blur", hide);
  canvas.addEventListener("keydown", (event) => {
    const move = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
    if (!move) return;
    event.preventDefault();
    show(at[0] + move[0], at[1] + move[1]);
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { if (canvas.isConnected) paint(); });
  return frame;
};

/* A strip of the colours with its ends named. */
gt.colourBar = (from, to) => {
  const canvas = gt.make("canvas", { width: 256, height: 1, "aria-hidden": "true" }), pen = canvas.getContext("2d"), image = pen.createImageData(256, 1);
  for (let i = 0; i < 256; i += 1) image.data.set([...gt.scaleColour(i / 255), 255], 4 * i);
  pen.putImageData(image, 0, 0);
  return gt.make("p", { class: "colours" }, from, canvas, to);
};
