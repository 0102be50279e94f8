// Writes animated GIFs (GIF89a). Every frame has its own 256 colours, found by median cut over 15-bit colours.

const COLOURS = 256;

// Collects frames of one size (red, green, blue, alpha; milliseconds), repeated for ever; `blob` gives the file.
function gifWriter(width, height) {
  const parts = [ascii("GIF89a"), words(width, height), [0x70, 0, 0]];
  parts.push([0x21, 0xff, 11], ascii("NETSCAPE2.0"), [3, 1, 0, 0, 0]);
  return {
    add(rgba, time) {
      const { palette, indices } = quantised(rgba);
      parts.push([0x21, 0xf9, 4, 4], words(Math.max(2, Math.round(time / 10))), [0, 0]);
      parts.push([0x2c], words(0, 0, width, height), [0x87], palette, [8], ...blocks(compressed(indices)), [0]);
    },
    blob: () => new Blob([...parts, [0x3b]].map((part) => Uint8Array.from(part)), { type: "image/gif" }),
  };
}

function ascii(text) {
  return [...text].map((one) => one.charCodeAt(0));
}

function words(...values) {
  return values.flatMap((value) => [value & 255, value >> 8]);
}

function blocks(bytes) {
  const found = [];
  for (let at = 0; at < bytes.length; at += 255) {
    const block = bytes.subarray(at, at + 255);
    found.push([block.length], block);
  }
  return found;
}

// The 256 colours that suit a picture, and for every pixel the number of its colour.
function quantised(rgba) {
  const bins = 1 << 15;
  const [count, sums] = [new Uint32Array(bins), [0, 1, 2].map(() => new Float64Array(bins))];
  const pixels = new Uint16Array(rgba.length / 4);
  for (let i = 0, p = 0; i < rgba.length; i += 4, p += 1) {
    const bin = ((rgba[i] >> 3) << 10) | ((rgba[i + 1] >> 3) << 5) | (rgba[i + 2] >> 3);
    pixels[p] = bin;
    count[bin] += 1;
    for (let c = 0; c < 3; c += 1) sums[c][bin] += rgba[i + c];
  }
  const boxes = [boxOf([...count.keys()].filter((bin) => count[bin]), count)];
  while (boxes.length < COLOURS) {
    boxes.sort((one, other) => one.worth - other.worth);
    if (boxes.at(-1).worth === 0) break; // every colour has its own box
    boxes.push(...split(boxes.pop(), count));
  }
  const [palette, colour] = [new Uint8Array(3 * COLOURS), new Uint8Array(bins)];
  boxes.forEach(({ members, size }, number) => {
    members.forEach((bin) => { colour[bin] = number; });
    for (let c = 0; c < 3; c += 1) {
      palette[3 * number + c] = Math.round(members.reduce((sum, bin) => sum + sums[c][bin], 0) / size);
    }
  });
  return { palette, indices: Uint8Array.from(pixels, (bin) => colour[bin]) };
}

const channel = (bin, axis) => (bin >> (10 - 5 * axis)) & 31;

// A box of colours: its longest side, its pixels, and how much a cut is worth (0 if it cannot be cut).
function boxOf(members, count) {
  const spans = [0, 1, 2].map((axis) => {
    const values = members.map((bin) => channel(bin, axis));
    return values.reduce((a, b) => Math.max(a, b)) - values.reduce((a, b) => Math.min(a, b));
  });
  const span = Math.max(...spans);
  const size = members.reduce((sum, bin) => sum + count[bin], 0);
  return { members, size, axis: spans.indexOf(span), worth: span * Math.sqrt(size) };
}

// Cuts a box across its longest side so that both halves hold about as many pixels.
function split({ members, size, axis }, count) {
  const sorted = [...members].sort((one, other) => channel(one, axis) - channel(other, axis));
  let [at, sum] = [0, 0];
  while (at < sorted.length - 1 && (at === 0 || sum + count[sorted[at]] / 2 < size / 2)) {
    sum += count[sorted[at]];
    at += 1;
  }
  return [boxOf(sorted.slice(0, at), count), boxOf(sorted.slice(at), count)];
}

// LZW with codes of 9 to 12 bits; the dictionary starts anew when it is full.
function compressed(indices) {
  const [clear, end] = [COLOURS, COLOURS + 1];
  const known = new Uint16Array(4096 << 8);
  const bytes = new Uint8Array(Math.ceil(indices.length * 1.6) + 16);
  let [next, width, bits, held, length] = [end + 1, 9, 0, 0, 0];
  const put = (code) => {
    held |= code << bits;
    for (bits += width; bits >= 8; bits -= 8, held >>>= 8) bytes[length++] = held & 255;
  };
  put(clear);
  let prefix = indices[0];
  for (let i = 1; i < indices.length; i += 1) {
    const key = (prefix << 8) | indices[i];
    if (known[key]) {
      prefix = known[key];
      continue;
    }
    put(prefix);
    if (next === 4096) {
      put(clear);
      known.fill(0);
      [next, width] = [end + 1, 9];
    } else {
      known[key] = next;
      if (next === 1 << width) width += 1;
      next += 1;
    }
    prefix = indices[i];
  }
  put(prefix);
  put(end);
  if (bits > 0) bytes[length++] = held & 255;
  return bytes.subarray(0, length);
}
