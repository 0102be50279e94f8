// Where a frame lies between 0 and 1, and which frame a lane shows at a place: by share of its steps, noise or time.

const COLUMNS = 7;

const SCALES = { steps: stepScale, noise: noiseScale, time: timeScale };

function scaleOf(data, align) {
  return SCALES[align](data.lanes.flatMap((lane) => lane.frames));
}

function stepScale(frames) {
  const first = Math.min(1, ...frames.map((frame) => frame.progress));
  const span = 1 - first || 1;
  return {
    of: (frame) => (frame.progress - first) / span,
    text: (at) => `${Math.round(Math.min(1, first + at * span) * 100)} %`, // final pictures alone: all are at 100 %
    label: (text) => `${text} of steps`,
    pick: nearest,
  };
}

// From the noisiest frame to the clearest; log-SNR is the logarithm of the ratio of signal power to noise power.
function noiseScale(frames) {
  const values = frames.map((frame) => frame.logSnr);
  const low = Math.min(...values);
  const span = Math.max(...values) - low || 1;
  return {
    of: (frame) => (frame.logSnr - low) / span,
    text: (at) => signed(low + at * span),
    label: (text) => `log-SNR ${text}`,
    pick: nearest,
  };
}

// From the start of the pipeline to the end of the slowest lane; a lane shows what it has by then.
function timeScale(frames) {
  const span = Math.max(...frames.map((frame) => frame.ms)) || 1;
  return {
    of: (frame) => frame.ms / span,
    text: (at) => milliseconds(at * span),
    label: (text) => `${text} after the start`,
    pick: newest,
    even: true,
  };
}

function nearest(frames, scale, at) {
  let best = 0;
  frames.forEach((frame, index) => {
    if (Math.abs(scale.of(frame) - at) < Math.abs(scale.of(frames[best]) - at)) best = index;
  });
  return best;
}

// The last frame that is there by now; -1 before the first.
function newest(frames, scale, at) {
  return frames.findLastIndex((frame) => scale.of(frame) <= at + 1e-9);
}

// Where the columns of the filmstrip lie: at frames, evenly chosen, of the lane that has most; with time, evenly.
function placesOf(data, scale) {
  const frames = data.lanes.reduce((most, lane) => (lane.frames.length > most.length ? lane.frames : most), []);
  const count = Math.min(COLUMNS, frames.length);
  if (scale.even) return Array.from({ length: count }, (_, i) => (i + 1) / count);
  const chosen = Array.from({ length: count }, (_, i) =>
    frames[count === 1 ? frames.length - 1 : Math.round((i * (frames.length - 1)) / (count - 1))]);
  return chosen.map((frame) => scale.of(frame));
}

// All places of frames at which some lane shows another one than before, thinned evenly to a number.
function changesOf(data, scale, most) {
  const filled = data.lanes.filter((lane) => lane.frames.length);
  const all = filled.flatMap((lane) => lane.frames.map((frame) => scale.of(frame))).sort((one, other) => one - other);
  let before = "";
  const places = (all.length ? all : [1]).filter((at) => {
    const shown = filled.map((lane) => scale.pick(lane.frames, scale, at)).join(" ");
    const isNew = shown !== before || all.length === 0;
    before = shown;
    return isNew;
  });
  if (places.length <= most) return places;
  return Array.from({ length: most }, (_, i) => places[Math.round((i * (places.length - 1)) / (most - 1))]);
}

function signed(value) {
  return (value < 0 ? "−" : "+") + Math.abs(value).toFixed(1);
}

function milliseconds(value) {
  const [number, digits, unit] = value >= 10000 ? [value / 1000, 1, "s"] : [value, value >= 100 ? 0 : 1, "ms"];
  return `${number.toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits })} ${unit}`;
}
