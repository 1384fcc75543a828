// Draws the overview's charts from its JSON twin, again every few seconds; can be paused. No outside resource.
"use strict";
(() => {
  const EVERY = 5000;
  const SVG = "http://www.w3.org/2000/svg";
  const state = document.getElementById("live-state");
  const toggle = document.getElementById("live-toggle");
  const concerns = document.getElementById("concerns");
  const number = new Intl.NumberFormat("en");
  const clock = new Intl.DateTimeFormat("sv-SE", { dateStyle: "short", timeStyle: "medium" });
  let paused = false;
  let timer = 0;
  let shownConcerns = null;

  const at = (page, path) => path.split(".").reduce((value, name) => (value == null ? value : value[name]), page);

  const element = (name, attributes, children = []) => {
    const made = name === "li" || name === "a" || name === "span" || name === "strong"
      ? document.createElement(name) : document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.append(...children);
    return made;
  };

  const drawBars = (svg, page) => {
    const values = at(page, svg.dataset.bars) || [];
    const [width, height] = [240, 48];
    const top = Math.max(1, ...values);
    const step = width / Math.max(1, values.length);
    const bars = values.map((value, index) => {
      const tall = value ? Math.max(1.5, (value / top) * (height - 2)) : 0;
      const last = index === values.length - 1 ? "now" : "";
      return element("rect", { x: (index * step).toFixed(2), y: (height - tall).toFixed(2), width: (step * 0.78).toFixed(2), height: tall.toFixed(2), class: last });
    });
    const base = element("rect", { x: 0, y: height - 0.75, width, height: 0.75, class: "base" });
    svg.replaceChildren(base, ...bars);
    const recent = values.length > 1 ? values[values.length - 2] : 0;
    svg.setAttribute("aria-label", `${svg.dataset.name} a minute, over ${values.length} minutes: at most ${number.format(Math.max(0, ...values))}, ${number.format(recent)} in the last whole minute`);
  };

  const drawLines = (svg, page) => {
    const samples = at(page, svg.dataset.lines) || [];
    const [width, height] = [600, 160];
    const names = ["to_deliver", "to_index", "to_import"];
    const end = Date.parse(page.at);
    const begin = end - 3600000;
    const top = Math.max(1, ...samples.flatMap((sample) => names.map((name) => sample[name])));
    const grid = [0, 0.5, 1].map((part) => element("path", { class: "grid", d: `M0 ${height * part}H${width}` }));
    const lines = names.map((name, index) => {
      const points = samples.map((sample) => {
        const x = Math.max(0, ((Date.parse(sample.at) - begin) / (end - begin)) * width);
        const y = height - (sample[name] / top) * (height - 4) - 1 - index;
        return `${x.toFixed(1)} ${y.toFixed(1)}`;
      });
      return element("path", { class: `l${index}`, d: points.length ? `M${points.join("L")}H${width}` : "" });
    });
    svg.replaceChildren(...grid, ...lines);
    svg.setAttribute("aria-label", `Instances that wait, over the last hour: at most ${number.format(top)} at one stage`);
    document.getElementById("lines-foot").textContent = samples.length > 1
      ? `The last hour, up to ${number.format(top)}; sampled every 10 seconds since this console began.`
      : "Sampled every 10 seconds since this console began.";
  };

  const showConcerns = (page) => {
    const text = JSON.stringify(page.concerns);
    if (text === shownConcerns) return;
    const first = shownConcerns === null;
    shownConcerns = text;
    if (first) return; // the page came with them
    const items = page.concerns.map((concern) => {
      const link = element("a", { href: concern.href }, [concern.title]);
      return element("li", { class: concern.level }, [link, element("span", {}, [concern.advice])]);
    });
    const none = element("li", { class: "good" }, [element("strong", {}, ["Nothing."]), element("span", {}, [`${page.edges.all} edges heard of, nothing failed, nothing given up.`])]);
    concerns.replaceChildren(...(items.length ? items : [none]));
  };

  const show = (page) => {
    document.querySelectorAll("[data-field]").forEach((field) => {
      const value = at(page, field.dataset.field);
      if (typeof value === "number") field.textContent = number.format(value);
    });
    document.querySelectorAll("[data-bars]").forEach((svg) => drawBars(svg, page));
    document.querySelectorAll("[data-lines]").forEach((svg) => drawLines(svg, page));
    showConcerns(page);
  };

  const update = async () => {
    clearTimeout(timer);
    if (!document.hidden) {
      try {
        const answer = await fetch("/overview.json", { credentials: "same-origin" });
        if (answer.status === 401) { location.reload(); return; }
        if (!answer.ok) throw new Error(String(answer.status));
        const page = await answer.json();
        show(page);
        state.textContent = `as of ${clock.format(new Date(page.at))}`;
      } catch {
        state.textContent = "the console does not answer; trying again";
      }
    }
    if (!paused) timer = setTimeout(update, EVERY);
  };

  toggle.hidden = false;
  toggle.addEventListener("click", () => {
    paused = !paused;
    toggle.setAttribute("aria-pressed", String(paused));
    if (paused) clearTimeout(timer); else update();
  });
  document.addEventListener("visibilitychange", () => { if (!document.hidden && !paused) update(); });
  update();
})();
