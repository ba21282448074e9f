// The page: which cell is chosen, what is drawn when, and what a click does.
const FIRST_STRIPS = 24;
const MANY = 300; // cells from which on their intervals are a haze, and off until asked for
const element = (id) => document.getElementById(id);
const chosenIn = {}; // arena -> place of the chosen cell
let arena = 0;

const cellsOf = () => data.cells.filter((cell) => cell.arena === arena);
const chosen = () => data.cells[chosenIn[arena]];
const plots = {
  "plot-tradeoff": () => tradeoff(arena, cellsOf(), element("bars").checked, chosen()),
  "plot-gain": () => gain(arena, data.gains.filter((g) => g.arena === arena)),
  "plot-curves": () => curves(arena, cellsOf(), chosen()),
  "plot-leakage": () => leakage(cellsOf(), chosen()),
};
const drawn = new Set(); // what is there
const near = new Set(); // what is close to the window
const stale = new Set(); // what must be drawn again before it is seen

function draw(id) {
  const place = element(id);
  const [traces, shape] = plots[id]();
  if (!traces.some((trace) => trace.x.length)) {
    Plotly.purge(place);
    place.replaceChildren(make("p", { class: "empty" }, "Nothing to draw."));
    return;
  }
  if (!drawn.has(id)) place.replaceChildren();
  Plotly.react(place, traces, shape, config);
  if (!drawn.has(id)) {
    place.on("plotly_click", (event) => {
      const id_ = event.points[0]?.customdata;
      if (id_ in byId) choose(byId[id_]);
    });
  }
  drawn.add(id);
  stale.delete(id);
}

function redraw(...ids) {
  for (const id of ids) {
    if (drawn.has(id) && near.has(id)) draw(id);
    else stale.add(id);
  }
}

function choose(place, look = false) {
  chosenIn[data.cells[place].arena] = place;
  if (data.cells[place].arena !== arena) show(data.cells[place].arena);
  panel(data.cells[place]);
  redraw("plot-tradeoff", "plot-curves", "plot-leakage");
  if (look) element("tradeoff").scrollIntoView({ behavior: "smooth" });
}

function panel(cell) {
  const fact = (name, value) => make("div", {}, make("dt", {}, name), make("dd", {}, value));
  const facts = make("dl", { class: "facts" }, fact("accuracy", `${cell.text.accuracy} %`),
    cell.retrained ? fact("accuracy, tail retrained", `${cell.text.retrained} %`) : null, fact("best attacker’s MSE", cell.text.mse),
    cell.share === null ? null : fact("to class mean", `${cell.text.share} %`),
    fact("SSIM", cell.text.ssim), fact("PSNR", `${cell.text.psnr} dB`),
    ...Object.entries(cell.attacks).map(([label, error]) => fact(`MSE of ${label}`, error)),
    cell.leakage === null ? null : fact("leakage estimate", `${cell.leakage.toFixed(0)} nats`),
    fact("epoch", cell.text.epoch), fact("folder", `cells/${cell.id}`));
  const flags = cell.flags.length ? make("ul", { class: "flags" }, ...cell.flags.map((flag) => make("li", {}, flag))) : null;
  const strip = picturesOf(cell);
  const path = `cells/${cell.id}/attacks/${cell.strongest}/reconstructions.png`;
  const shown = strip
    ? [stripRow(pictures.originals[strip.originals].uri, "original", ""),
       stripRow(strip.uri, cell.strongest, "the attack with the lowest mean error", strip.errors)]
    : [make("p", { class: "note" }, "The pictures of this cell are not in the page: ",
        make("a", { href: `${data.base}/${path}` }, path), " in its folder.")];
  element("panel").replaceChildren(make("h3", {}, `${cell.name}, seed ${cell.seed}${cell.front ? " (on the front)" : ""}`), facts,
    ...(flags ? [flags] : []), ...shown);
}

function strips(all) {
  const there = cellsOf().filter((cell) => picturesOf(cell));
  const least = there.reduce((low, cell) => (low && low.mse[0] <= cell.mse[0] ? low : cell), null);
  const front = data.arenas[arena].front.map((point) => data.cells[byId[point.id]]).filter((cell) => there.includes(cell));
  const some = front.filter((_, place) => place % Math.ceil(front.length / (FIRST_STRIPS / 2)) === 0);
  const first = there.length <= FIRST_STRIPS ? there : [...new Set([least, ...some])];
  const kept = all ? there.slice(0, all) : first;
  const groupsOf = groups(kept, (cell) => picturesOf(cell).originals);
  element("strips").replaceChildren(...groupsOf.map((part) => {
    const key = picturesOf(part[0]).originals;
    const seeds = [...new Set(part.map((cell) => cell.seed))].join(", ");
    return make("div", { class: "group" }, stripRow(pictures.originals[key].uri, "original", `attacked images of seed ${seeds}`),
      ...part.sort((a, b) => a.mse[0] - b.mse[0]).map(cellStrip));
  }));
  if (!kept.length) element("strips").replaceChildren(make("p", { class: "empty" }, "No cell left pictures."));
  const more = element("more");
  more.hidden = kept.length === there.length;
  more.textContent = `Show more (${kept.length} of ${there.length})`;
  more.onclick = () => strips(Math.min(there.length, (all ?? 0) + 2 * FIRST_STRIPS));
}

function tables() {
  const interval = (key) => (row) => parted(row.text[key]);
  const where = data.arenas.length > 1 ? [{ title: "Images", value: (c) => data.arenas[c.arena].name, text: true }] : [];
  table(element("table-cells"), [
    { title: "Configuration", value: (c) => c.name, show: (c) => `${c.front ? "■ " : ""}${c.name}` },
    ...where,
    { title: "Seed", value: (c) => c.seed },
    { title: "Seeds", value: (c) => c.seeds },
    { title: "Accuracy, %", value: (c) => c.accuracy[0], show: interval("accuracy"), down: true },
    ...(data.cells.some((c) => c.retrained)
      ? [{ title: "Tail retrained, %", value: (c) => c.retrained?.[0] ?? null, show: interval("retrained"), down: true }] : []),
    { title: "Best attacker’s MSE", value: (c) => c.mse[0], show: interval("mse"), down: true },
    ...(data.cells.some((c) => c.share !== null)
      ? [{ title: "To class mean, %", value: (c) => c.share, show: interval("share"), down: true }] : []),
    { title: "SSIM", value: (c) => c.ssim, show: (c) => c.ssim.toFixed(3) },
    { title: "PSNR, dB", value: (c) => c.psnr, show: (c) => c.psnr.toFixed(2), extra: true },
    { title: "Strongest", value: (c) => c.strongest, text: true },
    { title: "Leakage estimate, nats", value: (c) => c.leakage, show: (c) => (c.leakage === null ? "–" : c.leakage.toFixed(0)) },
    { title: "Epoch", value: (c) => c.epoch, extra: true },
    { title: "Flags", value: (c) => c.flags.length, show: (c) => (c.flags.length ? String(c.flags.length) : "–"), down: true, extra: true },
    { title: "Minutes", value: (c) => c.minutes, show: (c) => c.minutes.toFixed(1), down: true, extra: true },
  ], data.cells, { csv: data.csv.cells, pick: (cell) => choose(byId[cell.id], true), spoken: "All cells" });
  if (!data.gains.length) return;
  const gainWhere = where.map((column) => ({ ...column, value: (g) => data.arenas[g.arena].name }));
  table(element("table-gain"), [
    { title: "Defense", value: (g) => g.stack },
    { title: "CEM", value: (g) => g.cem, text: true },
    ...gainWhere,
    { title: "Seeds", value: (g) => g.seeds },
    { title: "Best attacker’s MSE", value: (g) => g.before, show: (g) => g.text.errors },
    { title: "Difference", value: (g) => g.mse[0], show: interval("mse"), down: true },
    { title: "in %", value: (g) => g.relative, show: (g) => g.text.relative, down: true },
    ...(data.cells.some((c) => c.share !== null)
      ? [{ title: "To class mean, %", value: (g) => g.text.share }] : []),
    { title: "Against noise at equal accuracy", value: (g) => g.text.equal, show: (g) => parted(g.text.equal) },
    { title: "Accuracy, %", value: (g) => g.share, show: (g) => g.text.shares },
    { title: "Difference, points", value: (g) => g.accuracy[0], show: interval("accuracy"), down: true },
  ], data.gains, { csv: data.csv.gains, size: 25, spoken: "What CEM changes" });
}

function show(number) {
  arena = number;
  if (element("arena")) element("arena").value = String(number);
  redraw(...Object.keys(plots));
  if (chosen()) panel(chosen());
  if (drawn.has("strips")) strips();
}

// Plots and pictures are made when they come near the window: the page opens at once, however long it is.
const actions = {
  ...Object.fromEntries(Object.keys(plots).map((id) => [id, () => draw(id)])),
  strips: () => { strips(); drawn.add("strips"); },
  panel: () => { panel(chosen()); drawn.add("panel"); },
};
const watch = new IntersectionObserver((entries) => {
  for (const { target: { id }, isIntersecting } of entries) {
    if (!isIntersecting) { near.delete(id); continue; }
    near.add(id);
    if (!drawn.has(id) || stale.has(id)) actions[id]();
  }
}, { rootMargin: "400px" });

data.arenas.forEach((_, number) => { chosenIn[number] = byId[data.arenas[number].front.at(-1)?.id]; });
tables();
element("bars").checked = data.cells.length <= MANY;
Object.keys(actions).filter(element).forEach((id) => watch.observe(element(id)));
element("bars").addEventListener("change", () => redraw("plot-tradeoff"));
element("arena")?.addEventListener("change", (event) => show(Number(event.target.value)));
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => redraw(...Object.keys(plots)));
addEventListener("beforeprint", () => {
  if (element("strips") && !drawn.has("strips")) actions.strips();
  for (const id of ["plot-curves", "plot-leakage"]) if (!drawn.has(id)) draw(id); // the other two are printed as pictures
});
