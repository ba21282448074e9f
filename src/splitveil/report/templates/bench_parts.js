// What the page is made of: elements, a table that sorts, filters and turns pages, strips of pictures.
// Names come from files that anybody may have written: they only ever become text nodes.
const data = JSON.parse(document.getElementById("data").textContent);
const byId = Object.fromEntries(data.cells.map((cell, place) => [cell.id, place]));
let pictures = null;

function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value !== null && value !== false) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null));
  return element;
}

// The pictures are most of the page, so they are only read when the first one is looked at.
function picturesOf(cell) {
  pictures ??= JSON.parse(document.getElementById("pictures-data").textContent);
  return pictures.cells[cell.id];
}

function errorsRow(errors) {
  const row = make("div", { class: "errors", style: `grid-template-columns: repeat(${errors.length}, 1fr)` });
  const digits = Math.min(...errors) < 0.0045 ? 4 : 3;
  const short = (text) => (narrow() ? text.replace(/^0/, "") : text);
  row.append(...errors.map((error) => make("span", {}, short(error.toFixed(digits)))));
  return row;
}

function stripRow(uri, title, more, errors) {
  const who = make("div", { class: "who" }, title, make("small", {}, more));
  return make("div", { class: "strip" }, who, make("img", { src: uri, alt: title }), errors ? errorsRow(errors) : null);
}

function cellStrip(cell) {
  const strip = picturesOf(cell);
  const figures = `${cell.accuracy[0].toFixed(1)} % accurate, MSE ${parted(cell.text.mse)[0]}`;
  return stripRow(strip.uri, cell.name, `${figures}; seed ${cell.seed}, ${cell.strongest}`, strip.errors);
}

function download(text, name, kind) {
  const link = make("a", { href: URL.createObjectURL(new Blob([text], { type: kind })), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

// columns: {title, value (sorted by), show (text or [text, interval]), text (left-aligned), down (first order),
// extra (not on paper)}
function table(place, columns, rows, { order = null, csv = null, pick = null, size = 50, spoken = "" } = {}) {
  const state = { order, rising: order === null || !columns[order].down, page: 0, words: "" };
  const kind = (column) => `${column.text ? "text" : ""} ${column.extra ? "screen" : ""}`.trim() || null;
  const show = (column, row) => (column.show ? column.show(row) : String(column.value(row) ?? "–"));
  const searched = rows.map((row) => columns.map((column) => [show(column, row)].flat().join(" ")).join(" ").toLowerCase());
  const body = make("tbody");
  const heads = columns.map((column, number) =>
    make("th", { scope: "col", class: kind(column) },
      make("button", { type: "button", onclick: () => sort(number) }, column.title)));
  const status = make("span", { "aria-live": "polite" });
  const printed = make("p", { class: "note printed" }); // paper has no controls, but may lack rows
  const [back, next] = [["‹", -1, "earlier rows"], ["›", 1, "later rows"]].map(([sign, step, label]) =>
    make("button", { type: "button", "aria-label": label, onclick: () => { state.page += step; draw(); } }, sign));
  const filter = make("input", { type: "search", placeholder: "Filter: words that a row must hold", "aria-label": "Filter",
    oninput: (event) => { state.words = event.target.value; state.page = 0; draw(); } });
  const save = csv && make("button", { type: "button", onclick: () => download(csv.text, csv.name, "text/csv") }, "Save as CSV");
  place.replaceChildren(
    make("div", { class: "controls" }, rows.length > 8 ? filter : null, status, make("span", { class: "push" }), save, back, next),
    make("div", { class: "scroll" }, make("table", { "aria-label": spoken }, make("thead", {}, make("tr", {}, ...heads)), body)), printed);

  function sort(number) {
    state.rising = state.order === number ? !state.rising : !columns[number].down;
    state.order = number;
    state.page = 0;
    draw();
  }

  function compare(a, b) {
    const [x, y] = [a, b].map((row) => columns[state.order].value(row));
    if (x === null || y === null) return (x === null) - (y === null); // what is missing comes last
    const sign = typeof x === "number" ? x - y : String(x).localeCompare(String(y), "en", { numeric: true });
    return state.rising ? sign : -sign;
  }

  function draw() {
    const words = state.words.toLowerCase().split(/\s+/).filter(Boolean);
    const kept = rows.filter((_, number) => words.every((word) => searched[number].includes(word)));
    if (state.order !== null) kept.sort(compare);
    const pages = Math.max(1, Math.ceil(kept.length / size));
    state.page = Math.min(Math.max(state.page, 0), pages - 1);
    const first = state.page * size;
    body.replaceChildren(...kept.slice(first, first + size).map(line));
    const range = kept.length > size ? `${first + 1} to ${Math.min(first + size, kept.length)} of ` : "";
    status.textContent = `${range}${kept.length} row${kept.length === 1 ? "" : "s"}` +
      (kept.length < rows.length ? `, filtered from ${rows.length}` : "");
    printed.textContent = kept.length > size || kept.length < rows.length ? `Rows ${status.textContent}.` : "";
    [back, next].forEach((button) => (button.hidden = pages === 1));
    [back.disabled, next.disabled] = [state.page === 0, state.page === pages - 1];
    heads.forEach((head, number) => {
      if (number === state.order) head.setAttribute("aria-sort", state.rising ? "ascending" : "descending");
      else head.removeAttribute("aria-sort");
    });
  }

  function line(row) {
    const cells = columns.map((column) => {
      const [text, interval] = [show(column, row)].flat();
      return make("td", { class: kind(column) }, text, interval ? make("small", {}, ` ${interval}`) : null);
    });
    const chosen = pick && { class: "pick", tabindex: "0", onclick: () => pick(row),
      onkeydown: (event) => { if (event.key === "Enter") pick(row); } };
    return make("tr", chosen || {}, ...cells);
  }

  draw();
}

// "0.0103 [0.0099, 0.0107]" as [value, interval].
function parted(text) {
  const cut = text.indexOf(" [");
  return cut < 0 ? [text, ""] : [text.slice(0, cut), text.slice(cut + 1)];
}
