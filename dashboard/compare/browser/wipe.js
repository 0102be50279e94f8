// Before and after: two lanes in one frame, divided by a line that is moved; at the same step and frame as all else.

function makeWipe(view, acts) {
  const { data, state } = view;
  const node = element("section", "wipe");
  const names = data.lanes.map((lane, index) => [String(index), lane.label]);
  const pick = (value) => (value === "off" ? value : Number(value));
  const before = listOf("Before", [["off", "off"], ...names], String(state.before), (value) =>
    acts.set({ before: pick(value) }));
  const after = listOf("After", names, String(state.after), (value) => acts.set({ after: pick(value) }));
  const fields = element("div", "tools");
  const stage = element("div", "lens");
  const [under, over, line] = [element("img"), element("img"), element("div", "line")];
  const gap = element("div", "gap");
  const divider = slider("Divider between before and after", 100, (value) => acts.set({ cut: value / 100 }));
  const caption = element("div", "soft");
  stage.style.setProperty("--ratio", `${data.width} / ${data.height}`);
  fields.append(before.node, after.node);
  stage.append(under, over, line, gap);
  [under, over].forEach((image) => Object.assign(image, { draggable: false, alt: "" }));
  stage.addEventListener("pointermove", (event) => {
    if (event.buttons & 1 || event.pointerType === "touch") acts.set({ cut: placeIn(stage, event)[0] });
  });
  stage.addEventListener("pointerdown", (event) => acts.set({ cut: placeIn(stage, event)[0] }));
  const body = element("figure", "wiped");
  body.append(stage, divider, caption);
  node.append(fields, body);
  return {
    node,
    show() {
      before.press(String(state.before));
      after.press(String(state.after));
      after.node.hidden = body.hidden = state.before === "off";
      if (body.hidden) return;
      const sides = [data.lanes[state.before], data.lanes[state.after]];
      const shown = sides.map((lane) => shownOf(lane, { ...view, state: { ...state, diff: "off" } }));
      const missing = shown.findIndex((one) => one.why);
      gap.hidden = missing < 0;
      gap.textContent = missing < 0 ? "" : `${sides[missing].label}: ${shown[missing].why}`;
      [under, over, line].forEach((one) => { one.hidden = missing >= 0; });
      const percent = Math.round(state.cut * 100);
      divider.value = String(percent);
      divider.setAttribute("aria-valuetext", `${percent} % ${sides[0].label}`);
      caption.textContent = sides.map((lane, i) =>
        `${["Left", "Right"][i]}: ${lane.label}${shown[i].why ? "" : `, ${shown[i].caption.replace("\n", " · ")}`}`).join("\n");
      if (missing >= 0) return;
      [over, under].forEach((image, i) => {
        const source = sourceOf(shown[i].picture, state.frame);
        if (image.src !== source) image.src = source;
        image.alt = shown[i].alt;
      });
      over.style.clipPath = `inset(0 ${100 - percent}% 0 0)`;
      line.style.left = `${percent}%`;
    },
  };
}
