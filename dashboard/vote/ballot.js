// Two pictures and three answers. The browser stores the voter's random id, so that a later visit continues.

const NAME = "scheduler-lab-voter";
const KEYS = { ArrowLeft: "left", ArrowRight: "right", ArrowDown: "same", 1: "left", 2: "right", 0: "same" };

function voter() {
  try {
    const known = localStorage.getItem(NAME);
    if (known) return known;
    const made = Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0"));
    localStorage.setItem(NAME, made.join(""));
    return made.join("");
  } catch {
    return ""; // storage is disabled; the server then generates an id for this session
  }
}

const FRAME_MS = 125;

function picture(sources, text) {
  const image = document.createElement("img");
  image.src = sources[0];
  image.alt = text;
  return image;
}

// Clips run side by side, frame by frame; pictures have one frame.
function play(images, clips) {
  if (clips[0].length < 2 && clips[1].length < 2) return 0;
  let frame = 0;
  return setInterval(() => {
    frame += 1;
    images.forEach((image, side) => { image.src = clips[side][frame % clips[side].length]; });
  }, FRAME_MS);
}

export default function ({ data, parentElement, setStateValue, setTriggerValue }) {
  const root = parentElement.querySelector(".ballot");
  if (!data.key) {
    setStateValue("voter", voter() || "none");
    return;
  }
  const shown = performance.now();
  let done = false;
  const choose = (choice) => {
    if (done) return;
    done = true;
    root.classList.add("sent");
    setTriggerValue("choice", { key: data.key, choice, seconds: (performance.now() - shown) / 1000 });
  };
  const button = (choice, label, hint) => {
    const made = document.createElement("button");
    made.type = "button";
    made.append(label);
    const key = document.createElement("kbd");
    key.textContent = hint;
    made.append(" ", key);
    made.addEventListener("click", () => choose(choice));
    return made;
  };
  const prompt = document.createElement("p");
  prompt.className = "prompt";
  prompt.textContent = data.prompt;
  const pictures = document.createElement("div");
  pictures.className = data.small ? "pictures small" : "pictures";
  pictures.append(picture(data.left, "Left picture"), picture(data.right, "Right picture"));
  const playing = play([...pictures.children], [data.left, data.right]);
  pictures.children[0].addEventListener("click", () => choose("left"));
  pictures.children[1].addEventListener("click", () => choose("right"));
  const answers = document.createElement("div");
  answers.className = "answers";
  answers.append(button("left", "Left is better", "←"), button("same", "No difference", "↓"),
    button("right", "Right is better", "→"));
  root.classList.remove("sent");
  root.replaceChildren(prompt, pictures, answers);
  const onKey = (event) => {
    const busy = event.target.closest?.("input, textarea, select, [role=combobox], [role=listbox], [role=slider]");
    const choice = KEYS[event.key];
    if (!choice || busy || event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
    event.preventDefault();
    choose(choice);
  };
  document.addEventListener("keydown", onKey);
  return () => {
    clearInterval(playing);
    document.removeEventListener("keydown", onKey);
  };
}
