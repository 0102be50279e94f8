// Draws the comparing player and moves it. All texts are set as text; nothing here asks the server.

const PLAY_MILLISECONDS = 5000;
const COLUMNS = 7;

export default function (component) {
  const root = component.parentElement.querySelector(".player");
  const before = root.state || { at: null, byNoise: false };
  if (before.timer) cancelAnimationFrame(before.timer);
  const data = component.data;
  const state = { ...before, timer: 0, byNoise: before.byNoise && data.byNoise };
  root.state = state;
  root.classList.toggle("small", data.small);
  const view = { data, state, scale: scaleOf(data, state.byNoise) };
  const places = placesOf(data, view.scale);
  state.at ??= places[Math.floor(places.length / 2)] ?? 1;
  const bar = makeBar(view);
  const tiles = data.lanes.map((lane) => makeTile(lane, data));
  const grid = element("div", "tiles");
  grid.style.setProperty("--tile", data.lanes.length > 6 ? "160px" : data.lanes.length > 4 ? "190px" : "256px");
  grid.append(...tiles.map((tile) => tile.node));
  const strip = element("div", "strip");
  root.replaceChildren(bar.node, grid, strip);

  let columns = makeStrip(strip, view, (at) => go(at));

  function go(at) {
    state.at = Math.min(1, Math.max(0, at));
    bar.show(state.at);
    tiles.forEach((tile) => tile.show(view.scale, state.at));
    columns(state.at);
  }
  bar.onMove((at) => { stop(); go(at); });
  bar.onPlay(() => (state.timer ? stop() : play()));
  bar.onAlign((byNoise) => {
    state.byNoise = byNoise;
    view.scale = scaleOf(data, byNoise);
    columns = makeStrip(strip, view, (at) => go(at));
    go(state.at);
  });
  function stop() {
    cancelAnimationFrame(state.timer);
    state.timer = 0;
    bar.playing(false);
  }
  function play() {
    const from = state.at >= 1 ? 0 : state.at;
    const begun = performance.now() - from * PLAY_MILLISECONDS;
    const tick = (now) => {
      go((now - begun) / PLAY_MILLISECONDS);
      if (state.at >= 1) stop();
      else state.timer = requestAnimationFrame(tick);
    };
    bar.playing(true);
    state.timer = requestAnimationFrame(tick);
  }
  go(state.at);
  return () => cancelAnimationFrame(state.timer);
}

// Where a frame lies between 0 and 1: by share of its steps, or by log-SNR from the noisiest to the clearest frame.
function scaleOf(data, byNoise) {
  const frames = data.lanes.flatMap((lane) => lane.frames);
  if (!byNoise) {
    const first = Math.min(1, ...frames.map((frame) => frame.progress));
    const span = 1 - first || 1;
    return { of: (frame) => (frame.progress - first) / span, text: (at) => `${Math.round((first + at * span) * 100)} %` };
  }
  const values = frames.map((frame) => frame.logSnr);
  const low = Math.min(...values);
  const span = Math.max(...values) - low || 1;
  return { of: (frame) => (frame.logSnr - low) / span, text: (at) => signed(low + at * span) };
}

function nearest(frames, scale, at) {
  let best = 0;
  frames.forEach((frame, index) => {
    if (Math.abs(scale.of(frame) - at) < Math.abs(scale.of(frames[best]) - at)) best = index;
  });
  return best;
}

function makeBar({ data, state, scale }) {
  const node = element("div", "bar");
  const play = element("button", "play", "Play");
  play.type = "button";
  const range = element("input");
  Object.assign(range, { type: "range", min: 0, max: 1000, step: 5 });
  range.setAttribute("aria-label", "Position of all lanes");
  const output = element("output");
  node.append(play, range, output);
  const align = element("div", "align");
  const buttons = [["Steps", false], ["Noise level", true]].map(([text, byNoise]) => {
    const button = element("button", "", text);
    button.type = "button";
    button.title = byNoise ? "Show all lanes at the same log-SNR" : "Show all lanes at the same share of their steps";
    button.setAttribute("aria-pressed", String(state.byNoise === byNoise));
    return [button, byNoise];
  });
  if (data.byNoise) {
    align.append(element("span", "soft", "Align by"), ...buttons.map(([button]) => button));
    node.append(align);
  }
  let text = scale.text;
  const label = () => (state.byNoise ? "log-SNR " : "") + text(state.at) + (state.byNoise ? "" : " of steps");
  return {
    node,
    show(at) {
      range.value = String(Math.round(at * 1000));
      output.textContent = label();
      range.setAttribute("aria-valuetext", label());
    },
    playing(on) { play.textContent = on ? "Pause" : "Play"; },
    onMove(act) { range.oninput = () => act(Number(range.value) / 1000); },
    onPlay(act) { play.onclick = act; },
    onAlign(act) {
      buttons.forEach(([button, byNoise]) => {
        button.onclick = () => {
          text = scaleOf(data, byNoise).text;
          buttons.forEach(([other, value]) => other.setAttribute("aria-pressed", String(value === byNoise)));
          act(byNoise);
        };
      });
    },
  };
}

function makeTile(lane, data) {
  const node = element("figure");
  const caption = element("figcaption", "soft");
  node.append(nameOf(lane, "div", "name"));
  if (!lane.frames.length && !lane.final) {
    node.append(element("div", "gap", lane.why), caption);
    caption.textContent = lane.facts.join(" · ");
    return { node, show() {} };
  }
  const image = element("img");
  node.append(image, caption);
  if (!lane.frames.length) {
    Object.assign(image, { src: lane.final, alt: `${lane.label}, final image of ${data.subject}` });
    caption.textContent = `Final image. ${lane.why}`;
    return { node, show() {} };
  }
  let shown = -1;
  return {
    node,
    show(scale, at) {
      const index = nearest(lane.frames, scale, at);
      if (index === shown) return;
      shown = index;
      const frame = lane.frames[index];
      image.src = frame.src;
      image.alt = altOf(lane, frame, data);
      const noise = frame.logSnr === null ? "" : ` · log-SNR ${signed(frame.logSnr)}`;
      caption.textContent = `Call ${frame.step} of ${frame.calls}${noise}`;
    },
  };
}

// Where the columns of the filmstrip lie: at frames, evenly chosen, of the lane that has most.
function placesOf(data, scale) {
  const frames = data.lanes.reduce((most, lane) => (lane.frames.length > most.length ? lane.frames : most), []);
  const count = Math.min(COLUMNS, frames.length);
  const chosen = Array.from({ length: count }, (_, i) =>
    frames[count === 1 ? frames.length - 1 : Math.round((i * (frames.length - 1)) / (count - 1))]);
  return chosen.map((frame) => scale.of(frame));
}

// The filmstrip; returns a function that marks the column at a position.
function makeStrip(strip, { data, scale }, go) {
  const places = placesOf(data, scale);
  const table = element("table");
  const head = element("tr");
  head.append(element("th"), ...places.map((at) => element("th", "", scale.text(at))), element("th", "", "Final"));
  const body = element("tbody");
  const marks = places.map(() => []);
  data.lanes.forEach((lane) => body.append(makeRow(lane, data, scale, places, marks, go)));
  const top = element("thead");
  top.append(head);
  table.append(top, body);
  strip.replaceChildren(table);
  return (at) => {
    const now = places.reduce((best, place, i) => (Math.abs(place - at) < Math.abs(places[best] - at) ? i : best), 0);
    marks.forEach((cells, i) => cells.forEach((cell) => cell.classList.toggle("now", i === now)));
  };
}

function makeRow(lane, data, scale, places, marks, go) {
  const row = element("tr");
  const name = nameOf(lane, "th", "");
  name.scope = "row";
  lane.facts.forEach((fact) => name.append(element("div", "soft", fact)));
  row.append(name);
  let last = -1;
  places.forEach((at, i) => {
    if (!lane.frames.length) return;
    const index = nearest(lane.frames, scale, at);
    const cell = element("td");
    const frame = lane.frames[index];
    if (index === last) {
      cell.append(element("div", "again soft", `still call ${frame.step}`));
    } else {
      const image = element("img");
      Object.assign(image, { src: frame.src, alt: altOf(lane, frame, data), title: `Call ${frame.step} of ${frame.calls}` });
      cell.append(image);
    }
    last = index;
    cell.onclick = () => go(at);
    marks[i].push(cell);
    row.append(cell);
  });
  if (!lane.frames.length) {
    const cell = element("td", "why", lane.why);
    cell.colSpan = Math.max(1, places.length);
    row.append(cell);
  }
  const end = element("td", "final");
  if (lane.final) {
    const image = element("img");
    Object.assign(image, { src: lane.final, alt: `${lane.label}, final image of ${data.subject}` });
    end.append(image);
  }
  row.append(end);
  return row;
}

function nameOf(lane, tag, classes) {
  const node = element(tag, classes);
  const mark = element("span", "", `${lane.glyph} `);
  mark.style.color = lane.colour;
  mark.setAttribute("aria-hidden", "true");
  node.append(mark, document.createTextNode(lane.label));
  if (lane.baseline) node.append(element("span", "tag", "baseline"));
  return node;
}

function altOf(lane, frame, data) {
  return `${lane.label}, ${data.kind} at call ${frame.step} of ${frame.calls}, ${data.subject}`;
}

function signed(value) {
  return (value < 0 ? "−" : "+") + Math.abs(value).toFixed(1);
}

function element(tag, classes = "", text = "") {
  const node = document.createElement(tag);
  if (classes) node.className = classes;
  if (text) node.textContent = text;
  return node;
}
