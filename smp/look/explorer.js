// The front end of the mask explorer, for anywidget and for pages without a kernel.
// `pack` in explorer.py writes the state: all numbers of the overview, the timeline and the hover
// texts. A kernel sends what is larger: the mask of a matrix, and weights and scores of a window.

const TYPES = { u1: Uint8Array, u4: Uint32Array, f4: Float32Array };
const BINS = 64, GRID = 32, MOST_VALUES = 64; // bars of scores, coarse blocks, window with weights
const PATIENCE = 5000, FOLLOW = 3000, FRAME = 700; // milliseconds
const LEFT = 34, TOP = 10, TIME = 40; // of the mask and of the timeline in their canvases
const SIZES = { Overview: [428, 316], Matrix: [392, 316], Time: [428, 150], Scores: [392, 150] };
const MODES = { kept: "kept share", turnover: "exchanged", magnitude: "largest weights" };
const KEYS = "Arrows move; + and − zoom; 0 shows the whole matrix; space plays; , and . change the step.";
const LIGHT = {
  paper: "#ffffff", ink: "#333333", faint: "#dddddd", none: "#f0f0f0", grey: "#8c8c8c",
  orange: "#e69f00", blue: "#0072b2", red: "#d55e00", violet: "#6b3fa0",
  ratio: ["#8f4700", "#e69f00", "#dddddd", "#a87fc7", "#4b1279"], share: ["#f0f0f0", "#56b4e9", "#0b3c5d"],
};
const DARK = {
  paper: "#1e1e1e", ink: "#dddddd", faint: "#444444", none: "#2c2c2c", grey: "#8c8c8c",
  orange: "#e69f00", blue: "#56b4e9", red: "#ff8c42", violet: "#c39bf0",
  ratio: ["#ffcf70", "#b87900", "#444444", "#8e63b5", "#dcb8ff"], share: ["#2c2c2c", "#2b7fb8", "#cfeaff"],
};
const CSS = `
.smp { font: 13px/1.4 system-ui, sans-serif; max-width: 880px; position: relative; padding: 4px;
  color: var(--ink); background: var(--paper); }
.smp .bar { display: flex; flex-wrap: wrap; gap: 4px 12px; align-items: center; }
.smp figure { margin: 0; max-width: 100%; }
.smp figcaption { font-weight: 600; height: 1.5em; overflow: hidden; white-space: nowrap; }
.smp canvas { display: block; max-width: 100%; }
.smp :focus-visible { outline: 2px solid var(--blue); outline-offset: 1px; }
.smp input { flex: 1; min-width: 120px; accent-color: var(--blue); }
.smp button, .smp select { font: inherit; color: inherit; background: var(--none);
  border: 1px solid var(--grey); border-radius: 4px; padding: 1px 8px; max-width: 15em; }
.smp output { display: block; min-height: 5.6em; }
.smp .tip { position: absolute; pointer-events: none; max-width: 300px; padding: 2px 6px;
  border-radius: 4px; color: var(--paper); background: var(--ink); }
.smp [hidden] { display: none; }
.jp-OutputArea-child:has(.jupyter-widgets):not(:has(canvas)):has(+ * [data-smp-explorer]) { display: none; }`;
// The last rule hides JupyterLab's line "model not found" above the page of a reopened notebook.

/** Return the state that `pack` wrote. bytes: compressed by zlib. */
export async function unpack(bytes) {
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  const buffer = await new Response(stream).arrayBuffer();
  const length = new DataView(buffer).getUint32(0, true);
  const state = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, length)));
  let at = 4 + length;
  for (const run of state.runs)
    for (const [name, type, size] of run.arrays) {
      run[name] = new TYPES[type](buffer, at, size);
      at += run[name].byteLength;
    }
  return state;
}

const count = (number) => number.toLocaleString("en-US");
const total = (numbers) => numbers.reduce((a, b) => a + b, 0);
const clamp = (value, low, high) => Math.min(high, Math.max(low, value));

/** Format a fraction with three digits, like `as_percent`: 0.1 -> 10%. */
export const percent = (share) => `${+(100 * share).toPrecision(3)}%`;

/** Return the numbers of one run at one step. place: of the step, among the run's steps. */
export function stepOf(state, runNumber, place) {
  const run = state.runs[runNumber], n = state.matrices.length;
  const part = (name, at = place) => run[name].subarray(at * n, (at + 1) * n);
  const sizes = state.matrices.map((matrix) => matrix.rows * matrix.columns);
  const kept = part("kept"), all = total(kept), both = total(part("again"));
  const before = place ? total(part("kept", place - 1)) : 0;
  return {
    runNumber, place, run, step: run.steps[place], sizes, kept, all,
    again: part("again"), largest: part("largest"),
    emptyRows: part("emptyRows"), emptyColumns: part("emptyColumns"),
    density: all / total(sizes), before: place ? run.steps[place - 1] : null,
    removed: before ? (before - both) / before : 0, returned: place && all ? (all - both) / all : 0,
    overlap: all ? total(part("largest")) / all : 0,
    chance: all ? total(kept.map((k, i) => (k * k) / sizes[i])) / all : 0,
  };
}

/** Return the kept weights of a matrix's heads at a step, an empty array without heads. */
export function headsOf(state, at, matrix) {
  const starts = state.matrices.map((each) => each.heads);
  const first = at.place * total(starts) + total(starts.slice(0, matrix));
  return at.run.heads.subarray(first, first + starts[matrix]);
}

/** Return the name of a matrix, with a head if one is given: "layer 5 · query · head 1". */
export function nameOf(state, matrix, head = null) {
  const { layer, kind } = state.matrices[matrix];
  return `layer ${layer} · ${kind}${head === null ? "" : ` · head ${head}`}`;
}

/** Return the hover text of a matrix or head of the overview. */
export function matrixText(state, at, matrix, head = null) {
  const { rows, columns, heads, side } = state.matrices[matrix], size = rows * columns;
  const kept = at.kept[matrix], share = percent(kept / size);
  if (head !== null) {
    const each = (side === "rows" ? rows : columns) / heads, own = headsOf(state, at, matrix)[head];
    return `${nameOf(state, matrix, head)} · ${side} ${head * each}–${(head + 1) * each - 1}: ` +
      `${count(own)} of ${count(size / heads)} weights kept (${percent((own * heads) / size)}); ` +
      `matrix ${share}; ${changes(at, matrix)}`;
  }
  return `${nameOf(state, matrix)} · ${count(rows)} × ${count(columns)}: ${count(kept)} of ` +
    `${count(size)} weights kept (${share}); empty rows ${at.emptyRows[matrix]}, columns ` +
    `${at.emptyColumns[matrix]}; ${changes(at, matrix)}`;
}

function changes(at, matrix) {
  const kept = at.kept[matrix] || 1;
  const since = at.before === null ? "" :
    `${percent(at.again[matrix] / kept)} of them kept at step ${count(at.before)}; `;
  return `${since}${percent(at.largest[matrix] / kept)} among the largest (chance ` +
    `${percent(at.kept[matrix] / at.sizes[matrix])}); step ${count(at.step)}`;
}

/** Return the hover text of a step of the timeline. */
export function stepText(at) {
  const since = at.before === null ? "" : ` ${percent(at.removed)} of the kept weights removed ` +
    `since step ${count(at.before)}, ${percent(at.returned)} returned;`;
  return `step ${count(at.step)}: ${percent(at.density)} kept;${since} ${percent(at.overlap)} ` +
    `among the largest (chance ${percent(at.chance)})`;
}

/** Return the hover text of a bar of scores. found: {scores, edges} of a matrix. */
export function barText({ scores, edges }, bar) {
  const [low, high, cut] = edges, width = (high - low) / BINS, round = (x) => +x.toPrecision(3);
  return `scores ${round(low + bar * width)} to ${round(low + (bar + 1) * width)}: ` +
    `${count(scores[2 * bar + 1])} kept, ${count(scores[2 * bar])} removed; lowest kept ${round(cut)}`;
}

/** Return one byte for each weight from packed bits, first bit first. */
export function unpackBits(bits, size) {
  const mask = new Uint8Array(size);
  for (let i = 0; i < size; i++) mask[i] = (bits[i >> 3] >> (7 - (i & 7))) & 1;
  return mask;
}

/** Return the window after a zoom by `factor`, which keeps the weight at the fractions (x, y). */
export function zoomed(window, shape, area, factor, x = 0.5, y = 0.5) {
  const [row, column, high, wide] = window;
  const [down, across] = [area[1] / high, area[0] / wide]; // pixels a weight
  const [tall, broad] = [high === shape[0], wide === shape[1]]; // all rows, all columns
  if (tall && broad && factor < 1) return window;
  const scale = factor * (tall === broad ? Math.sqrt(down * across) : tall ? across : down);
  const newHigh = Math.round(clamp(area[1] / scale, Math.min(4, shape[0]), shape[0]));
  const newWide = Math.round(clamp(area[0] / scale, Math.min(4, shape[1]), shape[1]));
  return [
    Math.round(clamp(row + y * (high - newHigh), 0, shape[0] - newHigh)),
    Math.round(clamp(column + x * (wide - newWide), 0, shape[1] - newWide)), newHigh, newWide];
}

/** Return {a, b, both, size: counts of weights in blocks, down, across} of a window of masks. */
export function pool(mask, other, columns, [row, column, high, wide], [across, down]) {
  const nx = Math.min(wide, across), ny = Math.min(high, down), n = nx * ny;
  const [a, b, both, size] = [0, 0, 0, 0].map(() => new Uint32Array(n));
  const places = Uint32Array.from({ length: wide }, (_, j) => Math.floor((j * nx) / wide));
  for (let i = 0; i < high; i++) {
    const first = Math.floor((i * ny) / high) * nx, from = (row + i) * columns + column;
    for (let j = 0; j < wide; j++) {
      const to = first + places[j], m = mask[from + j], o = other ? other[from + j] : 0;
      size[to]++;
      a[to] += m;
      b[to] += o;
      both[to] += m & o;
    }
  }
  return { a, b, both, size, across: nx, down: ny };
}

const rgb = (colour) => [1, 3, 5].map((i) => parseInt(colour.slice(i, i + 2), 16));

/** Return [r, g, b] at t in [0, 1] between colours at equal distances. */
export function blend(colours, t) {
  const place = clamp(t || 0, 0, 1) * (colours.length - 1), i = Math.min(Math.floor(place), colours.length - 2);
  const [low, high] = [rgb(colours[i]), rgb(colours[i + 1])];
  return low.map((value, k) => Math.round(value + (place - i) * (high[k] - value)));
}

function node(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

/** Return whether the page behind an element is dark. */
function isDark(element) {
  for (let at = element; at; at = at.parentElement) {
    const parts = getComputedStyle(at).backgroundColor.match(/[\d.]+/g) || [];
    if (parts.length && (parts.length < 4 || +parts[3] > 0.5))
      return 0.3 * parts[0] + 0.6 * parts[1] + 0.1 * parts[2] < 128;
  }
  return matchMedia("(prefers-color-scheme: dark)").matches;
}

/** The explorer in an element. ask: message -> Promise of {content, buffers}; null: no kernel. */
class Explorer {
  constructor(element, state, ask) {
    Object.assign(this, { state, ask, mode: "kept", head: null, values: null, message: "" });
    this.loaded = new Map(); // {"run,step,matrix": mask, scores, edges}
    this.matrix = Math.max(0, state.matrices.length - state.kinds.length);
    this.place = state.runs[0].steps.length - 1;
    this.other = state.runs.length > 1 ? [1, state.runs[1].steps.length - 1] : null; // run, place
    this.build(element);
    this.window = [0, 0, ...this.shape]; // row, column, height, width
    this.offer();
    this.show();
  }

  build(element) {
    const label = (text, input) => node("label", {}, `${text} `, input);
    const button = (textContent, title, onclick) => node("button", { type: "button", textContent, title, onclick });
    const menu = (choose, ...options) => node("select", { onchange: ({ target }) => {
      choose(target.value);
      this.show();
    } }, ...options);
    this.canvases = {};
    const view = (name) => {
      const [wide, high] = SIZES[name], ratio = globalThis.devicePixelRatio || 1;
      const canvas = node("canvas", { tabIndex: 0, width: wide * ratio, height: high * ratio,
        style: `width: ${wide}px; aspect-ratio: ${wide} / ${high}`, caption: node("figcaption"),
        onpointermove: (event) => this.hover(name, event), onpointerleave: () => { this.tip.hidden = true; } });
      canvas.setAttribute("role", "img");
      this.canvases[name] = canvas;
      return node("figure", {}, canvas.caption, canvas);
    };
    this.slider = node("input", { type: "range", min: 0, oninput: () => this.move(this.slider.value - this.place) });
    this.compare = menu((value) => { this.other = value ? value.split(" ").map(Number) : null; });
    this.colour = menu((value) => { this.mode = value; },
      ...Object.entries(MODES).map(([value, text]) => node("option", { value, textContent: text })));
    this.player = button("▶", "Play the steps", () => this.play());
    [this.stepWords, this.title] = [node("span"), node("b")];
    this.words = node("output");
    this.tip = node("div", { className: "tip", hidden: true });
    this.root = node("div", { className: "smp", onkeydown: (event) => this.key(event) },
      node("style", { textContent: CSS }),
      node("div", { className: "bar" }, this.title, label("Colour", this.colour), label("Compare with", this.compare),
        button("Save picture", "Save what is shown as a PNG file", () => this.save())),
      node("div", { className: "bar" }, view("Overview"), view("Matrix")),
      node("div", { className: "bar" }, this.player, label("Step", this.slider), this.stepWords,
        button("−", "Zoom out", () => this.zoom(1 / 2)), button("+", "Zoom in", () => this.zoom(2)),
        button("Whole matrix", "Show the whole matrix", () => this.zoom(0))),
      node("div", { className: "bar" }, view("Time"), view("Scores")), this.words,
      node("small", { textContent: KEYS }), this.tip);
    this.root.setAttribute("role", "group");
    this.root.setAttribute("aria-label", "Mask explorer");
    this.root.dataset.lmSuppressShortcuts = "true"; // of JupyterLab
    const { Overview, Matrix, Time } = this.canvases;
    Overview.onclick = (event) => this.choose(this.cellAt(event));
    Time.onclick = (event) => this.move(this.placeAt(event) - this.place);
    Matrix.onwheel = (event) => {
      event.preventDefault();
      this.zoom(event.deltaY < 0 ? 1.5 : 1 / 1.5, ...this.fraction(event));
    };
    element.append(this.root);
    const dark = isDark(element);
    this.colours = dark ? DARK : LIGHT;
    for (const [name, value] of Object.entries(this.colours)) this.root.style.setProperty(`--${name}`, value);
    this.root.style.colorScheme = dark ? "dark" : "light";
  }

  /** Fill the slider and the list of steps to compare with. */
  offer() {
    this.slider.max = this.state.runs[0].steps.length - 1;
    this.compare.replaceChildren(node("option", { value: "", textContent: "nothing" }),
      ...this.state.runs.map(({ label, steps }, run) => node("optgroup", { label: run ? `B: ${label}` : "this run" },
        ...steps.map((step, place) => node("option", { value: `${run} ${place}`,
          textContent: `step ${count(step)}${run ? " of the other run" : ""}` })))));
  }

  /** Take a new state of the same run, to which training has added steps; stay at the last. */
  update(state) {
    const steps = state.runs[0].steps.length - 1;
    this.place = this.place === +this.slider.max ? steps : Math.min(this.place, steps);
    if (this.other?.[0] === 0 && this.other[1] > steps) this.other = null;
    this.state = state;
    this.loaded.clear();
    this.offer();
    this.show();
  }

  // Moves

  choose(cell) {
    if (!cell) return;
    if (cell.matrix !== this.matrix) [this.window, this.values] = [null, null];
    Object.assign(this, cell);
    this.window ||= [0, 0, ...this.shape];
    this.show();
  }

  move(by) {
    this.place = clamp(this.place + by, 0, +this.slider.max);
    this.show();
  }

  get shape() {
    const { rows, columns } = this.state.matrices[this.matrix];
    return [rows, columns];
  }

  /** Zoom at the fractions (x, y) of the window; factor 0 shows the whole matrix. */
  zoom(factor, x, y) {
    this.window = factor ? zoomed(this.window, this.shape, this.area, factor, x, y) : [0, 0, ...this.shape];
    this.show();
  }

  pan(down, across) {
    const [row, column, high, wide] = this.window, [rows, columns] = this.shape;
    this.window = [clamp(row + Math.round((down * high) / 4), 0, rows - high),
      clamp(column + Math.round((across * wide) / 4), 0, columns - wide), high, wide];
    this.show();
  }

  play() {
    const stop = () => { clearInterval(this.timer); this.timer = null; this.player.textContent = "▶"; };
    if (this.timer) return stop();
    const last = +this.slider.max;
    if (this.place === last) this.place = -1;
    this.player.textContent = "⏸";
    this.timer = setInterval(() => {
      this.place += 1;
      this.show();
      if (this.place >= last || !this.root.isConnected) stop();
    }, FRAME);
  }

  key(event) {
    const { target, key } = event, { Matrix, Time } = this.canvases;
    if (event.ctrlKey || event.metaKey || event.altKey || target.tagName === "SELECT") return;
    const arrow = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[key];
    const step = { ",": -1, ".": 1 }[key], factor = { "+": 2, "=": 2, "-": 0.5, "−": 0.5, 0: 0 }[key];
    if ((arrow && target === this.slider) || (key === " " && target.tagName === "BUTTON")) return;
    if (arrow && target === Matrix) this.pan(...arrow);
    else if (arrow && target === Time) this.move(arrow[1] - arrow[0]);
    else if (arrow) this.choose(this.neighbour(...arrow));
    else if (step) this.move(step);
    else if (factor !== undefined) this.zoom(factor);
    else if (key === " ") this.play();
    else return;
    event.preventDefault();
    event.stopPropagation();
  }

  neighbour(down, across) {
    const { matrices, layers, kinds } = this.state, own = matrices[this.matrix];
    const layer = layers[layers.indexOf(own.layer) + down], kind = kinds[kinds.indexOf(own.kind) + across];
    const matrix = matrices.findIndex((each) => each.layer === layer && each.kind === kind);
    return matrix < 0 ? null : { matrix, head: null };
  }

  /** Return {mask, scores, edges} of the matrix at a step if it is here; else ask for it. */
  fetch(at) {
    const { matrix, loaded } = this, [rows, columns] = this.shape, key = `${at.runNumber},${at.step},${matrix}`;
    if (loaded.has(key) || !this.ask || Date.now() < this.silent) return loaded.get(key);
    loaded.set(key, null); // asked
    this.ask({ kind: "matrix", run: at.runNumber, step: at.step, matrix }).then(([bits, scores, edges]) => {
      const mask = unpackBits(bits, rows * columns);
      const [perRow, perColumn] = [new Uint32Array(rows), new Uint32Array(columns)];
      for (let row = 0, i = 0; row < rows; row++)
        for (let column = 0; column < columns; column++, i++)
          if (mask[i]) [perRow[row], perColumn[column]] = [perRow[row] + 1, perColumn[column] + 1];
      if (loaded.size > 8) loaded.delete(loaded.keys().next().value);
      loaded.set(key, { mask, perRow, perColumn, scores: new Uint32Array(scores.buffer),
        edges: new Float32Array(edges.buffer) });
      this.message = "";
    }).catch((error) => {
      loaded.delete(key);
      [this.message, this.silent] = [error.message, Date.now() + PATIENCE]; // do not ask again at once
    }).finally(() => this.root.isConnected && this.show());
    return null;
  }

  /** Ask for the weights and scores of a small window. */
  fetchValues() {
    const key = [this.matrix, ...this.window].join(), [, , high, wide] = this.window;
    if (!this.ask || !this.state.values || Math.max(high, wide) > MOST_VALUES || this.values?.key === key) return;
    const values = { key };
    this.values = values;
    this.ask({ kind: "values", matrix: this.matrix, window: this.window }).then((buffers) => {
      [values.weights, values.scores] = buffers.map((each) => new Float32Array(each.buffer));
    }).catch((error) => { this.message = error.message; });
  }

  show() {
    const { state } = this;
    this.at = stepOf(state, 0, this.place);
    this.b = this.other && stepOf(state, ...this.other);
    this.found = this.fetch(this.at);
    this.foundB = this.b && this.fetch(this.b);
    this.fetchValues();
    this.slider.value = this.place;
    this.slider.setAttribute("aria-valuetext", `step ${this.at.step}`);
    this.compare.value = this.other ? this.other.join(" ") : "";
    this.title.textContent = state.runs[0].label;
    this.stepWords.textContent = `${count(this.at.step)} · ${percent(this.at.density)} kept`;
    for (const [name, [wide, high]] of Object.entries(SIZES)) {
      const canvas = this.canvases[name], ctx = canvas.getContext("2d");
      ctx.setTransform(canvas.width / wide, 0, 0, canvas.height / high, 0, 0);
      Object.assign(ctx, { fillStyle: this.colours.paper, font: "11px system-ui, sans-serif" });
      ctx.fillRect(0, 0, wide, high);
      canvas.caption.textContent = this[`draw${name}`](ctx, wide, high);
      canvas.setAttribute("aria-label", canvas.caption.textContent);
    }
    this.words.textContent = this.caption();
  }

  text(ctx, words, x, y, align = "left", most = 200) {
    Object.assign(ctx, { fillStyle: this.colours.ink, textAlign: align, textBaseline: "middle" });
    ctx.fillText(words, x, y, most);
  }

  /** Return the kept share of a matrix or head at a step. */
  share(at, matrix, head) {
    if (head === null) return at.kept[matrix] / at.sizes[matrix];
    const heads = headsOf(this.state, at, matrix);
    return (heads[head] * heads.length) / at.sizes[matrix];
  }

  /** Return the colour of a matrix or head of the overview. */
  tone(matrix, head) {
    const { at, b, mode, colours } = this, kept = at.kept[matrix] || 1;
    const exchanged = at.before === null ? 0 : 1 - at.again[matrix] / kept;
    if (mode === "turnover") return blend(colours.share, Math.sqrt(exchanged));
    if (mode === "magnitude") return blend(colours.share, at.largest[matrix] / kept);
    const relative = (one) => Math.max(this.share(one, matrix, head) / (one.density || 1), 1e-9);
    return blend(colours.ratio, 0.5 + Math.log2(relative(b || at) / (b ? relative(at) : 1)) / 4);
  }

  get cells() { // of the overview: [x, y, width, height] of each matrix
    const { matrices, layers, kinds } = this.state, wide = (SIZES.Overview[0] - 52) / kinds.length;
    const high = Math.min(34, (SIZES.Overview[1] - 44) / layers.length);
    return matrices.map(({ layer, kind }) =>
      [52 + kinds.indexOf(kind) * wide, 18 + layers.indexOf(layer) * high, wide - 4, high - 3]);
  }

  drawOverview(ctx, wide, high) {
    const { state, cells, colours } = this, [left, , broad, tall] = cells[0], ratio = this.mode === "kept";
    state.kinds.forEach((kind, i) =>
      this.text(ctx, kind.replace("attention", "att."), left + i * (broad + 4) + broad / 2, 9, "center", broad));
    const gap = Math.ceil(12 / tall); // between layers that are named
    state.layers.forEach((layer, i) => i % gap || this.text(ctx, `layer ${layer}`, 2, 18 + i * (tall + 3) + tall / 2));
    state.matrices.forEach(({ heads }, i) => {
      const [x, y, w, h] = cells[i], parts = (ratio && heads) || 1;
      for (let head = 0; head < parts; head++) {
        ctx.fillStyle = `rgb(${this.tone(i, parts > 1 ? head : null)})`;
        ctx.fillRect(x + (head * w) / parts, y, w / parts - (parts > 1 ? 0.5 : 0), h);
      }
      if (i !== this.matrix) return;
      Object.assign(ctx, { strokeStyle: colours.ink, lineWidth: 2 });
      const [from, size] = this.head === null || parts === 1 ? [x, w] : [x + (this.head * w) / parts, w / parts];
      ctx.strokeRect(from - 1, y - 1, size + 2, h + 2);
    });
    for (let i = 0; i < 120; i++) { // the scale
      ctx.fillStyle = `rgb(${blend(ratio ? colours.ratio : colours.share, i / 119)})`;
      ctx.fillRect(190 + i, high - 14, 1.5, 10);
    }
    this.text(ctx, ratio ? "1/4" : "0%", 186, high - 9, "right");
    const [words, scale] = { kept: ["Kept share of each matrix and head", "share / density"],
      turnover: ["Exchanged since the step before", "exchanged, √"],
      magnitude: ["Kept weights among the largest", "among the largest"] }[this.mode];
    const compared = this.b && ratio;
    this.text(ctx, `${ratio ? 4 : "100%"}   ${compared ? "share of B / share of A" : scale}`, 314, high - 9, "left", 112);
    return compared ? `B (${this.bName}) beside A (step ${count(this.at.step)})` : words;
  }

  get bName() {
    return `step ${count(this.b.step)}${this.b.runNumber ? " of the other run" : ""}`;
  }

  get area() { // of the mask in its canvas: width, height
    return [SIZES.Matrix[0] - LEFT - 28, SIZES.Matrix[1] - TOP - 18];
  }

  /** Blocks of the window, at most one a pixel; without masks the coarse ones of the last step. */
  get blocks() {
    const { found, foundB, state, b } = this, [rows, columns] = this.shape, [row, column, high, wide] = this.window;
    if (found && (!b || foundB)) return pool(found.mask, b && foundB.mask, columns, this.window, this.area);
    if (this.place !== state.runs[0].steps.length - 1) return null;
    const grid = state.runs[0].grid.subarray(this.matrix * GRID * GRID, (this.matrix + 1) * GRID * GRID);
    const top = Math.floor((row * GRID) / rows), down = Math.ceil(((row + high) * GRID) / rows) - top;
    const left = Math.floor((column * GRID) / columns), across = Math.ceil(((column + wide) * GRID) / columns) - left;
    const a = Array.from({ length: down * across }, (_, i) =>
      (grid[(top + Math.floor(i / across)) * GRID + left + (i % across)] / 255) ** 2);
    return { a, size: a.map(() => 1), across, down, coarse: true };
  }

  /** Draw the window of the matrix: each pixel or cell is a block of weights. */
  drawMask(ctx, { a, b, both, size, across, down, coarse }) {
    const { colours } = this, [wide, high] = this.area, image = new ImageData(across, down);
    const two = this.b && !coarse;
    const [none, ink, blue, own] =
      [colours.none, colours.ink, colours.blue, two ? colours.orange : colours.violet].map(rgb);
    for (let i = 0; i < a.length; i++) {
      const shared = two ? both[i] : 0, onlyA = a[i] - shared, onlyB = two ? b[i] - shared : 0;
      const some = shared + onlyA + onlyB, strength = Math.sqrt(some / size[i]); // 3% differs from 0
      for (let k = 0; k < 3; k++)
        image.data[4 * i + k] = none[k] + (some &&
          strength * ((shared * ink[k] + onlyA * own[k] + onlyB * blue[k]) / some - none[k]));
      image.data[4 * i + 3] = 255;
    }
    const small = node("canvas", { width: across, height: down });
    small.getContext("2d").putImageData(image, 0, 0);
    ctx.imageSmoothingEnabled = false;
    ctx.drawImage(small, LEFT, TOP, wide, high);
    ctx.fillStyle = colours.paper; // gaps between single weights
    const gaps = !coarse && wide / across > 6 && high / down > 6;
    for (let j = 1; gaps && j < across; j++) ctx.fillRect(LEFT + (j * wide) / across - 0.5, TOP, 1, high);
    for (let i = 1; gaps && i < down; i++) ctx.fillRect(LEFT, TOP + (i * high) / down - 0.5, wide, 1);
  }

  /** Draw the heads' boundaries and names, a mark at each empty row and column, and the numbers. */
  drawEdges(ctx) {
    const { colours, found } = this, [wide, high] = this.area, [row, column, tall, broad] = this.window;
    const { heads, side, rows, columns } = this.state.matrices[this.matrix], inRows = side === "rows";
    const [x, y] = [(c) => LEFT + ((c - column) * wide) / broad, (r) => TOP + ((r - row) * high) / tall];
    const [low, top, at] = inRows ? [row, row + tall, y] : [column, column + broad, x];
    const each = (inRows ? rows : columns) / heads;
    for (let head = 0; head < heads; head++) {
      const [from, to] = [at(Math.max(low, head * each)), at(Math.min(top, (head + 1) * each))];
      ctx.fillStyle = colours.ink;
      if (to > from && head * each > low) ctx.fillRect(...(inRows ? [LEFT, from, wide, 0.7] : [from, TOP, 0.7, high]));
      const middle = (from + to) / 2, place = inRows ? [LEFT + wide + 4, middle] : [middle, TOP + high + 8, "center"];
      if (to - from > 10) this.text(ctx, `h${head}`, ...place);
    }
    ctx.fillStyle = colours.red;
    found?.perRow.forEach((kept, r) =>
      kept || r < row || r >= row + tall || ctx.fillRect(LEFT - 6, y(r), 5, Math.max(1, high / tall)));
    found?.perColumn.forEach((kept, c) =>
      kept || c < column || c >= column + broad || ctx.fillRect(x(c), TOP - 6, Math.max(1, wide / broad), 5));
    this.text(ctx, row, LEFT - 8, TOP + 6, "right");
    this.text(ctx, row + tall - 1, LEFT - 8, TOP + high - 6, "right");
    if (!inRows && broad === columns) return; // the heads' names stand there
    this.text(ctx, `column ${column}`, LEFT, TOP + high + 8);
    this.text(ctx, column + broad - 1, LEFT + wide, TOP + high + 8, "right");
  }

  drawMatrix(ctx) {
    const blocks = this.blocks, [row, column, high, wide] = this.window, [rows, columns] = this.shape;
    if (blocks) {
      this.drawMask(ctx, blocks);
      this.drawEdges(ctx);
    } else {
      const waits = this.ask && !this.message;
      this.text(ctx, waits ? "Loading …" : "This needs a kernel: run the cell again.", LEFT + 10, 60);
    }
    return `${this.name}, ${high === rows && wide === columns ? `${count(rows)} × ${count(columns)}` :
      `rows ${row}–${row + high - 1}, columns ${column}–${column + wide - 1}`}`;
  }

  get name() {
    const name = nameOf(this.state, this.matrix, this.head);
    return name[0].toUpperCase() + name.slice(1);
  }

  /** Draw lines over the steps: kept, removed, largest; and the kept share of what is chosen. */
  drawTime(ctx, wide, high) {
    const { state, colours } = this, { steps } = state.runs[0], last = steps.at(-1) || 1;
    const all = steps.map((_, place) => stepOf(state, 0, place));
    const x = (step) => TIME + ((wide - 170) * step) / last, y = (share) => high - 18 - (high - 30) * share;
    for (const share of [0, 0.5, 1]) {
      ctx.fillStyle = colours.faint;
      ctx.fillRect(TIME, y(share), wide - 170, 1);
      this.text(ctx, percent(share), TIME - 4, y(share), "right");
    }
    [["kept", colours.ink, [], (at) => at.density],
      [this.head === null ? "kept here" : `head ${this.head}`, colours.violet, [6, 3],
        (at) => this.share(at, this.matrix, this.head)],
      ["removed", colours.orange, [2, 2], (at) => at.removed], ["returned", colours.red, [1, 3], (at) => at.returned],
      ["among largest", colours.blue, [8, 3, 2, 3], (at) => at.overlap],
    ].forEach(([words, colour, dashes, value], i) => {
      Object.assign(ctx, { strokeStyle: colour, lineWidth: i ? 1.5 : 2.5 });
      ctx.setLineDash(dashes); // the lines differ without colours too
      ctx.beginPath();
      all.forEach((at) => ctx.lineTo(x(at.step), y(value(at))));
      ctx.moveTo(wide - 122, 20 + 22 * i);
      ctx.lineTo(wide - 100, 20 + 22 * i);
      ctx.stroke();
      this.text(ctx, words, wide - 94, 20 + 22 * i, "left", 92);
    });
    ctx.setLineDash([]);
    for (const at of all) {
      const [colour, broad, tall] = at.place === this.place ? [colours.red, 3, high - 30] : [colours.grey, 1, 5];
      ctx.fillStyle = colour;
      ctx.fillRect(x(at.step) - broad / 2, y(0) - tall, broad, tall);
    }
    this.text(ctx, 0, TIME, high - 6);
    this.text(ctx, `step ${count(last)}`, wide - 130, high - 6, "right");
    return "Over the training";
  }

  /** The scores of the matrix: of this step from the kernel, of the last step from the page. */
  get histogram() {
    const run = this.state.runs[0], i = this.matrix;
    if (this.found) return this.found;
    if (this.place !== run.steps.length - 1) return null;
    const part = (name, size) => run[name].subarray(size * i, size * (i + 1));
    return { scores: part("scores", 2 * BINS), edges: part("edges", 3) };
  }

  drawScores(ctx, wide, high) {
    const { histogram: found, colours } = this;
    if (!found) {
      this.text(ctx, "The scores of this step need a kernel.", TIME, 60);
      return `${this.name}: scores`;
    }
    const { scores, edges: [low, top, cut] } = found, bar = (wide - 60) / BINS, bottom = high - 18;
    const most = Math.max(1, ...Array.from({ length: BINS }, (_, i) => scores[2 * i] + scores[2 * i + 1]));
    for (let i = 0; i < BINS; i++) {
      const [removed, kept] = [scores[2 * i], scores[2 * i + 1]].map((weights) => (weights / most) * (bottom - 16));
      ctx.fillStyle = colours.grey;
      ctx.fillRect(TIME + i * bar, bottom - removed, bar - 0.5, removed);
      ctx.fillStyle = colours.violet;
      ctx.fillRect(TIME + i * bar, bottom - removed - kept, bar - 0.5, kept);
    }
    const at = TIME + ((cut - low) / (top - low)) * (wide - 60), round = (x) => +x.toPrecision(3);
    ctx.fillStyle = colours.red;
    ctx.fillRect(at, 6, 1.5, bottom - 6);
    this.text(ctx, `threshold ${round(cut)}`, clamp(at + 4, TIME, wide - 90), 8);
    this.text(ctx, round(low), TIME, high - 8);
    this.text(ctx, round(top), wide - 20, high - 8, "right");
    this.text(ctx, `up to ${count(most)} weights; violet: kept, grey: removed`, wide / 2 + 10, high - 8, "center", 250);
    return `${this.name}: scores`;
  }

  /** Return the sentences under the pictures. */
  caption() {
    const { at, b, found, foundB, state, message } = this, last = (run) => state.runs[run].steps.length - 1;
    const words = [`Step ${count(at.step)}: the encoder keeps ${count(at.all)} of ${count(total(at.sizes))} weights ` +
      `(${percent(at.density)}). ${matrixText(state, at, this.matrix, this.head).replace(/^l/, "L")}.`];
    if (b) words.push(`A is this step. B is ${this.bName} (${percent(b.density)} kept).`);
    if (b?.runNumber && at.place === last(0) && b.place === last(1))
      words.push(`B keeps ${count(total(state.both))} of A's ${count(at.all)} weights too (by chance ` +
        `${percent(total(Array.from(at.kept, (k, i) => (k * b.kept[i]) / at.sizes[i])) / at.all)}).`);
    if (found && foundB) {
      const { a, b: other, both, size } = pool(found.mask, foundB.mask, this.shape[1], this.window, [1, 1]);
      const black = this.colours === DARK ? "white" : "black";
      words.push(`In the window: kept by both ${count(both[0])} (${black}), only by A ${count(a[0] - both[0])} (orange), ` +
        `only by B ${count(other[0] - both[0])} (blue), by none ${count(size[0] - a[0] - other[0] + both[0])}.`);
    }
    if (message) words.push(message);
    if (!this.ask) words.push("This page has no kernel: it shows the matrix of the last step in blocks.");
    return words.join(" ");
  }

  point(event, name) { // in the canvas's own units
    const scale = SIZES[name][0] / (this.canvases[name].clientWidth || SIZES[name][0]);
    return [event.offsetX * scale, event.offsetY * scale];
  }

  fraction(event) { // of the window
    const [x, y] = this.point(event, "Matrix"), [wide, high] = this.area;
    return [clamp((x - LEFT) / wide, 0, 0.999999), clamp((y - TOP) / high, 0, 0.999999)];
  }

  cellAt(event) {
    const [x, y] = this.point(event, "Overview"), cells = this.cells;
    const matrix = cells.findIndex(([left, top, w, h]) => x >= left && x < left + w + 2 && y >= top && y < top + h + 3);
    if (matrix < 0) return null;
    const { heads } = this.state.matrices[matrix], [left, , wide] = cells[matrix];
    const head = Math.floor(((x - left) / wide) * heads);
    return { matrix, head: heads && this.mode === "kept" ? clamp(head, 0, heads - 1) : null };
  }

  placeAt(event) {
    const { steps } = this.state.runs[0];
    const step = ((this.point(event, "Time")[0] - TIME) / (SIZES.Time[0] - 170)) * (steps.at(-1) || 1);
    return steps.reduce((best, each, i) => (Math.abs(each - step) < Math.abs(steps[best] - step) ? i : best), 0);
  }

  /** Return the hover text of a place of the matrix. */
  weightText(event) {
    const [x, y] = this.fraction(event), [row, column, high, wide] = this.window, { found, foundB, blocks } = this;
    if (!blocks) return "";
    const [j, i] = [Math.floor(x * blocks.across), Math.floor(y * blocks.down)], k = i * blocks.across + j;
    if (blocks.coarse) return `block ${i}, ${j}: about ${percent(blocks.a[k])} kept; single weights need a kernel`;
    const first = (start, size, n, at) => start + Math.ceil((at * size) / n);
    const [top, low] = [i, i + 1].map((at) => first(row, high, blocks.down, at));
    const [left, right] = [j, j + 1].map((at) => first(column, wide, blocks.across, at));
    const { heads, side, rows, columns } = this.state.matrices[this.matrix];
    const head = Math.floor((side === "rows" ? top / rows : left / columns) * heads);
    const where = (text) => `${text}${heads ? `, head ${head}` : ""}`, step = `; step ${count(this.at.step)}`;
    if (blocks.size[k] > 1)
      return `${where(`rows ${top}–${low - 1} × columns ${left}–${right - 1}`)}: ${count(blocks.a[k])} of ` +
        `${count(blocks.size[k])} weights kept${step}`;
    const kept = ({ mask }) => (mask[top * columns + left] ? "kept" : "removed");
    const value = (top - row) * wide + left - column, { weights, scores } = this.values || {};
    return `${where(`row ${top}, column ${left}`)}: ${this.b ? `A ${kept(found)}, B ${kept(foundB)}` : kept(found)}` +
      `${weights ? `; weight ${weights[value].toPrecision(3)}, score now ${scores[value].toPrecision(4)}` : ""}${step}`;
  }

  hoverText(name, event) {
    if (name === "Matrix") return this.weightText(event);
    if (name === "Time") return stepText(stepOf(this.state, 0, this.placeAt(event)));
    if (name === "Scores") {
      const bar = Math.floor(((this.point(event, name)[0] - TIME) * BINS) / (SIZES.Scores[0] - 60));
      return this.histogram && bar >= 0 && bar < BINS ? barText(this.histogram, bar) : "";
    }
    const cell = this.cellAt(event), text = (at) => matrixText(this.state, at, cell.matrix, cell.head);
    return cell ? (this.b ? `A: ${text(this.at)}. B: ${text(this.b)}` : text(this.at)) : "";
  }

  hover(name, event) {
    const words = this.hoverText(name, event), frame = this.root.getBoundingClientRect();
    Object.assign(this.tip, { textContent: words, hidden: !words });
    this.tip.style.left = `${Math.max(0, Math.min(event.clientX - frame.left + 14, frame.width - 310))}px`;
    this.tip.style.top = `${event.clientY - frame.top + 16}px`;
  }

  /** Save the four pictures and the caption as one PNG file. */
  save() {
    const { colours, state } = this, canvas = node("canvas", { width: 1760, height: 1180 });
    const ctx = canvas.getContext("2d");
    ctx.scale(2, 2);
    ctx.fillStyle = colours.paper;
    ctx.fillRect(0, 0, 880, 590);
    ctx.font = "bold 13px system-ui, sans-serif";
    this.text(ctx, state.runs[0].label, 10, 12, "left", 860);
    Object.keys(SIZES).forEach((name, i) => {
      const [x, y] = [i % 2 ? 452 : 10, i < 2 ? 24 : 362];
      this.text(ctx, this.canvases[name].caption.textContent, x, y + 8, "left", 400);
      ctx.drawImage(this.canvases[name], x, y + 18, ...SIZES[name]);
    });
    ctx.font = "12px system-ui, sans-serif";
    const lines = [""];
    for (const word of this.words.textContent.split(/(?<= )/))
      if (ctx.measureText(lines.at(-1) + word).width > 850) lines.push(word);
      else lines[lines.length - 1] += word;
    lines.forEach((line, i) => this.text(ctx, line, 10, 542 + 15 * i, "left", 860));
    canvas.toBlob((file) => {
      const link = node("a", { href: URL.createObjectURL(file), download: `${state.runs[0].file}_${this.at.step}.png` });
      link.click();
      URL.revokeObjectURL(link.href);
    });
  }
}

const bytesOf = (view) => new Uint8Array(view.buffer || view, view.byteOffset || 0, view.byteLength).slice();

/** Return a function that sends a message to the kernel; it returns a Promise of the buffers. */
function kernelOf(model) {
  const waiting = new Map();
  model.on("msg:custom", (content, buffers = []) => { // DataView; in Colab Uint8Array
    waiting.get(content.id)?.(content, buffers.map(bytesOf));
    waiting.delete(content.id);
  });
  return (message) => new Promise((resolve, reject) => {
    const id = String(Math.random());
    waiting.set(id, (content, buffers) => (content.error ? reject(new Error(content.error)) : resolve(buffers)));
    setTimeout(() => waiting.delete(id) && reject(new Error("The kernel does not answer.")), PATIENCE);
    model.send({ ...message, id });
  });
}

/** Show the widget of anywidget, and follow a training that writes the file. */
async function render({ model, el }) {
  const state = () => unpack(bytesOf(model.get("state"))), ask = kernelOf(model);
  const explorer = new Explorer(el, await state(), ask);
  const rule = `[data-smp-explorer="${explorer.state.key}"] { display: none; }`; // the cell's own page
  explorer.root.append(node("style", { textContent: rule }));
  const update = async () => explorer.update(await state());
  model.on("change:state", update);
  let waits = false;
  const timer = setInterval(() => {
    if (waits || document.hidden || !explorer.root.offsetParent) return;
    waits = true;
    ask({ kind: "follow" }).catch((error) => { explorer.message = error.message; }).finally(() => { waits = false; });
  }, FOLLOW);
  return () => {
    [timer, explorer.timer].forEach(clearInterval);
    model.off("change:state", update);
  };
}

/** Replace the picture of an element with the explorer, without a kernel. */
async function showPage(element) {
  element.dataset.smpShown = "";
  const state = await unpack(Uint8Array.from(atob(element.dataset.smpState), (character) => character.charCodeAt(0)));
  element.replaceChildren();
  new Explorer(element, state, null);
}

if (typeof document !== "undefined")
  document.querySelectorAll("[data-smp-state]:not([data-smp-shown])").forEach(showPage);

export default { render };
