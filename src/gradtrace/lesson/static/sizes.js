"use strict";
/* Where on a' do the pre-activations of a layer stand? Their histogram over the curve. */
gt.plots.sizes = (place, data) => {
  const EDGE = 12, BINS = 96;
  gt.chapter(place, data.setting, {
    compute: (setting) => {
      const { zs, steps, whole } = gt.product(setting), z = zs[Math.min(setting.layer, zs.length) - 1], { slope, name } = gt.functions[setting.activation], counts = new Array(BINS).fill(0);
      let flat = 0, square = 0, beyond = 0;
      const most = gt.mostSlope(setting.activation);
      for (const value of z) {
        const size = Math.abs(slope(value));
        flat += size < data.saturated_frac * most;
        square += size * size;
        beyond += Math.abs(value) > EDGE;
        counts[Math.max(0, Math.min(BINS - 1, Math.floor((value + EDGE) / (2 * EDGE) * BINS)))] += 1;
      }
      return { setting, name, counts, slope, most, num: z.length, flat: flat / z.length, rms: Math.sqrt(square / z.length), beyond: beyond / z.length, lost: whole[0], gain: steps[Math.min(setting.layer, zs.length) - 1], measured: gt.measuredAt(data.measured, setting) };
    },
    legend: () => [["bar-swatch", "pre-activations z of the layer (the ends hold all beyond)"], ["thin two", "a′(z), in parts of its maximum"]],
    draw: (width, { counts, slope, num, most, name }) => {
      const highest = Math.max(...counts) / num, axes = gt.axes(width, 18 * gt.rem(), { scale: d3.scaleLinear().domain([-EDGE, EDGE]), label: "pre-activation z", format: String }, { scale: d3.scaleLinear().domain([0, 1.08]), format: gt.percent, ticks: [0, 0.25, 0.5, 0.75, 1] }, `Pre-activations over the derivative of ${name}`);
      const x = (i) => axes.x(-EDGE + i * 2 * EDGE / BINS), floor = axes.y(0);
      counts.forEach((count, i) => { if (count) axes.inside.append(gt.svg("rect", { class: "bar", x: x(i), width: Math.max(1, x(i + 1) - x(i) - 0.5), y: axes.y(count / num / highest), height: floor - axes.y(count / num / highest) })); });
      gt.line(axes, d3.range(-EDGE, EDGE + 0.01, 0.05).map((z) => [z, slope(z) / most]), "two");
      gt.follow(axes, counts.map((_, i) => -EDGE + (i + 0.5) * 2 * EDGE / BINS), (i) => [`z near ${gt.short(Number((-EDGE + (i + 0.5) * 2 * EDGE / BINS).toFixed(2)))}`, [["of the units", gt.percent(counts[i] / num)], ["a′ there", gt.short(slope(-EDGE + (i + 0.5) * 2 * EDGE / BINS))]]]);
      return axes.picture;
    },
    told: ({ setting, flat, rms, lost, name, most, measured }) => `Layer ${setting.layer} of ${setting.depth}: ${gt.percent(flat)} of its units are saturated${measured ? ` (gradtrace: ${gt.percent(gt.number(measured.saturated[setting.layer - 1]))})` : ""}. The root mean square of a′ is ${gt.short(rms)}, of at most ${gt.short(most)}. Over the whole network of ${name} the gradient changes by ${gt.decades(lost)} decades.`,
    table: ({ counts, num, slope }) => [["z from", "to", "of the units", "a′ in the middle"], counts.map((count, i) => [count, -EDGE + i * 2 * EDGE / BINS]).filter(([count]) => count).map(([count, z]) => [gt.short(z), gt.short(z + 2 * EDGE / BINS), gt.percent(count / num), gt.short(slope(z + EDGE / BINS))])],
  });
};
