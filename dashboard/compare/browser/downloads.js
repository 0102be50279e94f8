// The view as a PNG, and its animation as a GIF, made in the browser.

const PNG_TILE = 256; // at least; larger pictures keep their size
const GIF_FRAMES = 40;
const GIF_END_MILLISECONDS = 1500;

async function savePng(view, tiles) {
  const canvas = await painted(view, tiles, Math.max(PNG_TILE, Math.min(view.data.width, 768)));
  const blob = await new Promise((done) => canvas.toBlob(done, "image/png"));
  save(blob, `${fileName(view)}.png`);
}

async function saveGif(view, tiles, report) {
  const moments = momentsOf(view);
  let writer = null;
  for (const [i, { changes, time }] of moments.entries()) {
    const moment = { ...view, state: { ...view.state, ...changes } };
    const canvas = await painted(moment, tiles, tiles.length > 6 ? 160 : 224);
    writer ??= gifWriter(canvas.width, canvas.height);
    writer.add(canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data, time);
    report(`${i + 1} of ${moments.length}`);
    await new Promise((done) => setTimeout(done)); // the page stays alive in between
  }
  save(writer.blob(), `${fileName(view)}.gif`);
}

// What the animation shows, one after another: {changes of the state, time in milliseconds}.
function momentsOf({ data, state, scale }) {
  if (state.along === "frames") {
    return data.videoFrames.map((_, frame) => ({ changes: { frame }, time: FRAME_MILLISECONDS / state.speed }));
  }
  const places = changesOf(data, scale, GIF_FRAMES);
  return places.map((at, i) => ({
    changes: { at },
    time: i === places.length - 1 ? GIF_END_MILLISECONDS : ((places[i + 1] - at) * PLAY_MILLISECONDS) / state.speed,
  }));
}

function fileName({ data, state }) {
  const place = state.view === "final" ? "final" : `at${Math.round(state.at * 100)}`;
  return [data.file, place, state.diff === "off" ? "" : `from-${state.diff}`].filter(Boolean).join("-");
}

function save(blob, name) {
  const link = Object.assign(element("a"), { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
}
