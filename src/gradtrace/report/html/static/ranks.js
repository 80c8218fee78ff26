"use strict";
/* Ranks beside each other, layer by layer: the median of all steps, or one of them. */
gt.plots.ranklayers = (place, data) => {
  const cells = Uint8Array.from(atob(data.cells), (c) => c.charCodeAt(0)), rows = data.names.length, ranks = data.num_ranks, edge = gt.number(data.edge), last = data.steps.length;
  const value = (code) => (code === 255 ? NaN : code === 254 ? Infinity : code === 253 ? 0 : 10 ** ((2 * code / 249 - 1) * edge));
  const slider = gt.make("input", { type: "range", min: 0, max: last, value: 0, step: 1, "aria-label": "Which step" }), words = gt.make("span", {});
  let frame = 0;
  place.append(gt.make("div", { class: "tools slider" }, words, slider), gt.colourBar(`${gt.short(10 ** -edge)} times`, `${gt.short(10 ** edge)} times`));
  const tell = () => {
    words.textContent = frame ? `step ${data.steps[frame - 1]}` : "median of all steps";
    slider.setAttribute("aria-valuetext", words.textContent);
  };
  tell();
  const again = gt.drawn(place, (width) => {
    const missing = gt.colour("raised"), broken = gt.colour("critical"), rem = gt.rem(), every = Math.max(1, Math.ceil(ranks / Math.max(3, width * 0.6 / (3 * rem))));
    const at = (row, column) => cells[(frame * rows + row) * ranks + column];
    return gt.heat(width, {
      rows, columns: [0, ranks], names: data.names, label: "Own gradient by layer and rank",
      colour: (row, column) => {
        const code = at(row, column);
        return code === 255 ? missing : code === 254 ? broken : code === 253 ? [0, 0, 0] : gt.scaleColour(code / 249);
      },
      tell: (row, column) => [`${data.names[row]}, rank ${column}`, [["times the ranks' median, about", gt.short(value(at(row, column)))]]],
      ticks: d3.range(0, ranks, every).map((rank) => [rank + 0.5, String(rank)]), caption: "rank",
    });
  });
  slider.addEventListener("input", () => { frame = Number(slider.value); tell(); again(); });
};
