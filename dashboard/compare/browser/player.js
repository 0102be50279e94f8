// Puts the player together: one state, which every control changes and every part shows. Nothing here asks the server.

const PLAY_MILLISECONDS = 5000;
const FRAME_MILLISECONDS = 125;
const CALM_MILLISECONDS = 1000; // between pictures, for readers who want less motion
const STOPS_PLAYING = ["at", "frame", "view", "along", "align"];

export default function (component) {
  const root = component.parentElement.querySelector(".player");
  const { data } = component;
  const start = startOf(data);
  const focused = focusOf(root);
  root.leave?.();
  forgetPictures();
  const state = root.state ? stillPossible(root.state, data, start) : readAddress(data, start);
  root.state = state;
  const view = { data, state, scale: scaleOf(data, state.align) };
  const address = addressWriter(data, start);
  const motion = makeMotion(view, set, () => transport.show(motion.on()));
  const acts = {
    set: (changes) => {
      if (STOPS_PLAYING.some((name) => name in changes)) motion.stop();
      set(changes);
    },
    play: motion.toggle,
    zoom: (zoom) => set({ zoom }),
    wipe: (on) => {
      set({ before: on ? data.pair[0] : "off" });
      if (on) wipe.node.scrollIntoView({ block: "nearest" });
    },
    png: () => download((made) => savePng(frozen(view), made)),
    gif: () => download((made) => saveGif(frozen(view), made, (text) => tools.busy(text, false))),
    video: () => download((made) => saveVideo(frozen(view), made, (text) => tools.busy(text, false))),
    sheet: () => download((made) => saveSheet(frozen(view), made)),
  };
  const transport = makeTransport(view, acts);
  const tools = makeTools(view, acts);
  const legend = makeLegend(state, (top) => acts.set({ top }));
  const grid = makeGrid(data);
  const tiles = makeTiles(data, grid);
  const wipe = makeWipe(view, acts);
  const strip = element("div", "strip");
  strip.tabIndex = 0; // it scrolls sideways, by keyboard too
  strip.setAttribute("role", "region");
  strip.setAttribute("aria-label", "Filmstrip");
  const film = data.videoFrames.length > 1 ? makeFilmChoice(view, acts) : null;
  const [help, hint] = [element("p", "soft", HELP), element("p", "soft")];
  const films = film ? [film.node] : [];
  root.replaceChildren(transport.node, tools.node, hint, legend.node, grid, help, wipe.node, ...films, strip);
  let mark = () => {};

  function set(changes) {
    Object.assign(state, changes);
    if ("align" in changes) view.scale = scaleOf(data, state.align);
    if ("align" in changes || "film" in changes || ("frame" in changes && state.film === "lanes")) drawStrip();
    show();
  }

  function drawStrip() {
    const go = (at, frame, shown = "forming") => acts.set({ at, view: shown, ...(film && { frame }) });
    mark = state.film === "lanes" ? makeStrip(strip, view, go) : makeMatrix(strip, view, data.lanes[state.film], go);
  }

  function show() {
    const against = data.against.find((one) => one.key === state.diff)?.label;
    transport.show(motion.on());
    tools.show();
    hint.textContent = state.align === "time" && state.view === "forming" ? data.timeNote : "";
    hint.hidden = !hint.textContent;
    film?.press(String(state.film));
    legend.show(against, state.diff === "reference" ? data.converged.note : "");
    tiles.forEach((tile) => {
      tile.node.hidden = tile.only !== undefined && state.diff !== tile.only;
      if (!tile.node.hidden) tile.show(view);
    });
    showZoom(grid, state.zoom, data);
    wipe.show();
    mark();
    if (!motion.on()) address.soon(state);
  }

  async function download(make) {
    motion.stop();
    show();
    tools.busy("Making it", false);
    try {
      await make(tiles.filter((tile) => !tile.node.hidden));
      tools.busy("Saved", true);
    } catch (error) {
      tools.busy(`Not saved: ${error.message}`, true);
    }
  }

  const onKey = (event) => {
    if (event.altKey || event.ctrlKey || event.metaKey || !keyed(event, { view, acts, motion })) return;
    event.preventDefault();
  };
  root.addEventListener("keydown", onKey);
  makeZoom(grid, () => state.zoom, acts.zoom);
  const sizes = new ResizeObserver(() => showZoom(grid, state.zoom, data));
  sizes.observe(grid);
  drawStrip();
  show();
  focusAgain(root, focused);
  root.leave = () => {
    motion.stop();
    address.stop();
    sizes.disconnect();
    root.removeEventListener("keydown", onKey);
  };
  return root.leave;
}

const HELP = "Ctrl and wheel, two fingers, double click or + and − zoom all lanes; drag or arrow keys move them. "
  + "Space plays, < and > change the speed, 0 shows the whole picture.";

function makeGrid({ lanes, small, width, height }) {
  const grid = element("div", "tiles");
  grid.tabIndex = 0;
  grid.setAttribute("role", "group");
  grid.setAttribute("aria-label", "Pictures of all lanes. Plus and minus zoom, arrow keys move or step, space plays.");
  grid.classList.toggle("small", small);
  const many = lanes.length > 10 ? "128px" : "160px";
  grid.style.setProperty("--tile", lanes.length > 6 ? many : lanes.length > 4 ? "190px" : "256px");
  grid.style.setProperty("--ratio", `${width} / ${height}`);
  return grid;
}

function makeTiles(data, grid) {
  const tiles = data.lanes.map((lane) => ({ ...makeTile(lane), viewed: (view) => view }));
  if (data.converged) tiles.push(makeReferenceTile(data));
  grid.append(...tiles.map((tile) => tile.node));
  return tiles;
}

function makeFilmChoice({ data, state }, acts) {
  const grids = data.lanes.map((lane, i) => [String(i), `${lane.label}, frames by steps`]);
  const act = (value) => acts.set({ film: value === "lanes" ? value : Number(value) });
  return listOf("Filmstrip", [["lanes", "all lanes at this frame"], ...grids], String(state.film), act);
}

// Plays along the steps once, or along the frames of a video for ever.
function makeMotion(view, set, changed) {
  const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
  const { data, state } = view;
  let timer = 0;
  let last = 0;
  const stop = () => {
    if (!timer) return;
    cancelAnimationFrame(timer);
    timer = 0;
    set({});
  };
  const tick = (now) => {
    timer = requestAnimationFrame(tick);
    const passed = now - last;
    const wait = calm ? CALM_MILLISECONDS : state.along === "frames" ? FRAME_MILLISECONDS : 0;
    if (passed < wait / state.speed) return;
    last = now;
    if (state.along === "frames") {
      set({ frame: (state.frame + 1) % data.videoFrames.length });
      return;
    }
    const forward = calm ? nextPlace(view) : state.at + (passed * state.speed) / PLAY_MILLISECONDS;
    set({ at: Math.min(1, forward) });
    if (state.at >= 1) stop();
  };
  const begin = () => {
    if (state.view === "final" && state.along === "steps") return;
    last = performance.now();
    if (state.along === "steps" && state.at >= 1) state.at = 0;
    timer = requestAnimationFrame(tick);
    changed();
  };
  return { stop, on: () => timer !== 0, toggle: () => (timer ? stop() : begin()) };
}

function nextPlace({ data, state, scale }) {
  return placesOf(data, scale).find((place) => place > state.at + 1e-6) ?? 1;
}

// What a key does while the player has the focus; true if it did something.
function keyed({ key, target }, { view, acts, motion }) {
  const { state, data, scale } = view;
  const [typed, slides] = [target.matches("select"), target.matches("input")];
  if (key === " " && !typed && !target.matches("button")) motion.toggle();
  else if ((key === "<" || key === ">") && !typed) {
    const place = clamp(SPEEDS.indexOf(state.speed) + (key === ">" ? 1 : -1), 0, SPEEDS.length - 1);
    acts.set({ speed: SPEEDS[place] });
  } else if (typed || slides) return false;
  else {
    const zoom = zoomOfKey(key, state.zoom);
    const way = { ArrowLeft: -1, ArrowRight: 1 }[key];
    if (zoom) acts.zoom(zoom);
    else if (way && state.view === "forming") {
      acts.set({ at: neighbour(changesOf(data, scale, Infinity), state.at, way) });
    } else return false;
  }
  return true;
}

function neighbour(places, at, way) {
  return (way > 0 ? places.find((place) => place > at + 1e-4) : places.findLast((place) => place < at - 1e-4)) ?? at;
}

// A view that stays as it is while a download is being made.
function frozen(view) {
  return { ...view, state: { ...view.state } };
}

// When the page is drawn anew the focus stays where it was: at the control with the same name.
function focusOf(root) {
  const node = root.getRootNode().activeElement;
  return root.contains(node) ? [node.tagName, node.getAttribute("aria-label") ?? node.textContent] : null;
}

function focusAgain(root, focused) {
  if (!focused) return;
  const [tag, name] = focused;
  [...root.querySelectorAll(tag)].find((one) => (one.getAttribute("aria-label") ?? one.textContent) === name)
    ?.focus({ preventScroll: true });
}
