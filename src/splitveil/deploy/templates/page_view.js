/* What one sees. `ort` is onnxruntime-web, which stands before this in the same script. */
const about = JSON.parse(take("about"));
const served = location.protocol === "http:" || location.protocol === "https:";
const MOST_PIXELS = 64e6;
const DEADLINE = 15000; // milliseconds
const ARRAYS = { UINT8: "uint8", FP16: "float16", FP32: "float32" };
const memory = new Remembered(10000);
let encoder, attack, camera;
let shown = null; // { pixels, wire, entry }: the entry, of `memory`, is null where noise is off
let turn = 0; // of the newest picture or switch: what an older one still computes is not shown

/** Return an element. */
function at(id) {
  return document.getElementById(id);
}

/** Return the text of a data element, and free it. */
function take(id) {
  const element = at(id);
  const text = element?.textContent ?? "";
  element?.remove();
  return text.trim();
}

/** Return the bytes of a data element. */
async function unpacked(id) {
  const stream = new Blob([base85(take(id))]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

/** Say what happens, or what is wrong, in one of the two places for it. */
function say(text, wrong = false, place = "status") {
  at(place).textContent = text;
  at(place).classList.toggle("wrong", wrong);
}

/** Return a session of an ONNX file; null where there is none. */
async function session(id) {
  if (!at(id)) return null;
  const options = { executionProviders: ["wasm"], logSeverityLevel: 3 };
  return ort.InferenceSession.create(await unpacked(id), options);
}

/** Return the wire, as bytes, of pixels and of numbers for every draw. */
async function encode(pixels, numbers) {
  const feeds = { image: new ort.Tensor("uint8", pixels, [1, ...about.image]) };
  about.draws.forEach(({ name, kind, shape }, i) => {
    feeds[name] = new ort.Tensor(kind === "integer" ? "int64" : "float32", numbers[i], [1, ...shape]);
  });
  const { data } = (await encoder.run(feeds)).wire;
  return new Uint8Array(data.buffer, data.byteOffset, data.byteLength).slice();
}

/** Return the image that the linear attack makes of a wire. */
async function attacked(wire) {
  const type = ARRAYS[about.wire.dtype];
  const data = { uint8: wire, float16: new Uint16Array(wire.buffer), float32: new Float32Array(wire.buffer) }[type];
  const found = await attack.run({ wire: new ort.Tensor(type, data, [1, ...about.wire.shape]) });
  return found.image.data;
}

/** Paint pixels (height, width, channels) one by one; a style sheet enlarges them unsmoothed. */
function paint(canvas, pixels, [height, width, channels]) {
  const image = new ImageData(width, height);
  for (let i = 0; i < width * height; i++) {
    for (let c = 0; c < 3; c++) image.data[4 * i + c] = pixels[channels * i + Math.min(c, channels - 1)];
    image.data[4 * i + 3] = 255;
  }
  Object.assign(canvas, { width, height });
  canvas.getContext("2d").putImageData(image, 0, 0);
}

/** Paint the wire: a tile for each channel, black for its lowest code, white for its highest. */
function paintWire(wire) {
  const { across, height, width, gap } = about.tiles;
  const [wide, high] = about.painted;
  const image = new ImageData(wide, high);
  shades(wire, about.wire.codec, about.values).forEach((shade, i) => {
    const channel = Math.floor(i / (height * width));
    const y = Math.floor(channel / across) * (height + gap) + (Math.floor(i / width) % height);
    const x = (channel % across) * (width + gap) + (i % width);
    image.data.set([255 * shade, 255 * shade, 255 * shade, 255], 4 * (y * wide + x));
  });
  at("wire").getContext("2d").putImageData(image, 0, 0);
}

/** Return the pixels, as the network takes them, of anything that can be drawn: what is transparent is white. */
function pixelsOf(drawable, width, height) {
  if (width * height > MOST_PIXELS) throw new Error("This picture has more than 64 million pixels; scale it down.");
  const canvas = Object.assign(document.createElement("canvas"), { width, height });
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.fillStyle = "#fff";
  context.fillRect(0, 0, width, height);
  context.drawImage(drawable, 0, 0, width, height);
  return asTrained(context.getImageData(0, 0, width, height).data, width, height, about.image);
}

/** Return the pixels of a file, upright; a color profile is left out, as in training. */
async function read(file) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(file, { imageOrientation: "from-image", colorSpaceConversion: "none" });
  } catch {
    throw new Error("This file cannot be read as a picture; choose a JPEG, PNG or WebP file.");
  }
  try {
    return pixelsOf(bitmap, bitmap.width, bitmap.height);
  } finally {
    bitmap.close();
  }
}

/** Show a picture: its pixels, its wire, and what an attacker makes of that. */
async function show(pixels) {
  const mine = ++turn;
  const noisy = at("noise").checked;
  const make = async () => ({ wire: await encode(pixels, about.draws.map(fresh)), logits: null });
  const entry = noisy ? await memory.of(pixels, make) : null;
  const wire = entry ? entry.wire : await encode(pixels, about.draws.map(still));
  const image = attack ? await attacked(wire) : null;
  if (mine !== turn) return;
  shown = { pixels, wire, entry };
  paint(at("pixels"), pixels, about.image);
  paintWire(wire);
  if (image) {
    paint(at("attacked"), image, about.image);
    at("apart").textContent = `off by ${graysApart(pixels, image).toFixed(0)} of 255 gray levels`;
  }
  document.body.classList.toggle("still", !noisy);
  at("results").classList.remove("empty");
  say(noisy ? "" : "Noise is off, for your eyes only: these bytes are never sent.");
  showAnswer();
}

/** Show the answer for the picture that is shown, if there is one. */
function showAnswer() {
  const logits = shown?.entry?.logits;
  at("send").disabled = !served || !shown?.entry;
  at("send").textContent = logits ? "Send the same bytes again" : `Send these ${about.bytes} bytes`;
  at("bars").replaceChildren();
  say(logits ? shown.entry.sent : unanswered(), false, "answer-note");
  if (!logits) return;
  const shares = softmax(logits).map((share, i) => ({ share, name: about.classes[i] ?? `class ${i}` }));
  shares.sort((one, other) => other.share - one.share);
  for (const { share, name } of shares.slice(0, 5)) at("bars").append(bar(name, share));
}

/** Return why there is no answer. */
function unanswered() {
  if (!served) return "No answer: this page was opened as a file, so nothing is sent.";
  if (shown && !shown.entry) return "Not sent: noise is off.";
  return shown ? "Nothing has been sent yet." : "";
}

/** Return a bar of a probability. */
function bar(name, share) {
  const [item, label, figure, track, fill] = ["li", "span", "span", "i", "i"].map((tag) => document.createElement(tag));
  label.textContent = name;
  figure.textContent = `${(100 * share).toFixed(share < 0.0995 ? 1 : 0)} %`;
  fill.style.width = `${100 * share}%`;
  track.setAttribute("aria-hidden", "true");
  track.append(fill);
  item.append(label, figure, track);
  return item;
}

/** Send the wire that is shown: always one of the memory, so always one with noise, and the same for an image. */
async function send() {
  const { entry } = shown ?? {};
  if (!entry || !served) return;
  const { address, headers, body } = requestOf(about, entry.wire, at("token").value);
  at("send").disabled = true;
  say("Sending …", false, "answer-note");
  let wrong = "";
  try {
    const signal = AbortSignal.timeout(DEADLINE);
    const request = { method: "POST", headers, body, signal, cache: "no-store", redirect: "error" };
    const answer = await fetch(address, request);
    if (!answer.ok) {
      const meaning = explained(answer.status, about.model, await answer.text());
      throw Object.assign(new Error(meaning), { status: answer.status });
    }
    const bytes = new Uint8Array(await answer.arrayBuffer());
    entry.logits = logitsOf(answer.headers.get(HEADER), bytes, about.outputs);
    const described = body.length - entry.wire.length;
    entry.sent = `Sent: ${entry.wire.length} bytes of wire, ${described} bytes that describe it, and HTTP headers.`;
    at("access").open = false;
  } catch (error) {
    wrong = failure(error);
    if (error.status === 401 || error.status === 403) at("access").open = true;
  }
  showAnswer();
  if (wrong) say(wrong, true, "answer-note");
}

/** Return what went wrong, in words. */
function failure(error) {
  if (error.name === "TimeoutError") return "The server did not answer in time; send again.";
  if (error instanceof TypeError) return "The server cannot be reached; is it running?";
  return error.message;
}

/** Run what a control does; a mistake is said and the page goes on. */
function run(action) {
  return async (event) => {
    try {
      await action(event);
    } catch (error) {
      say(error.message, true);
    }
  };
}

/** Open the camera, or say why there is none. */
async function openCamera() {
  if (!navigator.mediaDevices) throw new Error("The camera needs a page that was opened over HTTPS or on this machine.");
  try {
    camera = await navigator.mediaDevices.getUserMedia({ audio: false, video: { facingMode: "environment" } });
  } catch (error) {
    throw new Error(`No camera (${error.name}); allow it for this page, or choose a file.`);
  }
  at("video").srcObject = camera;
  await at("video").play();
  at("finder").hidden = false;
  at("snap").focus();
}

/** Close the camera. */
function closeCamera() {
  camera?.getTracks().forEach((track) => track.stop());
  at("video").srcObject = null;
  at("finder").hidden = true;
  at("camera").focus();
}

/** Take the picture that the camera shows. */
async function snap() {
  const pixels = pixelsOf(at("video"), at("video").videoWidth, at("video").videoHeight);
  closeCamera();
  await show(pixels);
}

/** Offer the pictures that the page brings along. */
async function offerExamples() {
  const all = await Promise.all(about.examples.map(async ({ name, data }) => {
    const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
    return { name, pixels: await read(new Blob([bytes])) };
  }));
  for (const { name, pixels } of all) {
    const [button, canvas] = ["button", "canvas"].map((tag) => document.createElement(tag));
    paint(canvas, pixels, about.image);
    canvas.setAttribute("aria-hidden", "true");
    Object.assign(button, { type: "button", title: name, onclick: run(() => show(pixels)) });
    button.setAttribute("aria-label", `Example: ${name}`);
    button.append(canvas);
    at("examples").append(button);
  }
  at("examples").hidden = !all.length;
  if (all.length && !shown) await show(all[0].pixels);
}

/** Make every control work. */
function connect() {
  at("choose").onclick = () => at("file").click();
  at("file").onchange = run(async () => {
    const [file] = at("file").files;
    at("file").value = ""; // so that the same file can be chosen again
    if (file) await show(await read(file));
  });
  addEventListener("dragover", (event) => event.preventDefault());
  addEventListener("drop", run(async (event) => {
    event.preventDefault();
    const [file] = event.dataTransfer.files;
    if (!file) throw new Error("Drop a picture file here.");
    await show(await read(file));
  }));
  at("camera").onclick = run(openCamera);
  at("snap").onclick = run(snap);
  at("close").onclick = closeCamera;
  at("noise").onchange = run(() => shown && show(shown.pixels));
  at("send").onclick = run(send);
  for (const id of ["choose", "camera", "noise"]) at(id).disabled = false;
}

/** Load the encoder and offer the controls. */
async function start() {
  document.body.classList.add(served ? "served" : "offline");
  Object.assign(ort.env.wasm, { numThreads: 1, proxy: false, wasmBinary: (await unpacked("wasm")).buffer });
  encoder = await session("encoder");
  attack = await session("attack");
  connect();
  say("");
  showAnswer();
  await offerExamples();
}

const ready = start();
ready.catch((error) => say(`This browser cannot run the encoder (${error.message}); try a current one.`, true));
/** For tests: what the page computes, without sending anything. */
globalThis.splitveil = Object.freeze({ ready, about, encode, read, fresh: () => about.draws.map(fresh) });
