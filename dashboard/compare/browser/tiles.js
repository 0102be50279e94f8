// One tile a lane: its picture at the present place, or the difference from another, or why there is none.

// What a lane shows: {picture, caption, alt, other (what it is compared with), versus} or {why}. Pure.
function shownOf(lane, view) {
  const { data, state, scale } = view;
  const found = state.view === "final" ? finalOf(lane, data) : frameOf(lane, data, state, scale);
  if (!found.picture || state.diff === "off") return found;
  return { ...found, ...otherOf(lane, view) };
}

function finalOf(lane, data) {
  if (!lane.final) return { why: lane.why || "No final image is stored" };
  const alt = `${lane.label}, final image of ${data.subject}`;
  return { picture: lane.final, caption: lane.caption ?? "Final image", alt };
}

function frameOf(lane, data, state, scale) {
  if (!lane.frames.length) {
    const found = finalOf(lane, data);
    return found.why ? found : { ...found, caption: `Final image. ${lane.why}` };
  }
  const frame = lane.frames[scale.pick(lane.frames, scale, state.at)];
  if (!frame) return { why: `Nothing yet. Its first picture is there after ${milliseconds(lane.frames[0].ms)}.` };
  const timestep = frame.timestep === null ? "" : `t ${Math.round(frame.timestep)}`;
  const noise = frame.logSnr === null ? "" : `log-SNR ${signed(frame.logSnr)}`;
  const middle = state.align === "time" ? milliseconds(frame.ms) : noise;
  const done = state.align === "time" && frame === lane.frames.at(-1) ? "done" : "";
  return {
    picture: frame,
    caption: `Call ${frame.step} of ${frame.calls}\n${[timestep, middle, done].filter(Boolean).join(" · ")}`,
    alt: altOf(lane, frame, data),
  };
}

function otherOf(lane, view) {
  const { data, state } = view;
  if (state.diff === "reference") return { other: data.converged, versus: "reference" };
  if (state.diff === "final") {
    return state.view === "final" ? { versus: "Its own final image" } : { other: lane.final, versus: "final image" };
  }
  if (lane.baseline) return { versus: "Compared with this" };
  const baseline = data.lanes.find((one) => one.baseline);
  const shown = state.view === "final" ? finalOf(baseline, data) : frameOf(baseline, data, state, view.scale);
  return { other: shown.picture ?? null, versus: "baseline" };
}

function altOf(lane, frame, data) {
  return `${lane.label}, ${data.kind} at call ${frame.step} of ${frame.calls}, ${data.subject}`;
}

function makeTile(lane) {
  const node = element("figure");
  const [noise, lens] = [element("div", "lens noise"), element("div", "lens")];
  const noisy = element("img");
  const [image, heat, gap] = [element("img"), element("canvas"), element("div", "gap")];
  const [caption, mean] = [element("div", "soft"), element("div", "mean")];
  const text = element("figcaption");
  [image, noisy].forEach((one) => Object.assign(one, { draggable: false, alt: "" })); // told once a picture is shown
  noise.append(noisy);
  heat.setAttribute("role", "img");
  text.append(caption, mean);
  lens.append(image, heat, gap);
  node.append(laneName(lane, "div", "name"), lens, text);
  let [wanted, latest, drawing] = [null, "", false]; // what to draw next; the key of the last asked for

  // Draws the difference last asked for; what is asked for in the meantime waits, and only the latest of it is drawn.
  async function difference() {
    drawing = true;
    while (wanted) {
      const { shown, state } = wanted;
      wanted = null;
      try {
        const { canvas, mean: value } = await differenceOf(...sourcesOf(shown, state), state.top);
        if (!latest) continue; // differences were switched off meanwhile
        Object.assign(heat, { width: canvas.width, height: canvas.height });
        heat.getContext("2d").drawImage(canvas, 0, 0);
        const apart = `difference from ${shown.versus}, mean ${value.toFixed(1)} of 255`;
        heat.setAttribute("aria-label", `${shown.alt}; ${apart}`);
        mean.textContent = meanText(value, lane, state);
        show(heat);
      } catch {
        mean.textContent = "A picture cannot be read";
        show(image);
      }
    }
    drawing = false;
  }

  function askFor(shown, { state }) {
    const key = [...sourcesOf(shown, state), state.diff, state.top].join(" ");
    if (key === latest) return;
    latest = key;
    wanted = { shown, state: { ...state } };
    if (!drawing) difference();
  }

  function showPlain(part, text) {
    [wanted, latest] = [null, ""];
    mean.textContent = text;
    show(part);
  }

  function show(part) {
    [image, heat, gap].forEach((one) => { one.hidden = one !== part; });
  }

  show(image);
  return {
    node,
    lane,
    show(view) {
      const shown = shownOf(lane, view);
      caption.textContent = shown.why ? lane.facts.join(" · ") : shown.caption;
      const above = noiseOf(shown, view);
      if (!above) noise.remove();
      else {
        if (!noise.parentNode) lens.before(noise);
        const source = sourceOf(above, view.state.frame);
        if (noisy.src !== source) noisy.src = source;
        noisy.alt = `${lane.label}, noisy image at call ${shown.picture.step} of ${shown.picture.calls}, ${view.data.subject}`;
      }
      if (shown.why) {
        gap.textContent = shown.why;
        showPlain(gap, "");
        return;
      }
      const source = sourceOf(shown.picture, view.state.frame);
      if (image.src !== source) image.src = source;
      image.alt = shown.alt;
      if (shown.other) askFor(shown, view);
      else showPlain(image, noDifference(shown, view.state));
    },
  };
}

// The noisy image of the step that is shown, where both are.
function noiseOf(shown, { state }) {
  return state.view === "forming" && state.diff === "off" ? shown.picture?.noisy ?? null : null;
}

function sourcesOf(shown, state) {
  return [sourceOf(shown.picture, state.frame), sourceOf(shown.other, state.frame)];
}

function meanText(value, lane, state) {
  const noise = state.diff === "reference" && lane.drawsNoise ? " (draws noise)" : "";
  return `Mean difference ${value.toFixed(1)} of 255${noise}`;
}

// Why a tile shows its picture though differences are asked for.
function noDifference(shown, state) {
  if (state.diff === "off") return "";
  return shown.other === null ? `No ${shown.versus} to compare with here` : shown.versus;
}

// A tile for the converged reference, beside the lanes while they are compared with it.
function makeReferenceTile(data) {
  const { converged } = data;
  const lane = {
    label: converged.label, caption: converged.caption, glyph: "◎", colour: "inherit", baseline: false, facts: [],
    frames: [], why: "", final: converged,
  };
  const tile = makeTile(lane);
  const viewed = (view) => ({ ...view, state: { ...view.state, view: "final", diff: "off" } });
  return { ...tile, viewed, only: "reference", show: (view) => tile.show(viewed(view)) };
}
