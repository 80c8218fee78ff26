"use strict";
/* d3-sankey lays out from left to right; here x and y are exchanged, so that the loss is on top as in the waterfall. */
gt.plots.flow = (place, data) => {
  const nodes = data.nodes.map(([label, look, count, carried, norm, inside, source, functions], index) =>
    ({ index, label, look, count, carried: gt.number(carried), norm: gt.number(norm), inside: gt.number(inside), source, functions }));
  const links = data.links.map(([source, target, carried, share, cos, norm, total, role], index) =>
    ({ index, source, target, value: Math.max(gt.number(carried), 1e-6), carried, share: gt.number(share), cos: gt.number(cos), norm: gt.number(norm), total: gt.number(total), role }));
  const branched = links.length >= nodes.length, frame = gt.make("div", { class: `flow${branched ? "" : " low"}`, tabindex: "0", role: "region", "aria-label": "Flow of the gradient; scrolls" });
  const clear = gt.make("button", { type: "button", hidden: "" }, "Show all ways");
  clear.addEventListener("click", () => mark(-1));
  place.append(gt.legend([...data.looks, ["against", "works against the sum"]]), clear, frame);
  let boxes = [], ways = [], marked = -1;
  gt.fitted(place, () => { draw(); mark(marked); });

  /* A way that passes by layers of boxes gets a lane there: a box that is not drawn, of the same width. */
  function lanes() {
    const depth = new Array(nodes.length).fill(0);
    const ordered = [...links].sort((a, b) => a.source - b.source || a.target - b.target);  // stretches are in the order of the pass
    for (const link of ordered) depth[link.target] = Math.max(depth[link.target], depth[link.source] + 1);
    const all = nodes.map((node) => ({ ...node, level: depth[node.index] })), parts = [];
    for (const link of links) {
      let from = link.source;
      for (let level = depth[link.source] + 1; level < depth[link.target]; level += 1) {
        all.push({ index: all.length, lane: true, level });
        parts.push({ ...link, way: link.index, source: from, target: all.length - 1 });
        from = all.length - 1;
      }
      parts.push({ ...link, way: link.index, source: from, target: link.target });
    }
    return { nodes: all, links: parts, numLevels: 1 + Math.max(...depth) };
  }

  function draw() {
    const rem = gt.rem(), room = frame.clientWidth - 1.25 * rem, graph = lanes();
    const abreast = Math.max(...d3.rollup(graph.nodes, (v) => v.length, (node) => node.level).values());
    const gap = abreast > 1 ? Math.min(11 * rem, room * 0.5 / (abreast - 1)) : 0;
    const wide = Math.min(18 * rem, room * 0.3) + gap * (abreast - 1), height = Math.max(graph.numLevels * step(graph.numLevels) * rem, 4 * rem);
    d3.sankey().nodeAlign((node) => node.level).nodeWidth(0.625 * rem).nodePadding(gap).iterations(graph.nodes.length > 400 ? 2 : 12)
      .extent([[0, 0], [height, wide]])(graph);
    const picture = gt.svg("svg", { width: room, height: height + rem, role: "group", "aria-label": "Flow of the gradient" });
    const shift = 0.375 * rem, groups = links.map((link) => {
      const group = gt.svg("g", { class: `way${link.share < 0 ? " against" : ""}`, "data-way": link.index });
      gt.tells(group, () => aboutWay(link));
      picture.append(group);
      return group;
    });
    for (const part of graph.links) groups[part.way].append(gt.svg("path", { d: ribbon(part, shift) }));
    for (const part of graph.links) if (part.role === "skip" && !part.source.lane && part.target.lane && part.width > 3 * rem)
      picture.append(gt.svg("text", { class: "skip-word", x: part.y1 + shift, y: (part.target.x0 + part.target.x1) / 2, dy: "0.35em", "text-anchor": "middle" }, "skip"));
    ways = groups;
    boxes = graph.nodes.filter((node) => !node.lane).map((node) => {
      const box = gt.svg("g", { class: "box", tabindex: "0", role: "button", "aria-pressed": "false", "data-node": node.index,
        "aria-label": `${node.label}, carries ${gt.percent(node.carried)}; mark its critical path` },
      gt.svg("rect", { class: node.look, x: node.y0 + shift, y: node.x0, width: Math.max(node.y1 - node.y0, 3), height: node.x1 - node.x0, rx: 2 }));
      const beside = Math.min(room, ...graph.nodes.filter((other) => other.level === node.level && other.y0 > node.y1).map((other) => other.y0));
      const text = clip(node.label, (beside - node.y1 - rem) / (0.47 * rem));
      if (text && text !== node.label) box.setAttribute("aria-label", `${text} (${box.getAttribute("aria-label")})`);  // what is seen comes first
      if (text) box.append(gt.svg("text", { class: "halo", x: Math.max(node.y1, node.y0 + 3) + shift + 0.375 * rem, y: (node.x0 + node.x1) / 2, dy: "0.35em" }, text));
      box.addEventListener("click", () => mark(marked === node.index ? -1 : node.index));
      box.addEventListener("keydown", (event) => {
        if (event.key !== "Enter" && event.key !== " ") return;
        event.preventDefault();
        mark(marked === node.index ? -1 : node.index);
      });
      gt.tells(box, () => aboutBox(node));
      picture.append(box);
      return box;
    });
    frame.replaceChildren(picture);
  }

  /* Room for a box, in rem; on paper so much that all fit on a page below the heading, if they can. */
  function step(numLevels) {
    return document.documentElement.matches(".on-paper") ? Math.max(1, Math.min(1.5, 42 / numLevels)) : 2.5;
  }

  /* From box to box, and through a lane, with upright ends: as wide at both ends as what it carries. Parts of one way
     overlap by a pixel, or a seam would show. */
  function ribbon(part, shift) {
    const half = Math.max(part.width, 1) / 2, top = part.source.lane ? part.source.x0 - 1 : part.source.x1, bottom = part.target.x0;
    const [a, b] = [part.y0 + shift, part.y1 + shift];
    const start = part.source.lane ? `M${a - half},${top}V${part.source.x1}` : `M${a - half},${top}`, from = part.source.x1, bend = (from + bottom) / 2;
    return `${start}C${a - half},${bend} ${b - half},${bend} ${b - half},${bottom}H${b + half}C${b + half},${bend} ${a + half},${bend} ${a + half},${from}V${top}Z`;
  }

  function clip(text, length) {
    const most = Math.floor(length);
    if (most < 4) return "";
    return text.length <= most ? text : `…${text.slice(text.length - most + 1)}`;
  }

  function aboutWay(link) {
    const pairs = [["carries", gt.percent(gt.number(link.carried))], ["share of the sum", gt.percent(link.share)], ["cos to the sum", gt.short(link.cos)],
      ["|this way|", gt.short(link.norm)], ["|sum|", gt.short(link.total)], ["merge gain", `${gt.decades(Math.log10(link.total / link.norm))} decades`]];
    const role = link.role ? ` (${link.role})` : "";
    return [`${nodes[link.source].label} → ${nodes[link.target].label}${role}`, pairs];
  }

  function aboutBox(node) {
    const pairs = [["carries", gt.percent(node.carried)], ["|gradient| arriving", gt.short(node.norm)], ["gain inside", `${gt.decades(node.inside)} decades`], ["ops", node.functions]];
    if (node.count > 1) pairs.unshift(["alike", String(node.count)]);
    if (node.source) pairs.push(["line", node.source]);
    return [node.label, pairs];
  }

  /* The critical path: from the box back to the loss, always by the way that brings the most. */
  function mark(index) {
    marked = index;
    const onPath = new Set(), steps = new Set();
    for (let at = index; at >= 0 && !onPath.has(at); at = data.chosen[at]) {
      onPath.add(at);
      steps.add(`${data.chosen[at]} ${at}`);
    }
    boxes.forEach((box, i) => {
      box.classList.toggle("dim", index >= 0 && !onPath.has(i));
      box.setAttribute("aria-pressed", String(i === index));
    });
    ways.forEach((way, i) => {
      const critical = index >= 0 && steps.has(`${links[i].source} ${links[i].target}`);
      way.classList.toggle("critical-way", critical);
      way.classList.toggle("dim", index >= 0 && !critical);
    });
    clear.hidden = index < 0;
    if (index >= 0 && document.activeElement?.closest(".flow")) gt.say(`Critical path of ${nodes[index].label}: ${onPath.size} boxes`);
  }
};
