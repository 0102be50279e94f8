// The tiles of a run that goes on. Pictures are exchanged in place once they are decoded, so that nothing flickers.

const PICTURES = [["xt", "noisy image"], ["x0", "estimate of the clean image"]];

function node(tag, classes, text = "") {
  const made = document.createElement(tag);
  made.className = classes;
  made.textContent = text;
  return made;
}

function tileOf(lane) {
  const figure = node("figure", "tile");
  const name = node("div", "name");
  const glyph = node("span", "", `${lane.glyph} `);
  glyph.style.color = lane.colour;
  glyph.setAttribute("aria-hidden", "true");
  const text = node("span", "");
  text.append(glyph, document.createTextNode(lane.label));
  name.append(text);
  name.title = lane.label;
  const frames = PICTURES.map(([key]) => [key, node("div", `frame ${key}`)]);
  const bar = node("div", "bar");
  bar.append(node("div", "fill"));
  figure.append(name, ...frames.map(([, frame]) => frame), bar, node("figcaption", "caption"));
  return { figure, frames: Object.fromEntries(frames), fill: bar.firstChild, caption: figure.lastChild, cell: "" };
}

function show(frame, source, alt, text) {
  let picture = frame.querySelector("img");
  if (!source) {
    if (!picture) frame.textContent = text;
    return;
  }
  if (!picture) {
    picture = node("img", "");
    frame.replaceChildren(picture);
  }
  picture.alt = alt;
  if (picture.src !== source) picture.src = source;
}

function update(tile, lane) {
  PICTURES.forEach(([key, what]) => {
    const source = lane.finished ? lane.x0 : lane[key];
    show(tile.frames[key], source, `${lane.label}, ${what} of '${lane.prompt ?? ""}'`, key === "x0" ? lane.waiting : "");
  });
  tile.figure.classList.toggle("finished", Boolean(lane.finished));
  tile.fill.style.width = `${100 * (lane.share ?? 0)}%`;
  const lines = [lane.prompt ? `${lane.prompt}, ${lane.step}` : "", lane.standing].filter(Boolean);
  tile.caption.replaceChildren(...lines.map((line) => node("div", "", line)));
}

const views = new WeakMap();

export default function ({ data, parentElement }) {
  const root = parentElement.querySelector(".live");
  let view = views.get(root);
  if (!view) {
    view = { line: node("p", "line"), whole: node("div", "bar whole"), sentence: node("p", "sentence"),
      tiles: node("div", "tiles"), note: node("p", "soft"), byLane: new Map() };
    view.whole.append(node("div", "fill"));
    view.sentence.setAttribute("aria-live", "polite");
    root.replaceChildren(view.line, view.whole, view.sentence, view.tiles, view.note);
    views.set(root, view);
  }
  view.line.textContent = data.line;
  view.whole.firstChild.style.width = `${100 * data.share}%`;
  view.sentence.textContent = data.sentence;
  view.note.textContent = data.note;
  data.tiles.forEach((lane) => {
    if (!view.byLane.has(lane.lane)) {
      const tile = tileOf(lane);
      view.byLane.set(lane.lane, tile);
      view.tiles.append(tile.figure);
    }
    update(view.byLane.get(lane.lane), lane);
  });
  view.byLane.forEach((tile, key) => {
    if (data.tiles.some((lane) => lane.lane === key)) return;
    tile.figure.remove();
    view.byLane.delete(key);
  });
}
