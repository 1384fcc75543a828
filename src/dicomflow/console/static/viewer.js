// The series viewer: frames come from the server as PNG through a window; scrolling, windowing, play, by mouse and keys.
"use strict";
(async () => {
  const viewer = document.querySelector(".viewer");
  const by = (id) => document.getElementById(id);
  const stage = by("stage"), canvas = by("picture"), reason = by("reason");
  const slider = by("slider"), center = by("center"), width = by("width"), preset = by("preset");
  const KEPT = 120, AHEAD = 4, PLAY_EVERY = 100, WHEEL_STEP = 30;
  const PRESETS = {
    CT: [["soft tissue", 40, 400], ["lung", -600, 1500], ["bone", 480, 2500], ["brain", 40, 80], ["mediastinum", 50, 350]],
  };

  const answer = await fetch(`${location.pathname}.json${location.search}`, { credentials: "same-origin" });
  if (!answer.ok) { fail("the series cannot be read"); return; }
  const page = await answer.json();
  const frames = [];
  for (const instance of page.instances) {
    for (let frame = 0; frame < instance.frames; frame += 1) frames.push({ instance, frame });
  }
  if (!frames.length) { fail("The series has no instances."); return; }

  let index = Math.max(0, frames.findIndex((each) => `#${each.instance.sop_instance_uid}` === location.hash));
  let chosen = null; // the window asked for; null is the object's own
  let shown = null; // the window of the picture on the stage
  let inverted = false, playing = 0, loading = false, stale = false, wheel = 0;
  const kept = new Map();

  slider.max = String(frames.length);
  by("count").textContent = String(frames.length);
  for (const [name, level, span] of PRESETS[viewer.dataset.modality] || []) {
    const option = document.createElement("option");
    option.value = `${level},${span}`;
    option.textContent = `${name} (${level}/${span})`;
    preset.append(option);
  }

  function fail(text) {
    reason.textContent = text;
    reason.hidden = false;
    canvas.setAttribute("aria-label", text);
  }

  function address(place) {
    const { instance, frame } = frames[place];
    const query = new URLSearchParams();
    if (chosen) { query.set("center", chosen.center); query.set("width", chosen.width); }
    if (inverted) query.set("invert", "1");
    const asked = query.toString();
    return `/instances/${instance.sop_instance_uid}/frames/${frame}.png${asked ? `?${asked}` : ""}`;
  }

  async function load(url) {
    const known = kept.get(url);
    if (known) { kept.delete(url); kept.set(url, known); return known; }
    const got = await fetch(url, { credentials: "same-origin" });
    let picture;
    if (got.ok) {
      const level = got.headers.get("x-center"), span = got.headers.get("x-width");
      const bitmap = await createImageBitmap(await got.blob());
      picture = { bitmap, window: level === null ? null : { center: Number(level), width: Number(span) } };
    } else if (got.status === 401) {
      location.reload();
      throw new Error("logged out");
    } else {
      picture = { error: (await got.json()).error };
    }
    kept.set(url, picture);
    if (kept.size > KEPT) {
      const [oldest, dropped] = kept.entries().next().value;
      kept.delete(oldest);
      if (dropped.bitmap) dropped.bitmap.close();
    }
    return picture;
  }

  // One picture is fetched at a time, always the one wanted last; those after it follow when nothing else is wanted.
  async function show() {
    tell();
    if (loading) { stale = true; return; }
    loading = true;
    try {
      do {
        stale = false;
        const place = index;
        draw(await load(address(place)), place);
      } while (stale);
      const from = index;
      for (let step = 1; step <= AHEAD && !stale && from === index; step += 1) {
        if (frames[from + step]) await load(address(from + step));
      }
    } catch {
      fail("The console does not answer.");
    } finally {
      loading = false;
    }
    if (stale) show();
  }

  function draw(picture, place) {
    const number = `${place + 1} of ${frames.length}`;
    if (picture.error) { shown = null; fail(picture.error); by("viewer-status").textContent = `Image ${number} ${picture.error}`; return; }
    reason.hidden = true;
    canvas.width = picture.bitmap.width;
    canvas.height = picture.bitmap.height;
    canvas.getContext("2d").drawImage(picture.bitmap, 0, 0);
    shown = picture.window;
    const text = shown ? `C ${shown.center} W ${shown.width}` : "colour";
    by("corner-window").textContent = text;
    canvas.setAttribute("aria-label", `Image ${number}, ${text}`);
    canvas.dataset.place = String(place);
    if (!playing) by("viewer-status").textContent = `Image ${number}, ${text}`;
    for (const [field, value] of [[center, shown && shown.center], [width, shown && shown.width]]) {
      field.disabled = !shown;
      if (shown && document.activeElement !== field) field.value = String(value);
    }
  }

  function tell() {
    const { instance, frame } = frames[index];
    slider.value = String(index + 1);
    slider.setAttribute("aria-valuetext", `image ${index + 1} of ${frames.length}`);
    by("place").textContent = String(index + 1);
    by("corner-place").textContent = `Image ${index + 1} / ${frames.length}` + (instance.frames > 1 ? `, frame ${frame + 1}` : "");
    by("details").href = `/instances/${instance.sop_instance_uid}`;
  }

  function go(place) {
    const next = Math.min(frames.length - 1, Math.max(0, place));
    if (next !== index) { index = next; show(); }
  }

  function setWindow(level, span) {
    if (!Number.isFinite(level) || !Number.isFinite(span)) return;
    chosen = { center: Math.round(level * 10) / 10, width: Math.max(1, Math.round(span * 10) / 10) };
    show();
  }

  function nudge(level, span) {
    const now = chosen || shown;
    if (now) { preset.value = ""; setWindow(now.center + level * Math.max(1, now.width / 40), now.width + span * Math.max(1, now.width / 20)); }
  }

  function invert() {
    inverted = !inverted;
    by("invert").setAttribute("aria-pressed", String(inverted));
    show();
  }

  function reset() {
    chosen = null; inverted = false; preset.value = "";
    by("invert").setAttribute("aria-pressed", "false");
    show();
  }

  function play() {
    if (playing) { clearInterval(playing); playing = 0; } else {
      playing = setInterval(() => { if (!loading || !stale) { index = (index + 1) % frames.length; show(); } }, PLAY_EVERY);
    }
    by("play").setAttribute("aria-pressed", String(Boolean(playing)));
    by("play").textContent = playing ? "Stop" : "Play";
  }

  const KEYS = {
    ArrowDown: () => go(index + 1), ArrowRight: () => go(index + 1), ArrowUp: () => go(index - 1), ArrowLeft: () => go(index - 1),
    PageDown: () => go(index + 10), PageUp: () => go(index - 10), Home: () => go(0), End: () => go(frames.length - 1),
    a: () => nudge(-1, 0), d: () => nudge(1, 0), w: () => nudge(0, 1), s: () => nudge(0, -1),
    i: invert, r: reset, " ": play,
  };
  stage.addEventListener("keydown", (event) => {
    const act = KEYS[event.key.length === 1 ? event.key.toLowerCase() : event.key];
    if (!act || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    act();
  });
  stage.addEventListener("wheel", (event) => {
    event.preventDefault();
    wheel += event.deltaMode ? event.deltaY * WHEEL_STEP : event.deltaY;
    const steps = Math.trunc(wheel / WHEEL_STEP);
    if (steps) { wheel -= steps * WHEEL_STEP; go(index + Math.sign(steps) * Math.min(Math.abs(steps), 3)); }
  }, { passive: false });
  stage.addEventListener("pointerdown", (event) => {
    const from = chosen || shown;
    if (!from || event.button !== 0) return;
    const [x, y] = [event.clientX, event.clientY];
    stage.setPointerCapture(event.pointerId);
    const scale = Math.max(0.2, from.width / 300);
    const move = (moved) => {
      preset.value = "";
      setWindow(from.center + (moved.clientY - y) * scale, from.width + (moved.clientX - x) * scale);
    };
    const end = () => { stage.removeEventListener("pointermove", move); stage.removeEventListener("pointerup", end); stage.removeEventListener("pointercancel", end); };
    stage.addEventListener("pointermove", move);
    stage.addEventListener("pointerup", end);
    stage.addEventListener("pointercancel", end);
  });
  slider.addEventListener("input", () => go(Number(slider.value) - 1));
  for (const field of [center, width]) {
    field.addEventListener("change", () => { preset.value = ""; setWindow(Number(center.value), Number(width.value)); });
  }
  preset.addEventListener("change", () => {
    if (!preset.value) { chosen = null; show(); return; }
    const [level, span] = preset.value.split(",").map(Number);
    setWindow(level, span);
  });
  by("play").addEventListener("click", play);
  by("invert").addEventListener("click", invert);
  by("reset").addEventListener("click", reset);
  stage.dataset.ready = "1";
  show();
})();
