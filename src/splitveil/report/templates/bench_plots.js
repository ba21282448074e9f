// The four plots. Their colors are the page's, so that they follow light and dark.
const style = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const config = { responsive: true, displaylogo: false, displayModeBar: "hover", modeBarButtonsToRemove: ["lasso2d", "select2d", "autoScale2d"],
  toImageButtonOptions: { format: "svg" } };
const escaped = (text) => String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
const faint = (hex, share) => `${hex}${Math.round(255 * share).toString(16).padStart(2, "0")}`;

// SVG and not WebGL: a thousand cells are fluid in it, it prints, and it needs no permission to evaluate code.
const type = "scatter";

function layout(more) {
  const axis = { gridcolor: style("--grid"), zerolinecolor: style("--rule"), linecolor: style("--rule"), automargin: true };
  const { xaxis = {}, yaxis = {}, xaxis2, yaxis2, ...rest } = more;
  return {
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", hovermode: "closest",
    font: { family: getComputedStyle(document.body).fontFamily, size: 13, color: style("--soft") },
    hoverlabel: { align: "left", bgcolor: style("--card"), bordercolor: style("--soft"), font: { color: style("--ink") } },
    modebar: { bgcolor: "rgba(0,0,0,0)", color: style("--soft"), activecolor: style("--ink") },
    margin: { l: 64, r: 14, t: 28, b: 104 }, legend: { orientation: "h", yref: "container", y: 0, yanchor: "bottom", x: 0 },
    xaxis: titled(axis, xaxis), yaxis: titled(axis, yaxis),
    ...(xaxis2 && { xaxis2: titled(axis, xaxis2) }), ...(yaxis2 && { yaxis2: titled(axis, yaxis2) }), ...rest,
  };
}

function titled(axis, { label, ...more }) {
  return { ...axis, ...more, ...(label && { title: { text: label, font: { size: 13.5 }, standoff: 10 } }) };
}

function familyColor(arena, cell) {
  const families = data.arenas[arena].families;
  // With one family, color is free to tell CEM from the rest.
  const place = families.length === 1 ? Number(Boolean(cell.cem)) : families.indexOf(cell.family);
  return style(`--f${place % 10}`);
}

function cellText(cell) {
  return `<b>${escaped(cell.name)}</b>, seed ${cell.seed}<br>accuracy ${cell.text.accuracy} %<br>best attacker’s MSE ${cell.text.mse}` +
    `<br>strongest attack: ${escaped(cell.strongest)}`;
}

const bars = (triples, color) => ({ type: "data", symmetric: false, array: triples.map(([m, , h]) => h - m),
  arrayminus: triples.map(([m, l]) => m - l), color, thickness: 1.2, width: 0 });

function groups(cells, keyOf) {
  const found = new Map();
  cells.forEach((cell) => { const key = keyOf(cell); found.set(key, [...(found.get(key) ?? []), cell]); });
  return [...found.values()];
}

function tradeoff(arena, cells, withBars, chosen) {
  const ink = style("--ink");
  const share = cells.length > 200 ? 0.16 : 0.45;
  const several = data.arenas[arena].families.length > 1;
  const named = new Set();
  const traces = groups(cells, (cell) => `${cell.family}\n${Boolean(cell.cem)}`).map((part) => {
    const [first] = part;
    const color = familyColor(arena, first);
    const label = several ? first.family : first.cem ? "with CEM" : "without CEM";
    const shown = !named.has(label);
    named.add(label);
    return { type, mode: "markers", name: escaped(label), legendgroup: label, showlegend: shown,
      x: part.map((c) => c.accuracy[0]), y: part.map((c) => c.mse[0]), text: part.map(cellText),
      customdata: part.map((c) => c.id), hovertemplate: "%{text}<extra></extra>",
      ...(withBars && { error_x: bars(part.map((c) => c.accuracy), faint(color, share)), error_y: bars(part.map((c) => c.mse), faint(color, share)) }),
      marker: { color, size: cells.length > 200 ? 6 : 9, symbol: first.cem ? "diamond" : "circle-open", line: { color, width: 1.6 } } };
  });
  if (several && cells.some((c) => c.cem)) {
    for (const [name, symbol] of [["without CEM", "circle-open"], ["with CEM", "diamond"]]) {
      traces.push({ type, mode: "markers", x: [null], y: [null], name, marker: { color: style("--soft"), size: 9, symbol } });
    }
  }
  const { noise, front } = data.arenas[arena];
  const setup = (point) => `<b>${escaped(point.name)}</b><br>accuracy ${point.accuracy} %<br>best attacker’s MSE ${point.mse}<br>${point.seeds}`;
  for (const { name, points } of noise) {
    traces.push({ type, mode: "lines", name: escaped(name), x: points.map((p) => p.x), y: points.map((p) => p.y),
      line: { dash: "dot", color: style("--s0"), width: 2 }, hoverinfo: "skip" });
  }
  traces.push({ type, mode: "lines+markers", name: "Pareto front", x: front.map((p) => p.x), y: front.map((p) => p.y),
    text: front.map(setup), customdata: front.map((p) => p.id), hovertemplate: "%{text}<extra>mean over seeds</extra>",
    line: { color: ink, width: 1.6 }, marker: { symbol: "square-open", size: front.length > 15 ? 9 : 14, color: ink, line: { width: 1.4 } } });
  if (chosen) {
    traces.push({ type, mode: "markers", x: [chosen.accuracy[0]], y: [chosen.mse[0]], hoverinfo: "skip", name: "chosen",
      marker: { symbol: "circle-open", size: 24, color: style("--reference"), line: { width: 2.4 } } });
  }
  return [traces, layout({ xaxis: { label: "test accuracy, %" },
    yaxis: { label: narrow() ? "best attacker’s MSE" : "best attacker’s MSE (higher: more private)" } })];
}

// Two plots beside each other or, on a narrow page, above each other.
const narrow = () => innerWidth < 640;

function pair(first, second) {
  const [low, high] = narrow() ? [[0.57, 1], [0, 0.4]] : [[0, 0.47], [0.54, 1]];
  return narrow()
    ? { xaxis: { ...first[0], anchor: "y" }, yaxis: { ...first[1], domain: low },
        xaxis2: { ...second[0], anchor: "y2" }, yaxis2: { ...second[1], domain: high, anchor: "x2" } }
    : { xaxis: { ...first[0], domain: low, anchor: "y" }, yaxis: first[1],
        xaxis2: { ...second[0], domain: high, anchor: "y2" }, yaxis2: { ...second[1], anchor: "x2" } };
}

function gain(arena, gains) {
  const rows = data.arenas[arena].gainRows;
  const color = style("--s1");
  const at = gains.map((g) => g.height);
  const parts = [["mse", "x", "y", "MSE"], ["accuracy", "x2", "y2", "points"]].flatMap(([key, xaxis, yaxis, unit]) => [
    { type, mode: "markers", xaxis, yaxis, y: at, x: gains.map((g) => g[key][0]), customdata: gains.map((g) => g.id),
      text: gains.map((g) => `<b>${escaped(g.stack)}</b><br>with ${escaped(g.cem)}<br>${g.text[key]} ${unit}<br>${g.text.seeds}`),
      hovertemplate: "%{text}<extra></extra>", error_x: bars(gains.map((g) => g[key]), faint(color, 0.5)),
      marker: { size: 9, color: gains.map((g) => (g[key][1] > 0 || g[key][2] < 0 ? color : style("--card"))), line: { color, width: 1.8 } } },
    { type, mode: "markers", xaxis, yaxis, hoverinfo: "skip", marker: { size: 4, color: faint(style("--ink"), 0.5) },
      x: gains.flatMap((g) => (g.bySeed[key].length > 1 ? g.bySeed[key] : [])),
      y: gains.flatMap((g) => (g.bySeed[key].length > 1 ? g.bySeed[key].map(() => g.height) : [])) },
  ]);
  const most = rows.map((_, row) => gains.filter((g) => g.row === row).length);
  const tall = most.reduce((sum, count) => sum + Math.max(narrow() ? 50 : 34, 13 * count), 0);
  const height = narrow() ? 180 + 2.3 * tall : 90 + tall;
  const zero = [["x", "y domain"], ["x2", "y2 domain"]].map(([xref, yref]) =>
    ({ type: "line", xref, yref, x0: 0, x1: 0, y0: 0, y1: 1, line: { color: style("--soft"), width: 1.2 } }));
  const names = { tickvals: rows.map((_, row) => row), ticktext: rows.map(wrapped), range: [rows.length - 0.4, -0.6], zeroline: false };
  const second = narrow() ? names : { ...names, showticklabels: false };
  return [parts, layout({ height, showlegend: false, shapes: zero, margin: { l: 20, r: 14, t: 28, b: 50 },
    ...pair([{ label: "change of the best attacker’s MSE" }, names], [{ label: "change of accuracy, points" }, second]) })];
}

// A long stack over several lines, broken at the pluses.
function wrapped(name) {
  const lines = [""];
  for (const word of name.split(" + ")) {
    const last = lines.at(-1);
    if (last && last.length + word.length > (narrow() ? 16 : 34)) lines.push(word);
    else lines[lines.length - 1] = last ? `${last} + ${word}` : word;
  }
  return lines.map(escaped).join(" +<br>");
}

function curves(arena, cells, chosen) {
  const share = cells.length > 200 ? 0.2 : 0.65;
  const name = (cell) => `${cell.family}${cell.cem ? " with CEM" : ""}`;
  const traces = groups(cells, (cell) => `${cell.family}\n${Boolean(cell.cem)}`).flatMap((part) => {
    const [first] = part;
    const own = { type, mode: "lines", x: [null], y: [null], name: escaped(name(first)), legendgroup: name(first),
      line: { color: familyColor(arena, first), width: 2, dash: first.cem ? "solid" : "dash" } }; // the curves are too faint for a legend
    return [own, ...[["accuracy", "x", "y"], ["loss", "x2", "y2"]].map(([key, xaxis, yaxis]) => {
      const label = name(first);
      return { type, mode: "lines", xaxis, yaxis, name: escaped(label), legendgroup: label, showlegend: false,
        ...strung(part, key), hovertemplate: "%{text}<extra></extra>",
        line: { color: faint(familyColor(arena, first), share), width: 1.5, dash: first.cem ? "solid" : "dash" } };
    })];
  });
  if (chosen) {
    for (const [key, xaxis, yaxis] of [["accuracy", "x", "y"], ["loss", "x2", "y2"]]) {
      traces.push({ type, mode: "lines", xaxis, yaxis, x: chosen.curve.epoch, y: chosen.curve[key], hoverinfo: "skip",
        name: "chosen", showlegend: key === "accuracy", line: { color: style("--reference"), width: 3.2 } });
    }
  }
  return [traces, layout({ height: narrow() ? 720 : 430,
    ...pair([{ label: "epoch" }, { label: "validation accuracy, %" }], [{ label: "epoch" }, { label: "loss" }]) })];
}

// Many curves as one line with gaps: a thousand traces would stop the browser.
function strung(cells, key) {
  const line = { x: [], y: [], customdata: [], text: [] };
  for (const cell of cells) {
    const text = `<b>${escaped(cell.name)}</b>, seed ${cell.seed}`;
    cell.curve.epoch.forEach((epoch, i) => {
      line.x.push(epoch);
      line.y.push(cell.curve[key][i]);
      line.customdata.push(cell.id);
      line.text.push(text);
    });
    for (const list of Object.values(line)) list.push(null);
  }
  return line;
}

function leakage(cells, chosen) {
  const known = cells.filter((cell) => cell.leakage !== null);
  const sigmas = [...new Set(known.map((cell) => cell.sigma))].sort((a, b) => a - b);
  const traces = sigmas.flatMap((sigma, place) => [false, true].map((cem) => {
    const part = known.filter((cell) => cell.sigma === sigma && Boolean(cell.cem) === cem);
    const color = mixed(sigmas.length === 1 ? 1 : place / (sigmas.length - 1));
    return { type, mode: "markers", name: `σ = ${sigma}${cem ? ", CEM" : ""}`,
      x: part.map((c) => c.leakage), y: part.map((c) => c.mse[0]), customdata: part.map((c) => c.id),
      text: part.map((c) => `${cellText(c)}<br>leakage estimate ${c.leakage.toFixed(0)} nats`), hovertemplate: "%{text}<extra></extra>",
      marker: { color, size: known.length > 200 ? 6 : 9, symbol: cem ? "diamond" : "circle-open", line: { color, width: 1.6 } } };
  })).filter((trace) => trace.x.length);
  if (chosen && chosen.leakage !== null) {
    traces.push({ type, mode: "markers", x: [chosen.leakage], y: [chosen.mse[0]], hoverinfo: "skip", name: "chosen",
      marker: { symbol: "circle-open", size: 24, color: style("--reference"), line: { width: 2.4 } } });
  }
  return [traces, layout({ xaxis: { label: "leakage estimate, nats per image" }, yaxis: { label: "best attacker’s MSE" } })];
}

// Between three colors of the page: 0 is the first, 1 the last.
function mixed(share) {
  const stops = ["--f0", "--f6", "--f1"].map(style).map((hex) => [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16)));
  const place = Math.min(stops.length - 2, Math.floor(share * (stops.length - 1)));
  const part = share * (stops.length - 1) - place;
  return "#" + stops[place].map((low, i) => Math.round(low + part * (stops[place + 1][i] - low)).toString(16).padStart(2, "0")).join("");
}
