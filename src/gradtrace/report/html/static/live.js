"use strict";
/* While the run goes on: ask the server for news, and load the page again when there is some, at the same place. */
(() => {
  const KEY = "gradtrace", EVERY_MS = 3000;
  const button = document.getElementById("live");
  const kept = JSON.parse(sessionStorage.getItem(KEY) ?? "{}");
  let stamp = null, paused = kept.paused ?? false;

  const show = () => { button.textContent = paused ? "Live: paused" : "Live: on"; button.setAttribute("aria-pressed", String(!paused)); };
  button.addEventListener("click", () => { paused = !paused; show(); });
  show();

  const ready = setInterval(() => {
    if (document.documentElement.dataset.ready !== "yes") return;
    clearInterval(ready);
    if (kept.zoom) gt.zoom.to(kept.zoom);
    if (kept.top) scrollTo({ top: kept.top, behavior: "instant" });
  }, 20);

  const keep = () => sessionStorage.setItem(KEY, JSON.stringify({ paused, zoom: gt.zoom.steps, top: scrollY }));
  addEventListener("pagehide", keep);

  setInterval(async () => {
    if (paused || document.hidden || document.querySelector("#tip:not([hidden])")) return;
    try {
      const news = await (await fetch("news", { cache: "no-store" })).json();
      if (stamp !== null && news.stamp !== stamp) { keep(); location.reload(); }
      stamp = news.stamp;
    } catch {
      button.textContent = "Live: the server is gone";
    }
  }, EVERY_MS);
})();
