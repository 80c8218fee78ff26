"use strict";
/* What every plot needs: the numbers, elements made without markup, numbers as text, and the tip under the pointer.
   Names reach the page as text nodes and attributes only, never as markup. */
const gt = { plots: {} };

gt.data = JSON.parse(document.getElementById("data").textContent);

gt.rem = () => parseFloat(getComputedStyle(document.documentElement).fontSize);

/* An element with attributes and children; a string child is text. */
gt.make = (name, attributes = {}, ...children) => fill(document.createElement(name), attributes, children);

gt.svg = (name, attributes = {}, ...children) =>
  fill(document.createElementNS("http://www.w3.org/2000/svg", name), attributes, children);

function fill(element, attributes, children) {
  for (const [key, value] of Object.entries(attributes))
    if (value !== undefined && value !== null) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

/* 'inf' and '-inf' are infinities in the numbers, null is NaN. */
gt.number = (value) => (value === null ? NaN : value === "inf" ? Infinity : value === "-inf" ? -Infinity : value);

gt.decades = (value) => {
  if (Number.isNaN(value)) return "NaN";
  if (!Number.isFinite(value)) return value < 0 ? "zero" : "inf";
  if (Math.abs(value) < 0.005) return "0.00";
  const digits = Math.abs(value) < 9.995 ? 2 : Math.abs(value) < 99.95 ? 1 : 0;
  return (value < 0 ? "−" : "+") + Math.abs(value).toFixed(digits);
};

gt.short = (value) => {
  if (Number.isNaN(value)) return "NaN";
  if (!Number.isFinite(value)) return value < 0 ? "−inf" : "inf";
  if (value === 0) return "0";
  const size = Math.abs(value);
  return size >= 0.01 && size < 1e4 ? String(Number(value.toPrecision(3))) : value.toExponential(1).replace("e+", "e");
};

gt.percent = (share) => (Number.isNaN(share) ? "NaN" : `${Number((100 * share).toPrecision(share < 0.1 ? 2 : 3))} %`);

const RAISED = { "-": "⁻", 0: "⁰", 1: "¹", 2: "²", 3: "³", 4: "⁴", 5: "⁵", 6: "⁶", 7: "⁷", 8: "⁸", 9: "⁹" };
gt.power = (exponent) =>
  exponent === 0 ? "1" : exponent === 1 ? "10" : "10" + [...String(exponent)].map((c) => RAISED[c] ?? c).join("");

/* Draw now, and again whenever `place` is wider or narrower, on paper too; returns a function that draws in any case. */
const redraws = [];
gt.fitted = (place, draw) => {
  let width = 0;
  const again = (always = false) => {
    if (place.clientWidth === 0 || (place.clientWidth === width && always !== true)) return;
    width = place.clientWidth;
    draw(width);
  };
  again();
  redraws.push(again);
  new ResizeObserver(again).observe(place);
  return () => draw(width);
};
for (const [event, onPaper] of [["beforeprint", true], ["afterprint", false]])
  addEventListener(event, () => {
    document.documentElement.classList.toggle("on-paper", onPaper);
    redraws.forEach((again) => again(true));  // in the colours of paper, and back
  });

/* ------------------------------------------------------------------------------------------------------------ tip */

const tip = document.getElementById("tip");

/* Show `title` and pairs of words beside a point of the window. */
gt.tell = (title, pairs, x, y) => {
  const list = gt.make("dl");
  for (const [word, value] of pairs) list.append(gt.make("dt", {}, word), gt.make("dd", {}, value));
  tip.replaceChildren(gt.make("b", {}, title), list);
  tip.hidden = false;
  const box = tip.getBoundingClientRect();
  const left = x + 16 + box.width > innerWidth ? Math.max(4, x - box.width - 12) : x + 16;
  const top = y + 16 + box.height > innerHeight ? Math.max(4, y - box.height - 12) : y + 16;
  tip.style.left = `${left}px`;
  tip.style.top = `${top}px`;
};

gt.hush = () => { tip.hidden = true; };

/* Tell about `element` under the pointer and under the keyboard's focus; `about` returns [title, pairs]. */
gt.tells = (element, about) => {
  element.addEventListener("pointermove", (event) => {
    event.stopPropagation();  // a mark on a chart speaks for itself, not for the step under it
    gt.tell(...about(event), event.clientX, event.clientY);
  });
  element.addEventListener("pointerleave", gt.hush);
  element.addEventListener("focus", () => {
    if (!element.matches(":focus-visible")) return;
    const box = element.getBoundingClientRect();
    gt.tell(...about(null), box.left + Math.min(box.width / 2, 320), box.bottom - 8);
  });
  element.addEventListener("blur", gt.hush);
};

addEventListener("keydown", (event) => { if (event.key === "Escape") gt.hush(); });
addEventListener("scroll", gt.hush, { passive: true });

gt.say = (text) => { document.getElementById("said").textContent = text; };

/* --------------------------------------------------------------------------------------------------------- legend */

/* [class of the swatch, words] pairs as a list. */
gt.legend = (pairs) =>
  gt.make("ul", { class: "legend" }, ...pairs.map(([look, words]) =>
    gt.make("li", {}, gt.make("span", { class: `swatch ${look}`, "aria-hidden": "true" }), words)));

/* A legend whose entries are pressed or not: a click on one hides its line, and calls `changed` with the hidden ones. */
gt.switches = (pairs, changed) => {
  const hidden = new Set();
  return gt.make("ul", { class: "legend" }, ...pairs.map(([look, words], i) => {
    const button = gt.make("button", { type: "button", class: "switch", "aria-pressed": "true" }, gt.make("span", { class: `swatch ${look}`, "aria-hidden": "true" }), words);
    button.addEventListener("click", () => {
      if (!hidden.delete(i)) hidden.add(i);
      button.setAttribute("aria-pressed", String(!hidden.has(i)));
      changed(hidden);
    });
    return gt.make("li", {}, button);
  }));
};

/* Buttons of which one is pressed. */
gt.choice = (name, words, chosen, choose) => {
  const group = gt.make("div", { class: "tools", role: "group", "aria-label": name });
  const buttons = words.map((word, i) => {
    const button = gt.make("button", { type: "button", "aria-pressed": String(i === chosen) }, word);
    button.addEventListener("click", () => {
      buttons.forEach((other) => other.setAttribute("aria-pressed", String(other === button)));
      choose(i);
    });
    return button;
  });
  group.append(...buttons);
  return group;
};
