// The page: where z stands, what x is there, and how both are shown.

const PAGE = JSON.parse(document.getElementById("contents").textContent);
const FEW = 12;  // sliders shown at first
const COLOURS = ["#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#777777", "#999999", "#b8a800",
  "#7f4b1e"];
const IN_ROWS = !PAGE.image && !PAGE.sequence && PAGE.features <= 40;
const byId = id => document.getElementById(id);

function unpack(text, Kind) {
  const bytes = Uint8Array.from(atob(text), c => c.charCodeAt(0));
  return new Kind(bytes.buffer);
}

const weights = unpack(byId("weights").textContent.trim(), Float32Array);
const decoders = PAGE.levels.map(level => compile(level.program, weights));
const controls = new Map(PAGE.controls.map(control => [control.name, control]));
const unpacked = table => Object.fromEntries(Object.entries(table).map(([k, v]) => [k, unpack(v, Float32Array)]));
const codes = unpacked(PAGE.codes), draws = unpacked(PAGE.draws);
const data = unpack(PAGE.x, PAGE.image ? Uint8Array : Float32Array);
const hasCodes = PAGE.rows > 0;

const state = { level: 0, datum: null, drawn: -1, all: false, axes: null, values: new Map() };

function width(control) { return control.kind === "class" ? 1 : control.size; }

function toMiddle() {
  for (const [name, c] of controls) state.values.set(name, c.kind === "class" ? [0] : [...c.start]);
  state.datum = null;
}

function toRow(table, row) {
  for (const [name, c] of controls) {
    if (name in table) state.values.set(name, Array.from(table[name].subarray(row * width(c), (row + 1) * width(c))));
  }
}

// Returns E[x | z] at values by name: numbers, or [class].
function decode(level, values) {
  const given = {};
  for (const name of PAGE.levels[level].moved) {
    const control = controls.get(name), value = values.get(name);
    given[name] = control.kind !== "class" || !control.indicator ? value
      : Array.from({ length: control.size }, (_, k) => +(k === value[0]));
  }
  return decoders[level](given);
}

function paintImage(canvas, x, scale) {
  const [channels, height, width] = PAGE.image, pixels = height * width;
  canvas.width = width; canvas.height = height;
  canvas.className = "image";
  const context = canvas.getContext("2d"), picture = context.createImageData(width, height);
  for (let i = 0; i < pixels; i++) {
    for (let c = 0; c < 3; c++) picture.data[4 * i + c] = scale * x[channels < 3 ? i : c * pixels + i];
    picture.data[4 * i + 3] = 255;
  }
  context.putImageData(picture, 0, 0);
}

function inkOf(name) { return getComputedStyle(document.documentElement).getPropertyValue(name).trim(); }

// Numbers that are no image: a line over the features, above the range of 90 % of the data.
function paintLine(canvas, x, beside) {
  const box = fit(canvas, .62), context = canvas.getContext("2d"), n = x.length;
  let low = Math.min(...PAGE.low, ...x), high = Math.max(...PAGE.high, ...x);
  if (!(high > low)) { low -= 1; high += 1; }
  const across = i => box.width * (.02 + .96 * (n === 1 ? .5 : i / (n - 1)));
  const up = v => box.height * (.97 - .94 * (v - low) / (high - low));
  context.fillStyle = inkOf("--line");
  context.beginPath();
  for (let i = 0; i < n; i++) context.lineTo(across(i), up(PAGE.high[i]));
  for (let i = n - 1; i >= 0; i--) context.lineTo(across(i), up(PAGE.low[i]));
  context.fill();
  const curve = (values, colour, dashes) => {
    context.strokeStyle = colour; context.lineWidth = 2; context.setLineDash(dashes); context.beginPath();
    values.forEach((v, i) => context.lineTo(across(i), up(v)));
    context.stroke();
    if (n <= 40) for (let i = 0; i < n; i++) { context.fillStyle = colour; disc(context, across(i), up(values[i]), 3); }
  };
  if (beside) curve(beside, inkOf("--soft"), [5, 4]);
  curve(Array.from(x), inkOf("--blue"), []);
}

// A table's features, a row each, over the range of the data in the feature's own unit.
function paintRows(canvas, x, beside) {
  const n = x.length, step = 24, box = fit(canvas, n * step / (canvas.clientWidth || 300));
  const context = canvas.getContext("2d"), left = box.width * .38, right = box.width - 58;
  context.font = "13px system-ui, sans-serif";
  context.textBaseline = "middle";
  for (let i = 0; i < n; i++) {
    const span = PAGE.high[i] - PAGE.low[i] || 1, y = (i + .5) * step;
    const across = v => left + (right - left) * Math.min(1, Math.max(0, (v - PAGE.low[i] + span / 2) / (2 * span)));
    context.fillStyle = inkOf("--line");
    context.fillRect(across(PAGE.low[i]), y - 5, across(PAGE.high[i]) - across(PAGE.low[i]), 10);
    context.fillStyle = inkOf("--ink");
    context.textAlign = "left";
    context.fillText(PAGE.names ? PAGE.names[i] : `x[${i}]`, 4, y, left - 10);
    context.textAlign = "right";
    context.fillText(x[i].toPrecision(3), box.width - 4, y, 52);
    if (beside) { context.fillStyle = inkOf("--soft"); context.fillRect(across(beside[i]) - 1, y - 8, 2, 16); }
    context.fillStyle = inkOf("--blue");
    disc(context, across(x[i]), y, 5);
  }
}

function disc(context, x, y, radius) {
  context.beginPath(); context.arc(x, y, radius, 0, 2 * Math.PI); context.fill();
}

function fit(canvas, ratio) {
  const width = canvas.clientWidth || 300, height = Math.round(width * ratio), dense = window.devicePixelRatio || 1;
  canvas.style.height = height + "px";
  canvas.width = Math.round(width * dense); canvas.height = Math.round(height * dense);
  canvas.getContext("2d").scale(dense, dense);
  return { width, height };
}

function row(i) { return data.subarray(i * PAGE.features, (i + 1) * PAGE.features); }

function words(y) { return y === null || y === undefined ? "" : PAGE.classes[y] ?? String(y); }

function showX() {
  const x = decode(state.level, state.values), datum = state.datum === null ? null : row(state.datum);
  byId("datum-figure").hidden = datum === null || !PAGE.image;
  if (PAGE.image) {
    paintImage(byId("x"), x.map(v => Math.min(1, Math.max(0, v))), 255);
    if (datum) paintImage(byId("datum"), datum, 1);
  } else (IN_ROWS ? paintRows : paintLine)(byId("x"), x, datum);
  const beside = datum && !PAGE.image ? `; ${IN_ROWS ? "mark" : "dashed"}: ${PAGE.split} datum ${state.datum}` : "";
  byId("x-caption").textContent = `mean of p(x | ${PAGE.levels[state.level].moved.join(", ")})` + beside
    + (PAGE.image ? "" : "; grey: 90 % of the data");
  if (datum) {
    const y = PAGE.y ? `, ${words(PAGE.y[state.datum])}` : "";
    byId("datum-caption").textContent = `${PAGE.split} datum ${state.datum}${y}`;
  }
}

// ---- the map -------------------------------------------------------------------------------------

function axesOf() {  // every number that can be an axis: [control, dimension]
  return PAGE.levels[state.level].moved.flatMap(name => {
    const c = controls.get(name);
    return c.kind === "vector" && c.latent ? ranked(c).map(j => [c, j]) : [];
  });
}

function ranked(control) {
  const order = Array.from({ length: control.size }, (_, j) => j);
  return control.worth ? order.sort((a, b) => control.worth[b] - control.worth[a]) : order;
}

function nameOf(control, j) { return control.size === 1 ? control.name : `${control.name}[${j}]`; }

function fillAxes() {
  const axes = axesOf();
  byId("map-section").hidden = axes.length < 2;
  document.querySelector("main").classList.toggle("narrow", axes.length < 2);
  if (axes.length < 2) { state.axes = null; return; }
  ["across", "up"].forEach((id, which) => {
    byId(id).replaceChildren(...axes.map(([c, j], i) => new Option(nameOf(c, j), i, false, i === which)));
  });
  state.axes = [axes[0], axes[1]];
  if (axes[0][0] === axes[1][0] && axes[0][0].size === 2) state.axes.sort((a, b) => a[1] - b[1]);
  ["across", "up"].forEach((id, which) => { byId(id).value = axes.findIndex(a => a === state.axes[which]); });
}

function mapPlace(box) {
  const span = ([c, j]) => [c.low[j], c.high[j] - c.low[j]];
  const [a, b] = state.axes.map(span);
  return {
    at: (u, v) => [box.width * (u - a[0]) / a[1], box.height * (1 - (v - b[0]) / b[1])],
    back: (x, y) => [a[0] + a[1] * x / box.width, b[0] + b[1] * (1 - y / box.height)],
  };
}

function showMap() {
  if (!state.axes) return;
  const canvas = byId("map"), box = fit(canvas, 1), context = canvas.getContext("2d"), place = mapPlace(box);
  const value = (table, i, [c, j]) => table[c.name][i * c.size + j];
  const dots = (table, count, colour, radius) => {
    for (let i = 0; i < count; i++) {
      context.fillStyle = colour(i);
      disc(context, ...place.at(value(table, i, state.axes[0]), value(table, i, state.axes[1])), radius);
    }
  };
  context.globalAlpha = .35;
  dots(draws, PAGE.draw_rows, () => inkOf("--soft"), 2.5);
  context.globalAlpha = .8;
  if (hasCodes) dots(codes, PAGE.rows, 
    i => PAGE.y ? COLOURS[(PAGE.y[i] + COLOURS.length) % COLOURS.length] : COLOURS[0], 3);
  context.globalAlpha = 1;
  const [x, y] = place.at(...state.axes.map(([c, j]) => state.values.get(c.name)[j]));
  context.strokeStyle = inkOf("--ink"); context.lineWidth = 2;
  context.beginPath(); context.moveTo(x - 10, y); context.lineTo(x + 10, y); context.moveTo(x, y - 10);
  context.lineTo(x, y + 10); context.stroke();
  byId("map-caption").textContent = (hasCodes ? "Coloured: centres of q(z | x) of data. " : "")
    + "Grey: draws from the prior. Drag to move z" + (hasCodes ? "; click a point to take that datum's code." : ".");
}

function pointed(event, dragged) {
  const box = byId("map").getBoundingClientRect(), place = mapPlace(box);
  const x = event.clientX - box.left, y = event.clientY - box.top;
  let nearest = null, best = 8 ** 2;  // pixels
  if (!dragged && hasCodes) for (let i = 0; i < PAGE.rows; i++) {
    const [u, v] = place.at(...state.axes.map(([c, j]) => codes[c.name][i * c.size + j]));
    const far = (u - x) ** 2 + (v - y) ** 2;
    if (far < best) { best = far; nearest = i; }
  }
  if (nearest !== null) { toRow(codes, nearest); state.datum = nearest; } else {
    place.back(x, y).forEach((v, k) => {
      const [c, j] = state.axes[k];
      state.values.get(c.name)[j] = Math.min(c.high[j], Math.max(c.low[j], v));
    });
  }
  show();
}

// ---- the controls --------------------------------------------------------------------------------

function slider(control, j) {
  const line = document.createElement("div"), label = document.createElement("label");
  const range = document.createElement("input"), said = document.createElement("output");
  line.className = "slider";
  range.type = "range"; range.min = control.low[j]; range.max = control.high[j]; range.step = "any";
  range.id = `${control.name}-${j}`; label.htmlFor = range.id;
  label.textContent = nameOf(control, j);
  if (control.worth) label.title = `${control.worth[j].toFixed(2)} nats of KL per datum`;
  range.addEventListener("input", () => { state.values.get(control.name)[j] = +range.value; show(range); });
  line.append(label, range, said);
  return { line, set: () => {
    const v = state.values.get(control.name)[j];
    if (document.activeElement !== range || +range.value !== v) range.value = v;
    said.textContent = v.toFixed(2);
  } };
}

function chooser(control) {
  const line = document.createElement("div"), label = document.createElement("label");
  const select = document.createElement("select");
  line.className = "row";
  control.labels.forEach((text, k) => select.append(new Option(text, k)));
  select.addEventListener("change", () => { state.values.set(control.name, [+select.value]); show(); });
  label.append(`${control.name} `, select);
  line.append(label);
  return { line, set: () => { select.value = state.values.get(control.name)[0]; } };
}

let shownControls = [];

function fillControls() {
  const rows = [];
  for (const name of PAGE.levels[state.level].moved) {
    const control = controls.get(name);
    if (control.kind === "class") rows.unshift(chooser(control));
    else rows.push(...ranked(control).map(j => slider(control, j)));
  }
  shownControls = state.all ? rows : rows.slice(0, FEW);
  byId("sliders").replaceChildren(...shownControls.map(each => each.line));
  byId("more").hidden = rows.length <= FEW;
  byId("more").textContent = state.all ? "Show fewer" : `Show all ${rows.length}`;
}

let waiting = false;

function show() {
  if (waiting) return;
  waiting = true;
  requestAnimationFrame(() => {
    waiting = false;
    shownControls.forEach(each => each.set());
    showX();
    showMap();
  });
}

function toLevel(level) {
  state.level = level;
  fillAxes();
  fillControls();
  const { follows } = PAGE.levels[level];
  byId("about").textContent = "Move z, and x follows at once, computed in this page by the trained decoder. "
    + (follows.length ? `${follows.join(", ")} follow${follows.length > 1 ? "" : "s"} at the mean. ` : "")
    + "Dimensions that carry most come first.";
  show();
}

function fillLegend() {
  const present = PAGE.y ? [...new Set(PAGE.y)].sort((a, b) => a - b) : [];
  byId("legend").replaceChildren(...(present.length > 20 ? [] : present).map(y => {
    const item = document.createElement("span"), dot = document.createElement("i");
    dot.style.background = COLOURS[((y % COLOURS.length) + COLOURS.length) % COLOURS.length];
    item.append(dot, y < 0 ? "unknown" : words(y));
    return item;
  }));
}

function start() {
  byId("x-figure").classList.toggle("line", !PAGE.image);
  fillLegend();
  PAGE.levels.forEach((level, i) => byId("level").append(new Option(level.name, i)));
  byId("level-row").hidden = PAGE.levels.length < 2;
  byId("next").hidden = !hasCodes;
  byId("level").addEventListener("change", event => toLevel(+event.target.value));
  ["across", "up"].forEach((id, which) => byId(id).addEventListener("change", event => {
    state.axes[which] = axesOf()[+event.target.value];
    show();
  }));
  byId("draw").addEventListener("click", () => {
    state.drawn = (state.drawn + 1) % PAGE.draw_rows;
    toRow(draws, state.drawn);
    state.datum = null;
    show();
  });
  byId("next").addEventListener("click", () => {
    state.datum = state.datum === null ? 0 : (state.datum + 1) % PAGE.rows;
    toRow(codes, state.datum);
    show();
  });
  byId("reset").addEventListener("click", () => { toMiddle(); show(); });
  byId("more").addEventListener("click", () => { state.all = !state.all; fillControls(); show(); });
  let down = null;
  byId("map").addEventListener("pointerdown", event => {
    down = [event.clientX, event.clientY];
    byId("map").setPointerCapture(event.pointerId);
    pointed(event, false);
  });
  byId("map").addEventListener("pointermove", event => {
    if (down && Math.hypot(event.clientX - down[0], event.clientY - down[1]) > 4) pointed(event, true);
  });
  ["pointerup", "pointercancel"].forEach(kind => byId("map").addEventListener(kind, () => { down = null; }));
  window.addEventListener("resize", show);
  toMiddle();
  if (hasCodes) { toRow(codes, 0); state.datum = 0; }
  toLevel(0);
}

try { start(); } catch (error) {
  byId("failure").textContent = `The page could not start: ${error.message}`;
  throw error;
}
