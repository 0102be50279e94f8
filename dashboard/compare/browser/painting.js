// Paints what the tiles show on one canvas, with prompt, seed, names and notes: for pictures to keep.

const GAP = 16;
const LINE = 20;

// Where everything goes, for tiles of a width in pixels.
function layoutOf(context, look, view, tile) {
  const { data, state } = view;
  const shown = state.diff === "reference" && data.converged ? data.lanes.length + 1 : data.lanes.length;
  const columns = Math.min(shown, shown > 4 ? Math.ceil(shown / 2) : 4);
  const width = Math.max(columns * (tile + GAP) + GAP, 480);
  const height = Math.round((tile * data.height) / data.width);
  context.font = look.strong;
  const prompt = wrapped(context, data.prompt || "(empty prompt)", width - 2 * GAP, 3);
  context.font = look.small;
  const legend = state.diff === "off" ? 0 : 2 * LINE;
  const notes = data.notes.flatMap((note) => wrapped(context, note, width - 2 * GAP, 2));
  const head = GAP + (prompt.length + 1) * LINE + legend;
  const stacked = data.lanes.some((lane) => lane.frames.some((frame) => noiseOf({ picture: frame }, view)));
  const row = height * (stacked ? 2 : 1) + 3 * LINE + GAP;
  return {
    tile, height, width, columns, prompt, notes, head, row, stacked,
    full: head + Math.ceil(shown / columns) * row + notes.length * LINE + GAP,
  };
}

// Returns a canvas. `tiles` are those on the page; `view` may be at another place than they are.
async function painted(view, tiles, tile) {
  const look = lookOf(tiles[0].node);
  const canvas = element("canvas");
  const context = canvas.getContext("2d", { willReadFrequently: true });
  const layout = layoutOf(context, look, view, tile);
  Object.assign(canvas, { width: layout.width, height: layout.full });
  context.fillStyle = look.background;
  context.fillRect(0, 0, layout.width, layout.full);
  context.textBaseline = "top";
  paintHead(context, look, layout, view);
  for (const [i, { lane, viewed }] of tiles.entries()) {
    const left = GAP + (i % layout.columns) * (tile + GAP);
    const top = layout.head + Math.floor(i / layout.columns) * layout.row;
    await paintTile(context, look, layout, { left, top }, lane, viewed(view));
  }
  layout.notes.forEach((note, i) => {
    write(context, look.small, look.soft, note, GAP, layout.full - GAP / 2 - (layout.notes.length - i) * LINE);
  });
  return canvas;
}

function paintHead(context, look, { prompt, width, head }, { data, state, scale }) {
  prompt.forEach((line, i) => write(context, look.strong, look.colour, line, GAP, GAP + i * LINE));
  const place = state.view === "final" ? "final image" : `${data.kind}, ${scale.label(scale.text(state.at))}`;
  const film = data.videoFrames.length > 1 ? `frame ${data.videoFrames[state.frame] + 1}` : "";
  const facts = [`Seed ${data.seed}`, place, film, `study ${data.study}`].filter(Boolean).join(" · ");
  write(context, look.small, look.colour, facts, GAP, GAP + prompt.length * LINE, width - 2 * GAP);
  if (state.diff === "off") return;
  const y = head - 2 * LINE + 4;
  write(context, look.small, look.colour, "0", GAP, y);
  context.drawImage(heatBar(160, 12), GAP + 14, y + 1);
  const end = state.top === 255 ? "255" : `${state.top} and more`;
  const against = data.against.find((one) => one.key === state.diff).label;
  write(context, look.small, look.colour, end, GAP + 180, y);
  write(context, look.small, look.soft, meaningOf(against), GAP, y + LINE - 2, width - 2 * GAP);
}

async function paintTile(context, look, { tile, height, stacked }, { left, top }, lane, view) {
  const shown = shownOf(lane, view);
  write(context, look.strong, lane.colour === "inherit" ? look.colour : lane.colour, lane.glyph, left, top);
  const name = lane.baseline ? `${lane.label} (baseline)` : lane.label;
  write(context, look.strong, look.colour, name, left + 18, top, tile - 18);
  const y = top + LINE + 2 + (stacked ? height : 0);
  const above = noiseOf(shown, view);
  if (above) {
    const noisy = await pictureOf(sourceOf(above, view.state.frame));
    context.imageSmoothingEnabled = !view.data.small;
    context.drawImage(noisy, left, y - height, tile, height);
  }
  context.save();
  context.beginPath();
  context.rect(left, y, tile, height);
  context.clip();
  let mean = "";
  if (shown.why) {
    wrapped(context, shown.why, tile - GAP, 6).forEach((line, i) =>
      write(context, look.small, look.soft, line, left + GAP / 2, y + GAP / 2 + i * LINE));
  } else {
    const source = sourceOf(shown.picture, view.state.frame);
    const apart = shown.other ? await differenceOf(...sourcesOf(shown, view.state), view.state.top) : null;
    mean = apart ? meanText(apart.mean, lane, view.state) : noDifference(shown, view.state);
    const { by, x, y: down } = view.state.zoom;
    const picture = apart ? apart.canvas : await pictureOf(source);
    context.imageSmoothingEnabled = tile * by < 3 * view.data.width && !view.data.small;
    context.drawImage(picture, left + x * tile, y + down * height, by * tile, by * height);
  }
  context.restore();
  context.strokeStyle = look.border;
  context.strokeRect(left + 0.5, y + 0.5, tile - 1, height - 1);
  const facts = shown.why ? lane.facts.join(" · ") : shown.caption.trim().replace("\n", " · ");
  write(context, look.small, look.soft, facts, left, y + height + 4, tile);
  write(context, look.small, look.colour, mean, left, y + height + LINE + 2, tile);
}

// Writes one line; what is wider than `most` is cut.
function write(context, font, colour, line, x, y, most = Infinity) {
  Object.assign(context, { font, fillStyle: colour });
  context.fillText(most === Infinity ? line : wrapped(context, line, most, 1)[0], x, y);
}

// Breaks a text into lines of a width, between words where it can; the last line ends with … if there is more.
function wrapped(context, text, width, most) {
  const lines = [];
  let rest = text.trim();
  while (rest && lines.length < most) {
    const last = lines.length === most - 1;
    let length = rest.length;
    if (context.measureText(rest).width > width) {
      length = fitting(context, rest, width, last ? "…" : "");
      const space = rest.lastIndexOf(" ", length);
      if (!last && space > 0) length = space;
    }
    lines.push(length < rest.length && last ? `${rest.slice(0, length).trimEnd()}…` : rest.slice(0, length).trimEnd());
    rest = rest.slice(length).trim();
  }
  return lines.length ? lines : [""];
}

function fitting(context, text, width, end) {
  let [low, high] = [1, text.length];
  while (low < high) {
    const middle = Math.ceil((low + high) / 2);
    if (context.measureText(text.slice(0, middle) + end).width <= width) low = middle;
    else high = middle - 1;
  }
  return low;
}

// Fonts and colours of the page, light or dark.
function lookOf(node) {
  const style = getComputedStyle(node);
  const value = (name, otherwise) => style.getPropertyValue(name).trim() || otherwise;
  const colour = value("--st-text-color", "#1e2a30");
  const background = value("--st-background-color", "#ffffff");
  return {
    colour,
    soft: `color-mix(in srgb, ${colour} 75%, ${background})`,
    background,
    border: value("--st-border-color", "#d5dde1"),
    strong: `600 14px ${style.fontFamily}`,
    small: `12px ${style.fontFamily}`,
  };
}
