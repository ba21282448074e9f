/*
 * Pixels as in training: stretched to the network's size by Pillow's antialiased bilinear filter, in its integer
 * arithmetic, so that the result is the same to the last bit. A browser's own drawImage gives other pixels.
 */
const PRECISION = 22; // bits of a weight after the point, as in Pillow's Resample.c

/** Return where each new pixel begins, how many old ones it covers, and their weights. */
function resampling(from, to) {
  const scale = from / to;
  const support = Math.max(scale, 1); // the triangle's half width
  const places = [];
  for (let i = 0; i < to; i++) {
    const center = (i + 0.5) * scale;
    const first = Math.max(Math.trunc(center - support + 0.5), 0);
    const last = Math.min(Math.trunc(center + support + 0.5), from);
    const weights = [];
    let sum = 0;
    for (let x = first; x < last; x++) {
      const weight = Math.max(0, 1 - Math.abs((x - center + 0.5) * (1 / support)));
      weights.push(weight);
      sum += weight;
    }
    places.push({ first, weights: weights.map((weight) => Math.trunc(0.5 + (weight / sum) * 2 ** PRECISION)) });
  }
  return places;
}

/** Return one byte of a sum of bytes times weights. */
function rounded(sum) {
  return Math.min(255, Math.max(0, Math.floor((sum + 2 ** (PRECISION - 1)) / 2 ** PRECISION)));
}

/** Return an image (height, from, channels) with rows of another length. */
function resizedRows(pixels, height, from, to, channels) {
  if (from === to) return pixels;
  const places = resampling(from, to);
  const result = new Uint8Array(height * to * channels);
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < to; x++) {
      const { first, weights } = places[x];
      for (let c = 0; c < channels; c++) {
        let sum = 0;
        for (let k = 0, at = (y * from + first) * channels + c; k < weights.length; k++, at += channels) {
          sum += pixels[at] * weights[k];
        }
        result[(y * to + x) * channels + c] = rounded(sum);
      }
    }
  }
  return result;
}

/** Return an image (from, width, channels) with columns of another length. */
function resizedColumns(pixels, width, from, to, channels) {
  if (from === to) return pixels;
  const row = width * channels;
  const result = new Uint8Array(to * row);
  resampling(from, to).forEach(({ first, weights }, y) => {
    for (let i = 0; i < row; i++) {
      let sum = 0;
      for (let k = 0; k < weights.length; k++) sum += pixels[(first + k) * row + i] * weights[k];
      result[y * row + i] = rounded(sum);
    }
  });
  return result;
}

/** Return the image that the network takes, (height, width, channels), of one (high, wide, red green blue alpha). */
function asTrained(rgba, wide, high, [height, width, channels]) {
  const rgb = new Uint8Array(wide * high * 3);
  for (let i = 0; i < wide * high; i++) rgb.set(rgba.subarray(4 * i, 4 * i + 3), 3 * i);
  // Pillow rounds between its two passes, so their order shows. Since version 13 it begins with the columns if the
  // height shrinks by more than twice as many pixels as the width; before, it always began with the rows.
  const tall = high > height && high - height > 2 * (wide - width);
  const resized = tall
    ? resizedRows(resizedColumns(rgb, wide, high, height, 3), height, wide, width, 3)
    : resizedColumns(resizedRows(rgb, high, wide, width, 3), width, high, height, 3);
  return channels === 3 ? resized : grays(resized);
}

/** Return the gray levels of colors, ITU-R 601-2, as Pillow's convert("L") makes them. */
function grays(rgb) {
  return Uint8Array.from({ length: rgb.length / 3 }, (_, i) => {
    return (19595 * rgb[3 * i] + 38470 * rgb[3 * i + 1] + 7471 * rgb[3 * i + 2] + 32768) >> 16;
  });
}
