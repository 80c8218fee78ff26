"use strict";
/* Draw what is in the page: the first picture at once, each of the others when the browser has time. */
(() => {
  const places = [...document.querySelectorAll("[data-plot]")];
  const draw = (place) => {
    gt.plots[place.dataset.kind](place, gt.data[place.dataset.plot]);
    place.dataset.drawn = "yes";
  };
  const next = () => {
    const place = places.shift();
    if (!place) { document.documentElement.dataset.ready = "yes"; return; }
    draw(place);
    setTimeout(next);
  };
  next();

  for (const button of document.querySelectorAll(".copy"))
    button.addEventListener("click", async () => {
      const code = button.parentElement.querySelector("code");
      try {
        await navigator.clipboard.writeText(code.textContent);
        button.textContent = "Copied";
        gt.say("Copied");
      } catch {  // no permission: select it, so that the reader's own keys copy it
        getSelection().selectAllChildren(code);
        button.textContent = "Selected";
        gt.say("Selected, copy it with your keyboard");
      }
      setTimeout(() => { button.textContent = "Copy"; }, 2000);
    });

  /* From a finding to the row of the layer that it names: of a parameter its module's. */
  for (const jump of document.querySelectorAll(".jump"))
    jump.addEventListener("click", (event) => {
      for (let name = jump.dataset.layer; name; name = name.includes(".") ? name.slice(0, name.lastIndexOf(".")) : "")
        if (gt.rows?.find((label) => label === name)) { event.preventDefault(); return; }
    });

  const links = new Map([...document.querySelectorAll(".contents a")].map((link) => [link.hash.slice(1), link]));
  const watcher = new IntersectionObserver((entries) => {
    for (const entry of entries)
      if (entry.isIntersecting) {
        links.forEach((link) => link.removeAttribute("aria-current"));
        links.get(entry.target.id)?.setAttribute("aria-current", "true");
      }
  }, { rootMargin: "-10% 0px -80% 0px" });
  document.querySelectorAll("main > section").forEach((section) => watcher.observe(section));
})();
