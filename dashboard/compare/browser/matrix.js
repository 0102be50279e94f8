// The matrix of one lane of clips: frames of the video across, denoising steps down, its final frames last.

// Fills `node` and returns a function that marks the row of the step and the column of the frame that are shown.
function makeMatrix(node, view, lane, go) {
  const { data, state, scale } = view;
  const table = element("table", "matrix");
  const [top, head, body] = [element("thead"), element("tr"), element("tbody")];
  const marks = [];
  table.style.setProperty("--cell", data.videoFrames.length > 12 ? "60px" : "88px");
  const name = laneName(lane, "th");
  name.scope = "col";
  head.append(name, ...data.videoFrames.map((number) => columnHead(`Frame ${number + 1}`)));
  lane.frames.forEach((frame, index) => {
    const alt = altOf(lane, frame, data);
    const act = (video) => go(scale.of(frame), video, "forming");
    body.append(matrixRow(data, frame, stepHead(frame), alt, act, (cell, video) => marks.push([cell, index, video])));
  });
  if (lane.final) {
    const alt = `${lane.label}, final image of ${data.subject}`;
    const act = (video) => go(state.at, video, "final");
    const mark = (cell, video) => marks.push([cell, "final", video]);
    body.append(matrixRow(data, lane.final, rowHead("Final"), alt, act, mark));
  }
  if (!body.childElementCount) body.append(emptyRow(lane, data.videoFrames.length));
  top.append(head);
  table.append(top, body);
  node.replaceChildren(table);
  return () => {
    const now = state.view === "final" ? "final" : scale.pick(lane.frames, scale, state.at);
    marks.forEach(([cell, row, video]) => cell.classList.toggle("now", row === now && video === state.frame));
  };
}

function matrixRow(data, picture, name, alt, act, mark) {
  const row = element("tr");
  row.append(name);
  data.videoFrames.forEach((number, video) => {
    const cell = element("td");
    cell.append(stripPicture(picture, video, `${alt}, frame ${number + 1}`, `Frame ${number + 1}`));
    cell.onclick = () => act(video);
    mark(cell, video);
    row.append(cell);
  });
  return row;
}

function stepHead(frame) {
  const name = rowHead(`Call ${frame.step} of ${frame.calls}`);
  if (frame.logSnr !== null) name.append(element("div", "soft", `log-SNR ${signed(frame.logSnr)}`));
  return name;
}

function rowHead(text) {
  return Object.assign(element("th", "", text), { scope: "row" });
}

function emptyRow(lane, columns) {
  const [row, cell] = [element("tr"), element("td", "why", lane.why)];
  cell.colSpan = columns + 1;
  row.append(cell);
  return row;
}
