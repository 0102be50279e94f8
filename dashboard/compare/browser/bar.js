// The controls: above all the position that moves all lanes, then how to look at them, and downloads.

const POSITIONS = 1000;

// `acts` does what a control asks for: set(changes), play(), zoom(zoom), png(), gif(), video(), sheet().
function makeTransport(view, acts) {
  const node = element("div", "bar");
  const play = button("Play", acts.play, { title: "Space" });
  play.className = "play";
  const range = slider("Position of all lanes", POSITIONS, (value) => acts.set({ at: value / POSITIONS }));
  range.step = 5;
  const output = element("output");
  node.append(play, range, output);
  const film = view.data.videoFrames.length > 1 ? makeFrames(view, acts) : null;
  if (film) node.append(film.node);
  return {
    node,
    show(playing) {
      const { state, scale } = view;
      const final = state.view === "final";
      range.value = String(Math.round(state.at * POSITIONS));
      range.disabled = final;
      play.disabled = final && state.along === "steps";
      play.textContent = playing ? "Pause" : "Play";
      output.textContent = final ? "Final image" : scale.label(scale.text(state.at));
      range.setAttribute("aria-valuetext", output.textContent);
      film?.show();
    },
  };
}

// Of a video: which of its frames, and what is played.
function makeFrames({ data, state }, acts) {
  const node = element("div", "frames");
  const last = data.videoFrames.length - 1;
  const range = slider("Frame of the video", last, (frame) => acts.set({ frame }));
  const output = element("output");
  const along = switchOf("Play along", [
    ["steps", "Steps", "Denoising, at one frame"], ["frames", "Frames", "The video, at one step"],
  ], state.along, (value) => acts.set({ along: value }));
  node.append(range, output, along.node);
  return {
    node,
    show() {
      range.value = String(state.frame);
      output.textContent = `Frame ${data.videoFrames[state.frame] + 1} of ${data.videoFrames[last] + 1}`;
      range.setAttribute("aria-valuetext", output.textContent);
      along.press(state.along);
    },
  };
}

function makeTools({ data, state }, acts) {
  const node = element("div", "tools");
  const looks = switchOf("Show", [["forming", "Forming", "The image at a step"], ["final", "Final", "What came out"]],
    state.view, (value) => acts.set({ view: value }));
  const two = button("Two in one frame", () => acts.wipe(state.before === "off"), { title: "With a line to drag" });
  const align = switchOf("Align by", [
    ["steps", "Steps", "All lanes at the same share of their steps"],
    ["noise", "Noise level", "All lanes at the same log-SNR", data.noNoise],
    ["time", "Time", "What each lane has after the same measured time; decoding is left out", data.noTime],
  ], state.align, (value) => acts.set({ align: value }));
  const usual = data.against.find(({ why }) => !why)?.key;
  const heat = button("Heat map", () => acts.set({ diff: state.diff === "off" ? usual : "off" }), {
    title: "How far each picture is from the one chosen beside", why: usual ? "" : "There is nothing to compare with",
  });
  const diff = listOf("Difference from",
    [["off", "off"], ...data.against.map(({ key, label, why }) => [key, label, why])], state.diff,
    (value) => acts.set({ diff: value }));
  const speed = listOf("Speed", SPEEDS.map((value) => [String(value), `${value}×`]), String(state.speed),
    (value) => acts.set({ speed: Number(value) }));
  const zoom = makeZoomButtons(state, acts);
  const save = makeDownloads(data, acts);
  node.append(looks.node, labelled("Before and after", two), align.node, labelled("Difference", heat), diff.node,
    speed.node, zoom.node, save.node);
  return {
    node,
    busy: save.busy,
    show() {
      looks.press(state.view);
      two.setAttribute("aria-pressed", String(state.before !== "off"));
      align.press(state.align);
      heat.setAttribute("aria-pressed", String(state.diff !== "off"));
      diff.press(state.diff);
      speed.press(String(state.speed));
      zoom.show();
      save.show(state.view === "final" && state.along === "steps" ? "A final image does not move" : "");
    },
  };
}

function makeZoomButtons(state, acts) {
  const group = element("div", "group");
  const out = button("−", () => acts.zoom(zoomed(state.zoom, 1 / ZOOM_STEP)), { name: "Zoom out", title: "Minus" });
  const whole = button("", () => acts.zoom(within({ by: 1, x: 0, y: 0 })), { title: "Zero: the whole picture" });
  const into = button("+", () => acts.zoom(zoomed(state.zoom, ZOOM_STEP)), { name: "Zoom in", title: "Plus" });
  group.append(out, whole, into);
  return {
    node: labelled("Zoom", group),
    show() {
      whole.textContent = `${Math.round(state.zoom.by * 100)} %`;
      whole.setAttribute("aria-label", `Zoom ${whole.textContent}, back to the whole picture`);
      out.disabled = state.zoom.by <= 1;
      into.disabled = state.zoom.by >= MAX_ZOOM;
    },
  };
}

function makeDownloads(data, acts) {
  const group = element("div", "group");
  const status = element("span", "soft");
  const png = button("PNG", acts.png, { name: "Download this view as PNG" });
  const gif = button("GIF", acts.gif, { name: "Download the animation as GIF" });
  const recorded = videoType();
  const form = recorded ? recorded[1].toUpperCase() : "MP4";
  const video = button(form, acts.video, {
    name: `Download the animation as video, ${form}`, why: recorded ? "" : "This browser records no video",
  });
  const sheet = button("Sheet", acts.sheet, {
    name: "Download the contact sheet", title: "Frames across; down the lanes, or the steps of the lane below",
  });
  const node = labelled("Download", group);
  status.setAttribute("role", "status");
  group.append(png, gif, video, ...(data.videoFrames.length > 1 ? [sheet] : []));
  node.append(status);
  let working = false;
  let still = "";
  const update = () => {
    png.disabled = working;
    sheet.disabled = working;
    gif.disabled = working || still !== "";
    gif.title = still;
    video.disabled = !recorded || gif.disabled;
  };
  return {
    node,
    busy(text, done) {
      working = !done;
      status.textContent = text;
      update();
    },
    show(why) {
      still = why;
      update();
    },
  };
}
