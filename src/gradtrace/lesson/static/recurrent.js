"use strict";
/* One map applied again and again: the gradient at every state, from the last step back to the first. */
gt.plots.recurrent = (place, data) => {
  gt.chapter(place, data.setting, {
    compute: (setting) => {
      const { norms, slopes, singular } = gt.runInTime(setting, data.input_size), last = setting.num_steps, whole = norms.map((norm) => Math.log10(norm) - Math.log10(norms[last]));
      const bound = norms.map((_, t) => (last - t) * Math.log10(singular)), reach = whole.findLastIndex((decades) => decades < -3);
      return { setting, whole, slopes, bound, singular, norms, steps: d3.range(last + 1), reach: reach < 0 ? null : last - reach, measured: gt.measuredAt(data.measured, setting) };
    },
    legend: ({ measured }) => [["thin ink", "gradient |L′(t)| of the state"], ["thin bound", "bound: σmax(W)ᵏ"], ...(measured ? [["dot-swatch", "measured by gradtrace"]] : [])],
    draw: (width, { steps, whole, bound, measured, reach }) => {
      const last = steps.length - 1, low = Math.min(-3, ...whole.filter(Number.isFinite)), high = Math.max(1, ...whole.filter(Number.isFinite));
      const axes = gt.axes(width, 20 * gt.rem(), { scale: d3.scaleLinear().domain([0, last]), label: "← step t, the way of the gradient", format: String, ticks: gt.wholeTicks(0, last, width) }, gt.decadeAxis([low, high]), "Gradient by time step in decades");
      const [bottom, top] = axes.y.domain();
      gt.level(axes, 0, "level", "");
      gt.level(axes, -3, "level", "a thousandth");
      gt.line(axes, bound.map((value, t) => [t, value > top || value < bottom ? NaN : value]), "bound");
      gt.line(axes, whole.map((value, t) => [t, value]), "ink");
      if (measured) gt.dots(axes, measured.decades.map((value, t) => [t, gt.number(value)]));
      if (reach !== null) gt.upright(axes, last - reach, "event-line", `${reach} steps back`);
      gt.follow(axes, steps, (t) => [`step ${t}`, [["gradient", gt.times(whole[t])], ["decades", gt.decades(whole[t])], ["bound", gt.decades(bound[t])]]]);
      return axes.picture;
    },
    told: ({ setting, whole, reach, singular, measured }) => `Back over ${setting.num_steps} steps ${whole[0] < 0 ? `${gt.times(whole[0])} of the gradient is left` : `the gradient grows ${gt.times(whole[0])}-fold`}: ${gt.decades(whole[0])} decades, ${gt.short(10 ** (whole[0] / setting.num_steps))} per step. ${reach === null ? "It never falls to a thousandth." : `Less than a thousandth is left ${reach} steps back.`} The largest singular value of W is ${gt.short(singular)}.${measured ? ` gradtrace, through time: ${gt.decades(gt.number(measured.decades[0]))}.` : ""}`,
    table: ({ steps, whole, norms, slopes, bound, measured }) => [["step t", "|L′(t)|", "decades", "a′ of the step", "bound", ...(measured ? ["measured by gradtrace"] : [])],
      steps.map((t) => [String(t), gt.short(norms[t]), gt.decades(whole[t]), t ? gt.short(slopes[t - 1]) : "", gt.decades(bound[t]), ...(measured ? [gt.decades(gt.number(measured.decades[t]))] : [])]).reverse()],
  });
};
