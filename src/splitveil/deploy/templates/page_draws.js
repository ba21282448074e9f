/*
 * Random numbers of the system, crypto.getRandomValues: they have no seed, so nobody can try seeds out, and no state,
 * so nothing can repeat them.
 */
const MOST_WORDS = 16384; // crypto.getRandomValues fills no more at once

/** Return 32-bit words of the system's generator. */
function systemWords(count) {
  const words = new Uint32Array(count);
  for (let i = 0; i < count; i += MOST_WORDS) crypto.getRandomValues(words.subarray(i, i + MOST_WORDS));
  return words;
}

/** Return a whole number below 2⁵³ of two words. */
function bits53(words, i) {
  return (words[i] >>> 5) * 2 ** 26 + (words[i + 1] >>> 6);
}

/** Return numbers of N(0, 1), by Box and Muller's transform of pairs of 53-bit numbers. */
function normals(count, words = systemWords) {
  const drawn = words(4 * Math.ceil(count / 2));
  const numbers = new Float32Array(count);
  for (let i = 0; i < count; i += 2) {
    const radius = Math.sqrt(-2 * Math.log((bits53(drawn, 2 * i) + 1) / 2 ** 53)); // of (0, 1]: never infinite
    const angle = 2 * Math.PI * (bits53(drawn, 2 * i + 2) / 2 ** 53);
    numbers[i] = radius * Math.cos(angle);
    if (i + 1 < count) numbers[i + 1] = radius * Math.sin(angle);
  }
  return numbers;
}

/** Return numbers in [0, 1): multiples of 2⁻²⁴, which float32 holds exactly. */
function uniforms(count, words = systemWords) {
  return Float32Array.from(words(count), (word) => (word >>> 8) / 2 ** 24);
}

/** Return numbers of Exp(1), never 0 and never infinite: the logarithm's argument lies inside (0, 1). */
function exponentials(count, words = systemWords) {
  const drawn = words(2 * count);
  return Float32Array.from({ length: count }, (_, i) => {
    return -Math.log((Math.floor(bits53(drawn, 2 * i) / 2) + 0.5) / 2 ** 52);
  });
}

/** Return whole numbers below `high`, all equally likely: what lies above the last multiple is drawn again. */
function integers(count, high, words = systemWords) {
  const end = 2 ** 53 - (2 ** 53 % high);
  const numbers = new BigInt64Array(count);
  for (let i = 0; i < count; i++) {
    let drawn = end;
    while (drawn >= end) drawn = bits53(words(2), 0);
    numbers[i] = BigInt(drawn % high);
  }
  return numbers;
}

/** Return how many numbers a shape holds. */
function product(shape) {
  return shape.reduce((most, size) => most * size, 1);
}

/** Return fresh numbers for one draw of wire.json. */
function fresh(draw) {
  const count = product(draw.shape);
  if (draw.kind === "integer") return integers(count, draw.high);
  return { normal: normals, uniform: uniforms, exponential: exponentials }[draw.kind](count);
}

/** Return the middle of a draw's law for each of its numbers: no noise, to look at and never to send. */
function still(draw) {
  const count = product(draw.shape);
  if (draw.kind === "integer") return new BigInt64Array(count).fill(BigInt(Math.floor((draw.high - 1) / 2)));
  return new Float32Array(count).fill({ normal: 0, uniform: 0.5, exponential: Math.LN2 }[draw.kind]);
}
