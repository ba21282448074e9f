/* The Open Inference Protocol, version 2, with its binary extension; and the wire in figures. */
const HEADER = "Inference-Header-Content-Length";
const BITS = { uint8: 8, uint4: 4, uint2: 2 };

/** Return the bytes of base 85 (RFC 1924's letters, with a point for "<", which must not stand in a page). */
function base85(text) {
  const letters = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz!#$%&()*+-;.=>?@^_`{|}~";
  const values = new Uint8Array(128);
  for (let i = 0; i < letters.length; i++) values[letters.charCodeAt(i)] = i;
  const count = Math.ceil(text.length / 5);
  const words = new DataView(new ArrayBuffer(4 * count));
  for (let i = 0; i < count; i++) {
    let word = 0;
    for (let k = 5 * i; k < 5 * i + 5; k++) word = word * 85 + (k < text.length ? values[text.charCodeAt(k)] : 84);
    words.setUint32(4 * i, word);
  }
  return new Uint8Array(words.buffer, 0, 4 * count - (5 * count - text.length));
}

/** Return address, headers and body of the request that carries one wire. */
function requestOf(about, wire, token) {
  const { dtype, shape } = about.wire;
  const input = { name: "wire", datatype: dtype, shape: [1, ...shape], parameters: { binary_data_size: wire.length } };
  const output = { name: about.output, parameters: { binary_data: true } };
  const description = new TextEncoder().encode(JSON.stringify({ inputs: [input], outputs: [output] }));
  const body = new Uint8Array(description.length + wire.length);
  body.set(description);
  body.set(wire, description.length);
  const headers = { "Content-Type": "application/octet-stream", [HEADER]: String(description.length) };
  if (token) headers.Authorization = `Bearer ${token}`;
  return { address: `/v2/models/${about.model}/infer`, headers, body };
}

/** Return the logits of an answer; `length` is its header of that name, `bytes` its body. */
function logitsOf(length, bytes, classes) {
  const binary = /^[0-9]+$/.test(length ?? "");
  const end = binary ? Number(length) : bytes.length;
  let output;
  try {
    output = JSON.parse(new TextDecoder().decode(bytes.subarray(0, end))).outputs[0];
  } catch {
    throw new Error("The server's answer is not of the Open Inference Protocol.");
  }
  const rest = bytes.slice(end);
  const logits = binary && rest.length % 4 === 0 ? littleEndian(rest) : output?.data?.flat();
  if (logits?.length !== classes || !logits.every(Number.isFinite)) {
    throw new Error(`The server's answer does not hold one finite number for each of ${classes} classes.`);
  }
  return Float32Array.from(logits);
}

/** Return float32 numbers of bytes. */
function littleEndian(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  return Array.from({ length: bytes.length / 4 }, (_, i) => view.getFloat32(4 * i, true));
}

/** Return what a status other than 200 means, and what to do; `body` is the answer's. */
function explained(status, model, body = "") {
  const meanings = {
    401: "The server wants a token that it knows: enter it above and send again.",
    403: "The server does not accept this token.",
    404: `This server does not offer ${model}: page and server must be of the same export.`,
    413: "The request is larger than this server accepts.",
    429: "The server is busy; send again in a moment.",
    503: "The server is busy or stopping; send again in a moment.",
  };
  const late = status === 408 || status === 504;
  const other = `The server answered with status ${status}${reason(body)}.`;
  return meanings[status] ?? (late ? "The server answered too late; send again." : other);
}

/** Return the reason that the body of a refusal gives, after a colon; nothing where it gives none. */
function reason(body) {
  try {
    const { error } = JSON.parse(body);
    return typeof error === "string" ? `: ${error.slice(0, 300)}` : "";
  } catch {
    return "";
  }
}

/** Return probabilities of logits. */
function softmax(logits) {
  const most = Math.max(...logits);
  const shares = Array.from(logits, (logit) => Math.exp(logit - most));
  const sum = shares.reduce((one, other) => one + other, 0);
  return shares.map((share) => share / sum);
}

/** Return the number of a float16's bits. */
function half(bits) {
  const sign = bits & 0x8000 ? -1 : 1;
  const power = (bits >> 10) & 31;
  const rest = bits & 1023;
  if (power === 31) return rest ? NaN : sign * Infinity;
  return sign * (power ? 2 ** (power - 15) * (1 + rest / 1024) : (2 ** -14 * rest) / 1024);
}

/** Return each number on the wire as a share of the codec's range, or of the message's where floats are sent. */
function shades(wire, codec, values) {
  const bits = BITS[codec];
  if (bits) {
    const each = 8 / bits;
    const top = 2 ** bits - 1;
    return Float32Array.from({ length: values }, (_, i) => {
      return ((wire[Math.floor(i / each)] >> (bits * (i % each))) & top) / top;
    });
  }
  const view = new DataView(wire.buffer, wire.byteOffset, wire.byteLength);
  const read = codec === "float16" ? (i) => half(view.getUint16(2 * i, true)) : (i) => view.getFloat32(4 * i, true);
  const numbers = Float32Array.from({ length: values }, (_, i) => read(i));
  const low = Math.min(...numbers);
  const range = Math.max(...numbers) - low || 1;
  return numbers.map((number) => (number - low) / range);
}

/** Return how far two images are apart, in gray levels a pixel: the root of the mean squared difference. */
function graysApart(one, other) {
  let sum = 0;
  one.forEach((value, i) => (sum += (value - other[i]) ** 2));
  return Math.sqrt(sum / one.length);
}

/**
 * Wires by the pixels they were made of. Fresh noise for the same image would give whoever reads the wire a second
 * look at it, and the mean of two looks has less noise.
 */
class Remembered {
  constructor(most) {
    this.most = most;
    this.held = new Map();
  }

  static key(pixels) {
    const parts = [];
    for (let i = 0; i < pixels.length; i += 8192) parts.push(String.fromCharCode(...pixels.subarray(i, i + 8192)));
    return parts.join("");
  }

  /** Return what is remembered of an image, made now if there is nothing. */
  async of(pixels, make) {
    const key = Remembered.key(pixels);
    if (!this.held.has(key)) {
      const made = Promise.resolve(make());
      made.catch(() => this.held.delete(key));
      this.held.set(key, made);
      if (this.held.size > this.most) this.held.delete(this.held.keys().next().value);
    }
    return this.held.get(key);
  }
}
