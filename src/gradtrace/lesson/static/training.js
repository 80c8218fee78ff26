"use strict";
/* Training in the page: the recursion, and W - learning rate dL/dW. The runs of one chapter are drawn in two pictures. */
gt.training = { runs: [], followers: [] };

/* Hidden layers and a linear readout, weights as gradtrace.lesson.setting draws them. */
gt.trainee = ({ activation, depth, sigma_w, width, seed }, pixels, classes) =>
  d3.range(1, depth + 2).map((l) => {
    const inputs = l === 1 ? pixels : width, outputs = l > depth ? classes : width, scale = (l > depth ? 1 : sigma_w) / Math.sqrt(inputs);
    return { W: gt.gaussians(seed, 2 + l, outputs * inputs).map((value) => scale * value), inputs, outputs, activation: l > depth ? "identity" : activation, alpha: 0 };
  });

/* One step in place; returns the loss before it and |new W - W| / |W| of every layer. */
gt.trainStep = (layers, { x, labels }, setting, state) => {
  const made = gt.forward(layers, x), { loss, gradient } = gt.crossEntropy(made.ys[layers.length], labels, layers[layers.length - 1].outputs);
  state.count += 1;
  const ratios = gt.backward(layers, made, gradient, true).map(({ dW }, l) => {
    const { W } = layers[l], size = gt.norm(W), update = setting.optimizer === "Adam" ? adam(dW, state, l) : dW;
    for (let k = 0; k < W.length; k += 1) W[k] -= setting.learning_rate * update[k];
    return (setting.learning_rate * gt.norm(update)) / size;
  });
  return { loss, ratios };

  /* Kingma and Ba (2015), algorithm 1, with torch's constants. */
  function adam(dW, { moments, count }, l) {
    moments[l] ??= [new Float64Array(dW.length), new Float64Array(dW.length)];
    const [first, second] = moments[l];
    return dW.map((value, k) => {
      first[k] = 0.9 * first[k] + 0.1 * value;
      second[k] = 0.999 * second[k] + 0.001 * value * value;
      return first[k] / (1 - 0.9 ** count) / (Math.sqrt(second[k] / (1 - 0.999 ** count)) + 1e-8);
    });
  }
};

/* A whole training, `each` called now and then so that the page can breathe; resolves to {losses, ratios}. */
gt.train = async (setting, data, each = () => true) => {
  const layers = gt.trainee(setting, data.pixels, data.classes), batch = gt.examples(data), state = { count: 0, moments: [] }, losses = [], kept = [];
  for (let step = 0; step < setting.num_steps; step += 1) {
    const { loss, ratios } = gt.trainStep(layers, batch, setting, state);
    losses.push(loss);
    if (step % data.ratio_every === 0) kept.push(ratios);
    if (step % 10 === 9) {
      if (!each({ setting, losses, ratios: average(kept) })) break;
      await new Promise((done) => setTimeout(done));
    }
  }
  return { setting, losses, ratios: average(kept) };
  function average(rows) { return rows.length ? rows[0].map((_, l) => d3.mean(rows, (row) => row[l])) : []; }
};

/* Pixels in [-1, 1], of counts from 0 to 16. */
gt.examples = (data) => ({ x: Float64Array.from(atob(data.images), (c) => c.charCodeAt(0) / 8 - 1), labels: data.labels });

(() => {
  const LOOKS = ["two", "one", "three", "four", "five"], MOST = LOOKS.length;
  const name = ({ activation, depth, sigma_w, optimizer, learning_rate }) => `${gt.functions[activation].name}, ${depth} layers, σ ${gt.short(sigma_w)}, ${optimizer} ${gt.short(learning_rate)}`;
  const legend = () => gt.training.runs.map((run, i) => [`thin ${LOOKS[i]}${run.measured ? "" : " dashed"}`, `${name(run.setting)}${run.measured ? " (PyTorch)" : ""}`]);
  const told = () => gt.training.followers.forEach((follow) => follow());
  const end = (run) => run.losses.findLast(() => true);

  function picture(place, draw, table) {
    const figure = place.closest("figure"), write = gt.tableOf(figure), words = gt.make("div");
    place.append(words);
    const redraw = gt.drawn(place, draw);
    const again = () => { words.replaceChildren(gt.legend(legend())); redraw(); write(table); };
    gt.training.followers.push(again);
    again();
  }

  gt.plots.losses = (place, data) => {
    const figure = place.closest("figure"), form = figure.querySelector("form"), said = figure.querySelector(".told"), button = form.querySelector("[type=submit]"), clear = form.querySelector("[type=reset]");
    let serial = 0;
    const measured = () => data.measured.map((run) => ({ ...run, measured: true, losses: run.losses.map(gt.number), ratios: run.ratios.map(gt.number) }));
    gt.training.runs = measured();
    gt.listen(form, () => {});
    const train = async () => {
      const mine = ++serial, setting = gt.read(form, data.setting), run = { setting, losses: [], ratios: [] }, runs = gt.training.runs;
      if (runs.length === MOST) runs.splice(runs.findIndex((one) => !one.measured), 1);
      runs.push(run);
      button.disabled = true;
      const done = await gt.train(setting, data, (now) => { Object.assign(run, now); told(); say(); return mine === serial; });
      Object.assign(run, done);
      if (mine !== serial) return;
      button.disabled = false;
      told();
      say();
      gt.say(said.textContent);
    };
    form.addEventListener("submit", train);
    form.addEventListener("reset", (event) => { event.preventDefault(); serial += 1; button.disabled = false; gt.training.runs = measured(); told(); say(); });
    for (const each of form.closest("section").querySelectorAll(`[data-for="${form.id}"]`)) each.addEventListener("click", train);
    const say = () => { said.textContent = gt.training.runs.map((run) => (run.losses.length ? `${name(run.setting)}: loss ${gt.short(run.losses[0])} → ${gt.short(end(run))}, update ratio of the first layer ${gt.nice(run.ratios[0])}` : "")).filter(Boolean).join("\n"); };
    say();
    picture(place, (width) => {
      const { runs } = gt.training, seen = runs.flatMap((run) => run.losses).filter(Number.isFinite), high = Math.min(5, Math.max(2.6, ...seen)), steps = data.setting.num_steps;
      const axes = gt.axes(width, 17 * gt.rem(), { scale: d3.scaleLinear().domain([0, steps]), label: "training step", format: String, ticks: gt.wholeTicks(0, steps, width) }, { scale: d3.scaleLinear().domain([0, high]), format: gt.short }, "Loss over the training steps");
      gt.level(axes, Math.log(data.classes), "level", `guessing: ln ${data.classes} = ${gt.short(Math.log(data.classes))}`);
      runs.forEach((run, i) => gt.line(axes, run.losses.map((loss, step) => [step, Number.isFinite(loss) ? Math.min(loss, high) : NaN]), `${LOOKS[i]}${run.measured ? "" : " dashed"}`));
      gt.follow(axes, d3.range(steps), (step) => [`step ${step}`, runs.filter((run) => run.losses.length > step).map((run) => [name(run.setting), gt.short(run.losses[step])])]);
      return axes.picture;
    }, () => [["step", ...gt.training.runs.map((run) => name(run.setting))], d3.range(0, data.setting.num_steps, 10).concat(data.setting.num_steps - 1).map((step) => [String(step), ...gt.training.runs.map((run) => (run.losses.length > step ? gt.short(run.losses[step]) : ""))])]);
  };

  gt.plots.updates = (place) => {
    const log = (value) => (value > 0 && Number.isFinite(value) ? Math.min(2, Math.log10(value)) : NaN), layers = () => d3.range(1, Math.max(...gt.training.runs.map((run) => run.ratios.length)) + 1);
    picture(place, (width) => {
      const { runs } = gt.training, seen = runs.flatMap((run) => run.ratios.map(log)).filter(Number.isFinite), scale = d3.scaleLinear().domain([Math.floor(Math.min(-4, ...seen)), Math.ceil(Math.max(-1, ...seen))]), all = layers();
      const axes = gt.axes(width, 17 * gt.rem(), { scale: d3.scaleLinear().domain([1, all.length]), label: "layer l (the last is the readout)", format: String, ticks: gt.wholeTicks(1, all.length, width) }, { scale, ticks: gt.decadeTicks(scale, 7), format: gt.decadeLabel }, "Update ratio by layer");
      runs.forEach((run, i) => {
        const points = run.ratios.map((ratio, l) => [l + 1, log(ratio)]);
        gt.line(axes, points, `${LOOKS[i]}${run.measured ? "" : " dashed"}`);
        if (run.measured) gt.dots(axes, points);
      });
      gt.follow(axes, all, (l) => [`layer ${all[l]}`, runs.map((run) => [name(run.setting), l < run.ratios.length ? gt.short(run.ratios[l]) : "none"])]);
      return axes.picture;
    }, () => [["layer l", ...gt.training.runs.map((run) => name(run.setting))], layers().map((layer, l) => [String(layer), ...gt.training.runs.map((run) => (l < run.ratios.length ? gt.short(run.ratios[l]) : ""))])]);
  };
})();
