// The filmstrip: rows are lanes, columns places of the scrubber, all at one frame of a video.

// Fills `node` and returns a function that marks the column that is shown.
function makeStrip(node, view, go) {
  const { data, state, scale } = view;
  const places = placesOf(data, scale);
  const table = element("table");
  const [top, head, body] = [element("thead"), element("tr"), element("tbody")];
  const marks = [];
  head.append(element("td"), ...places.map((at) => columnHead(scale.text(at))), columnHead("Final"));
  data.lanes.forEach((lane) => body.append(makeRow(view, { lane, places, marks, go })));
  top.append(head);
  table.append(top, body);
  node.replaceChildren(table);
  return () => {
    const now = places.reduce(
      (best, place, i) => (Math.abs(place - state.at) < Math.abs(places[best] - state.at) ? i : best), 0);
    marks.forEach(([cell, column]) => cell.classList.toggle("now", state.view === "forming" && column === now));
  };
}

function makeRow({ data, state, scale }, { lane, places, marks, go }) {
  const row = element("tr");
  const video = state.frame;
  row.append(laneHead(lane));
  let last = -1;
  places.forEach((at, column) => {
    if (!lane.frames.length) return;
    const index = scale.pick(lane.frames, scale, at);
    const frame = lane.frames[index];
    const cell = element("td");
    if (!frame) cell.append(element("div", "again soft", "not yet"));
    else if (index === last) cell.append(element("div", "again soft", againText(lane, frame, scale)));
    else cell.append(stripPicture(frame, video, altOf(lane, frame, data), `Call ${frame.step} of ${frame.calls}`));
    last = index;
    cell.onclick = () => go(at, video);
    marks.push([cell, column]);
    row.append(cell);
  });
  if (!lane.frames.length) {
    const cell = element("td", "why", lane.why);
    cell.colSpan = Math.max(1, places.length);
    row.append(cell);
  }
  const end = element("td", "final");
  if (lane.final) end.append(stripPicture(lane.final, video, `${lane.label}, final image of ${data.subject}`, ""));
  row.append(end);
  return row;
}

function againText(lane, frame, scale) {
  return scale.even && frame === lane.frames.at(-1) ? `done, ${milliseconds(frame.ms)}` : `still call ${frame.step}`;
}

function stripPicture(picture, video, alt, title) {
  return Object.assign(element("img"), { src: sourceOf(picture, video), alt, title });
}

function laneHead(lane) {
  const name = laneName(lane, "th");
  name.scope = "row";
  lane.facts.forEach((fact) => name.append(element("div", "soft", fact)));
  return name;
}

function columnHead(text) {
  return Object.assign(element("th", "", text), { scope: "col" });
}
