// How far two pictures are apart: per pixel the mean absolute difference over red, green and blue, 0 to 255.

// Cividis (Nuñez, Anderton, Renslow 2018): even steps of lightness, the same to readers with and without colour vision.
const CIVIDIS = [
  "002051", "012b65", "11366c", "2c456e", "42506e", "555b6e", "66676f", "757372", "868276", "938e78", "a19b78",
  "b2a874", "c5b66d", "ddc85f", "f0d652", "fce647",
];
const REMEMBERED_BYTES = 96 * 2 ** 20;

const rgb = (hex) => [0, 2, 4].map((at) => parseInt(hex.slice(at, at + 2), 16));

// 256 colours, evenly between the stops above; for each red, green, blue.
const HEAT = Uint8ClampedArray.from({ length: 768 }, (_, i) => {
  const place = (Math.floor(i / 3) / 255) * (CIVIDIS.length - 1);
  const low = Math.min(Math.floor(place), CIVIDIS.length - 2);
  const [from, to] = [rgb(CIVIDIS[low])[i % 3], rgb(CIVIDIS[low + 1])[i % 3]];
  return from + (place - low) * (to - from);
});

const images = new Map();
const pixels = new Map();

// The picture, ready to be drawn. Those of the scene shown are kept.
function pictureOf(source) {
  if (!images.has(source)) {
    const image = new Image();
    image.src = source;
    images.set(source, image.decode().then(() => image));
  }
  return images.get(source);
}

function forgetPictures() {
  images.clear();
  pixels.clear();
}

// The picture's bytes (red, green, blue, alpha) at a size; the latest are remembered.
async function pixelsOf(source, width, height) {
  const key = `${width}x${height} ${source}`;
  const known = pixels.get(key);
  pixels.delete(key);
  const found = known ?? readPixels(await pictureOf(source), width, height);
  pixels.set(key, found);
  const most = Math.max(4, Math.floor(REMEMBERED_BYTES / (4 * width * height)));
  if (pixels.size > most) pixels.delete(pixels.keys().next().value);
  return found;
}

function readPixels(image, width, height) {
  const canvas = Object.assign(element("canvas"), { width, height });
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(image, 0, 0, width, height);
  return context.getImageData(0, 0, width, height).data;
}

// A canvas with the heat map of two pictures, and the mean over all pixels. `top` is the value of the lightest colour.
async function differenceOf(source, other, top) {
  const { naturalWidth: width, naturalHeight: height } = await pictureOf(source);
  const [one, two] = await Promise.all([pixelsOf(source, width, height), pixelsOf(other, width, height)]);
  const canvas = Object.assign(element("canvas"), { width, height });
  const context = canvas.getContext("2d");
  const map = context.createImageData(width, height);
  let sum = 0;
  for (let i = 0; i < one.length; i += 4) {
    const apart = Math.abs(one[i] - two[i]) + Math.abs(one[i + 1] - two[i + 1]) + Math.abs(one[i + 2] - two[i + 2]);
    sum += apart;
    const colour = 3 * Math.min(255, Math.round((apart * 85) / top));
    map.data[i] = HEAT[colour];
    map.data[i + 1] = HEAT[colour + 1];
    map.data[i + 2] = HEAT[colour + 2];
    map.data[i + 3] = 255;
  }
  context.putImageData(map, 0, 0);
  return { canvas, mean: sum / (3 * width * height) };
}

// The colours from 0 to the top, from left to right.
function heatBar(width, height) {
  const canvas = Object.assign(element("canvas"), { width, height });
  const context = canvas.getContext("2d");
  for (let x = 0; x < width; x += 1) {
    const colour = 3 * Math.round((x / (width - 1)) * 255);
    context.fillStyle = `rgb(${HEAT[colour]},${HEAT[colour + 1]},${HEAT[colour + 2]})`;
    context.fillRect(x, 0, 1, height);
  }
  return canvas;
}

function makeLegend(state, act) {
  const node = element("div", "legend");
  const bar = heatBar(160, 12);
  bar.setAttribute("role", "img");
  const [end, text] = [element("span"), element("span", "soft")];
  const choices = TOPS.map((top) => [String(top), String(top)]);
  const list = listOf("Lightest colour", choices, String(state.top), (top) => act(Number(top)));
  const scale = element("span", "scale");
  scale.append(element("span", "", "0"), bar, end);
  node.append(scale, list.node, text);
  return {
    node,
    show(against, note) {
      node.hidden = state.diff === "off";
      if (node.hidden) return;
      end.textContent = state.top === 255 ? "255" : `${state.top} and more`;
      bar.setAttribute("aria-label", `Colours from dark, no difference, to light, ${end.textContent}`);
      list.press(String(state.top));
      text.textContent = `${meaningOf(against)}${note ? ` ${note}.` : ""} Step frames are stored lossy, so small `
        + "differences can be compression; final images are exact.";
    },
  };
}

function meaningOf(against) {
  const measure = "mean of |ΔR|, |ΔG|, |ΔB| per pixel, 0 to 255";
  return `Difference from ${against}: ${measure}; the mean is over the whole picture.`;
}
