// Small pieces of the page. Texts are only ever set as text.

function element(tag, classes = "", text = "") {
  const node = document.createElement(tag);
  if (classes) node.className = classes;
  if (text) node.textContent = text;
  return node;
}

function button(text, act, { name = "", title = "", why = "" } = {}) {
  const node = element("button", "", text);
  node.type = "button";
  if (name) node.setAttribute("aria-label", name);
  node.title = why || title;
  node.disabled = why !== "";
  node.onclick = act;
  return node;
}

// A row of buttons of which one is pressed. Choices: [value, text, title, why it cannot be chosen].
function switchOf(name, choices, chosen, act) {
  const node = labelled(name, element("div", "group"));
  const buttons = choices.map(([value, text, title, why]) => [value, button(text, () => act(value), { title, why })]);
  node.lastChild.append(...buttons.map(([, one]) => one));
  node.lastChild.setAttribute("role", "group");
  node.lastChild.setAttribute("aria-label", name);
  const press = (value) => buttons.forEach(([own, one]) => one.setAttribute("aria-pressed", String(own === value)));
  press(chosen);
  return { node, press };
}

// A list to choose from. Choices: [value, text, why it cannot be chosen].
function listOf(name, choices, chosen, act) {
  const list = element("select");
  list.setAttribute("aria-label", name);
  list.append(...choices.map(([value, text, why]) => {
    const option = element("option", "", why ? `${text} (${why})` : text);
    Object.assign(option, { value, disabled: Boolean(why) });
    return option;
  }));
  list.value = chosen;
  list.onchange = () => act(list.value);
  return { node: labelled(name, list), press: (value) => { list.value = value; } };
}

function labelled(name, node) {
  const field = element("div", "field");
  field.append(element("span", "soft", name), node);
  field.firstChild.setAttribute("aria-hidden", "true");
  return field;
}

function slider(name, steps, act) {
  const range = element("input");
  Object.assign(range, { type: "range", min: 0, max: steps, step: 1 });
  range.setAttribute("aria-label", name);
  range.oninput = () => act(Number(range.value));
  return range;
}

function laneName(lane, tag, classes = "") {
  const node = element(tag, classes);
  const mark = element("span", "", `${lane.glyph} `);
  mark.style.color = lane.colour;
  mark.setAttribute("aria-hidden", "true");
  node.append(mark, document.createTextNode(lane.label));
  if (lane.baseline) node.append(element("span", "tag", "baseline"));
  return node;
}

// The address of a picture (a frame or a final image) at a place in the list of video frames.
function sourceOf(picture, video) {
  return video > 0 ? picture.more[video - 1] ?? picture.src : picture.src;
}

function clamp(value, low, high) {
  return Math.min(high, Math.max(low, value));
}
