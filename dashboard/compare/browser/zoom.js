// Zooming and moving the pictures of all lanes together: wheel, drag, double click, two fingers, keys.
// x and y are the shift of the picture in widths and heights of its tile, at most 0.

const ZOOM_STEP = 1.5;
const MOVE_STEP = 0.1;

// Zooms about a place of the tile, given in its widths and heights.
function zoomed(zoom, factor, px = 0.5, py = 0.5) {
  const by = clamp(zoom.by * factor, 1, MAX_ZOOM);
  const ratio = by / zoom.by;
  return within({ by, x: px - (px - zoom.x) * ratio, y: py - (py - zoom.y) * ratio });
}

function moved(zoom, dx, dy) {
  return within({ by: zoom.by, x: zoom.x + dx, y: zoom.y + dy });
}

// Listens on the grid of tiles; `read` gives the zoom, `act` takes the new one. Returns how it is drawn.
function makeZoom(grid, read, act) {
  const fingers = new Map();
  grid.addEventListener("wheel", (event) => {
    const lens = event.target.closest?.(".lens");
    if (!lens || !(event.ctrlKey || event.metaKey)) return; // the plain wheel scrolls the page
    event.preventDefault();
    act(zoomed(read(), Math.exp(-clamp(event.deltaY, -60, 60) / 120), ...placeIn(lens, event)));
  }, { passive: false });
  grid.addEventListener("dblclick", (event) => {
    const lens = event.target.closest(".lens");
    if (lens) act(read().by >= MAX_ZOOM ? within({ by: 1, x: 0, y: 0 }) : zoomed(read(), 2, ...placeIn(lens, event)));
  });
  grid.addEventListener("pointerdown", (event) => {
    const lens = event.target.closest(".lens");
    if (!lens || event.button > 0) return;
    fingers.set(event.pointerId, { lens, x: event.clientX, y: event.clientY });
    if (read().by > 1 || fingers.size > 1) lens.setPointerCapture(event.pointerId);
  });
  grid.addEventListener("pointermove", (event) => {
    const finger = fingers.get(event.pointerId);
    if (!finger) return;
    const other = [...fingers.values()].find((one) => one !== finger);
    act(other ? pinched(read(), finger, other, event) : dragged(read(), finger, event));
    Object.assign(finger, { x: event.clientX, y: event.clientY });
  });
  const lift = (event) => fingers.delete(event.pointerId);
  grid.addEventListener("pointerup", lift);
  grid.addEventListener("pointercancel", lift);
  grid.addEventListener("pointerleave", lift);
}

function dragged(zoom, finger, event) {
  const { width, height } = finger.lens.getBoundingClientRect();
  return moved(zoom, (event.clientX - finger.x) / width, (event.clientY - finger.y) / height);
}

function pinched(zoom, finger, other, event) {
  const before = Math.hypot(finger.x - other.x, finger.y - other.y);
  const now = Math.hypot(event.clientX - other.x, event.clientY - other.y);
  const middle = { clientX: (event.clientX + other.x) / 2, clientY: (event.clientY + other.y) / 2 };
  const { width, height } = finger.lens.getBoundingClientRect();
  const grown = before > 0 ? zoomed(zoom, now / before, ...placeIn(finger.lens, middle)) : zoom;
  return moved(grown, (event.clientX - finger.x) / 2 / width, (event.clientY - finger.y) / 2 / height);
}

function placeIn(lens, event) {
  const box = lens.getBoundingClientRect();
  return [clamp((event.clientX - box.left) / box.width, 0, 1), clamp((event.clientY - box.top) / box.height, 0, 1)];
}

// Plus, minus and zero zoom; the arrows move a picture that is zoomed. Undefined for any other key.
function zoomOfKey(key, zoom) {
  if (key === "+" || key === "=") return zoomed(zoom, ZOOM_STEP);
  if (key === "-" || key === "_") return zoomed(zoom, 1 / ZOOM_STEP);
  if (key === "0") return within({ by: 1, x: 0, y: 0 });
  const ways = { ArrowLeft: [1, 0], ArrowRight: [-1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };
  const way = zoom.by > 1 ? ways[key] : undefined;
  return way && moved(zoom, way[0] * MOVE_STEP, way[1] * MOVE_STEP);
}

function showZoom(grid, zoom, data) {
  grid.style.setProperty("--by", zoom.by);
  grid.style.setProperty("--x", `${zoom.x * 100}%`);
  grid.style.setProperty("--y", `${zoom.y * 100}%`);
  grid.classList.toggle("zoomed", zoom.by > 1);
  const lens = grid.querySelector(".lens:not(.noise)");
  const dot = lens ? (lens.clientWidth * zoom.by) / data.width : 1; // of the screen, for one of the picture
  grid.classList.toggle("dots", data.small || dot >= 3);
}
