// What the reader looks at, in the address of the page: written without asking the server, read once on opening.
// Values that make no sense are passed over; what is as it would be anyway is left out.

const WRITE_AFTER_MILLISECONDS = 300; // browsers refuse to rewrite the address many times a second
const MAX_ZOOM = 16;
const SPEEDS = [0.25, 0.5, 1, 2, 4];
const TOPS = [16, 32, 64, 128, 255];

// Name -> [how to read a text; undefined if it makes no sense, how to write a value; "" to leave it out].
function fieldsOf(data, start) {
  const oneOf = (allowed, usual) => [
    (text) => allowed.find((value) => String(value) === text),
    (value) => (value === usual ? "" : String(value)),
  ];
  const possible = data.against.filter((one) => !one.why).map((one) => one.key);
  const alignments = ["steps", ...(data.noNoise ? [] : ["noise"]), ...(data.noTime ? [] : ["time"])];
  const lanes = data.lanes.map((_, index) => index);
  return {
    at: [(text) => number(text, 0, 1), (at) => (at === start.at ? "" : String(Number(at.toFixed(4))))],
    align: oneOf(alignments, "steps"),
    view: oneOf(["forming", "final"], "forming"),
    diff: oneOf(["off", ...possible], "off"),
    top: oneOf(TOPS, 32),
    speed: oneOf(SPEEDS, 1),
    zoom: [readZoom, ({ by, x, y }) => (by === 1 ? "" : [by, x, y].map((value) => Number(value.toFixed(3))).join(","))],
    frame: oneOf(data.videoFrames.map((_, index) => index), 0),
    along: oneOf(data.videoFrames.length > 1 ? ["steps", "frames"] : ["steps"], "steps"),
    before: oneOf(["off", ...lanes], "off"),
    after: oneOf(lanes, start.after),
    film: oneOf(data.videoFrames.length > 1 ? ["lanes", ...lanes] : ["lanes"], "lanes"),
  };
}

function startOf(data) {
  const places = data.lanes.some((lane) => lane.frames.length) ? placesOf(data, scaleOf(data, "steps")) : [1];
  return {
    at: places[Math.floor(places.length / 2)], align: "steps", view: "forming", diff: "off", top: 32, speed: 1,
    zoom: { by: 1, x: 0, y: 0 }, frame: 0, along: "steps", film: "lanes", before: "off", after: data.pair[1], cut: 0.5,
  };
}

function readAddress(data, start) {
  const asked = new URLSearchParams(location.search);
  const state = { ...start };
  Object.entries(fieldsOf(data, start)).forEach(([name, [read]]) => {
    const value = asked.has(name) ? read(asked.get(name)) : undefined;
    if (value !== undefined) state[name] = value;
  });
  return state;
}

// What was chosen before, as far as it is still possible: another prompt may have no picture to compare with.
function stillPossible(before, data, start) {
  const state = { ...start };
  Object.entries(fieldsOf(data, start)).forEach(([name, [read, write]]) => {
    const text = before[name] === undefined ? "" : write(before[name]);
    const value = text === "" ? undefined : read(text);
    if (value !== undefined) state[name] = value;
  });
  return state;
}

function addressWriter(data, start) {
  const fields = Object.entries(fieldsOf(data, start));
  const page = location.pathname;
  let timer = 0;
  const write = (state) => {
    if (location.pathname !== page) return; // the reader has gone to another page
    const url = new URL(location.href);
    fields.forEach(([name, [, text]]) => {
      const value = text(state[name]);
      if (value === "") url.searchParams.delete(name);
      else url.searchParams.set(name, value);
    });
    if (url.href !== location.href) history.replaceState(history.state, "", url);
  };
  return {
    soon(state) {
      clearTimeout(timer);
      timer = setTimeout(() => write(state), WRITE_AFTER_MILLISECONDS);
    },
    stop() { clearTimeout(timer); },
  };
}

function number(text, low, high) {
  const value = text.trim() === "" ? NaN : Number(text);
  return value >= low && value <= high ? value : undefined;
}

function readZoom(text) {
  const [by, x, y, ...more] = text.split(",").map((part) => number(part, 1 - MAX_ZOOM, MAX_ZOOM));
  if (more.length || by === undefined || x === undefined || y === undefined || by < 1) return undefined;
  return within({ by, x, y });
}

// Keeps the picture's edges outside the tile: x and y are the shift in tile widths and heights.
function within({ by, x, y }) {
  const size = clamp(by, 1, MAX_ZOOM);
  return { by: size, x: clamp(x, 1 - size, 0), y: clamp(y, 1 - size, 0) };
}
