// Clips to keep, made in the browser: a video of what plays, and a contact sheet of one lane or of all of them.

const VIDEO_TYPES = [
  ["video/mp4;codecs=avc1.42E01E", "mp4"], ["video/mp4;codecs=vp09.00.10.08", "mp4"], ["video/mp4", "mp4"],
  ["video/webm;codecs=vp9", "webm"], ["video/webm", "webm"],
];
const VIDEO_MILLISECONDS = 40; // between two pictures handed to the recorder, which sees nothing that stands still
const VIDEO_ROUNDS = 2; // of the frames, so that a short clip is more than a blink
const SHEET_PICTURE = 96;
const SHEET_HEAD = 150;

function videoType() {
  return globalThis.MediaRecorder && VIDEO_TYPES.find(([type]) => MediaRecorder.isTypeSupported(type));
}

// Records what the GIF shows, in real time, as the browser's recorder does.
async function saveVideo(view, tiles, report) {
  const [type, ending] = videoType();
  const moments = momentsOf(view);
  const still = [];
  for (const { changes } of moments) {
    still.push(await painted({ ...view, state: { ...view.state, ...changes } }, tiles, tiles.length > 6 ? 160 : 224));
  }
  const canvas = element("canvas");
  Object.assign(canvas, { width: even(still[0].width), height: even(still[0].height) });
  const context = canvas.getContext("2d");
  context.drawImage(still[0], 0, 0);
  const recorder = new MediaRecorder(canvas.captureStream(), { mimeType: type, videoBitsPerSecond: 8e6 });
  const parts = [];
  recorder.ondataavailable = (event) => parts.push(event.data);
  const stopped = new Promise((done) => { recorder.onstop = done; });
  recorder.start();
  const rounds = view.state.along === "frames" ? VIDEO_ROUNDS : 1;
  for (let i = 0; i < rounds * moments.length; i += 1) {
    const end = performance.now() + moments[i % moments.length].time;
    do {
      context.drawImage(still[i % moments.length], 0, 0);
      await new Promise((done) => setTimeout(done, VIDEO_MILLISECONDS));
    } while (performance.now() < end);
    report(`${i + 1} of ${rounds * moments.length}`);
  }
  recorder.stop();
  await stopped;
  save(new Blob(parts, { type: type.split(";")[0] }), `${fileName(view)}.${ending}`);
}

function even(length) {
  return length - (length % 2); // what most encoders ask for
}

// Frames across; down the steps of the lane whose matrix is shown, or else all lanes at the present place.
async function saveSheet(view, tiles) {
  const { data, state } = view;
  const lane = state.film === "lanes" ? null : data.lanes[state.film];
  const rows = lane ? stepsOf(lane) : data.lanes.flatMap((one) => {
    const shown = shownOf(one, { ...view, state: { ...state, diff: "off" } });
    return shown.why ? [] : [[one.label, shown.picture]];
  });
  const canvas = await sheetOf(view, lookOf(tiles[0].node), lane, rows);
  const blob = await new Promise((done) => canvas.toBlob(done, "image/png"));
  save(blob, `${fileName(view)}-sheet.png`);
}

function stepsOf(lane) {
  const steps = lane.frames.map((frame) => [`Call ${frame.step} of ${frame.calls}`, frame]);
  return lane.final ? [...steps, ["Final", lane.final]] : steps;
}

async function sheetOf(view, look, lane, rows) {
  const { data, state, scale } = view;
  const canvas = element("canvas");
  const context = canvas.getContext("2d");
  const height = Math.round((SHEET_PICTURE * data.height) / data.width);
  const head = GAP + 3 * LINE;
  canvas.width = SHEET_HEAD + data.videoFrames.length * (SHEET_PICTURE + 4) + GAP;
  canvas.height = head + rows.length * (height + 4) + GAP;
  context.fillStyle = look.background;
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.textBaseline = "top";
  write(context, look.strong, look.colour, data.prompt || "(empty prompt)", GAP, GAP, canvas.width - 2 * GAP);
  const place = state.view === "final" ? "final images" : `${data.kind}, ${scale.label(scale.text(state.at))}`;
  const facts = [`Seed ${data.seed}`, lane ? `${lane.label}, ${data.kind}` : place, `study ${data.study}`].join(" · ");
  write(context, look.small, look.colour, facts, GAP, GAP + LINE, canvas.width - 2 * GAP);
  context.imageSmoothingEnabled = !data.small;
  for (const [i, [name, picture]] of rows.entries()) {
    const top = head + i * (height + 4);
    write(context, look.small, look.colour, name, GAP, top + height / 2 - 6, SHEET_HEAD - 2 * GAP);
    for (const video of data.videoFrames.keys()) {
      const left = SHEET_HEAD + video * (SHEET_PICTURE + 4);
      context.drawImage(await pictureOf(sourceOf(picture, video)), left, top, SHEET_PICTURE, height);
    }
  }
  return canvas;
}
