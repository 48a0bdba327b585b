// The front end of the mask explorer, for anywidget and for pages without a kernel.
// `pack` in explorer.py writes the state: all numbers of the overview, the timeline and the hover
// texts. A kernel sends what is larger: the mask of a matrix, and weights and scores of a window.

const TYPES = { u1: Uint8Array, u4: Uint32Array, f4: Float32Array };
const BINS = 64, GRID = 32; // bars of scores, coarse blocks
const MOST_VALUES = 64, MOST_ANSWERS = 8; // sides of a window with weights, answers in memory
const PATIENCE = 5000, FOLLOW = 3000, FRAME = 700; // milliseconds
const SIZES = { Overview: [428, 316], Matrix: [392, 316], Time: [428, 150], Scores: [392, 150] };
const LEFT = 34, TOP = 10, AREA = [330, 288]; // of the mask in its canvas; AREA: width, height
const AXIS = 40, BASE = 132, TIME_END = 298; // left end and height of the lower axes, end of the time
const FONT = "11px system-ui, sans-serif";
const MODES = { // words of the menu, title, scale, its ends
  kept: ["kept share", "Kept share of each matrix and head", "share / density", "1/4", "4"],
  turnover: ["exchanged", "Exchanged since the step before", "exchanged, √", "0%", "100%"],
  magnitude: ["largest weights", "Kept weights among the largest", "among the largest", "0%", "100%"],
};
const LINES = [["kept", "ink", []], ["here", "violet", [6, 3]], ["removed", "orange", [2, 2]],
  ["returned", "red", [1, 3]], ["among largest", "blue", [8, 3, 2, 3]]]; // differ without colours too
const KEYS = "Arrows move; + and − zoom; 0 shows the whole matrix; space plays; , and . change the step.";
const ARROWS = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
const ZOOMS = { "+": 2, "=": 2, "-": 0.5, "−": 0.5, 0: 0 }, STEPS = { ",": -1, ".": 1 };
const COLOURS = { // in the light and in the dark theme
  paper: ["#ffffff", "#1e1e1e"], ink: ["#333333", "#dddddd"], faint: ["#dddddd", "#444444"],
  none: ["#f0f0f0", "#2c2c2c"], grey: ["#8c8c8c", "#8c8c8c"], orange: ["#e69f00", "#e69f00"],
  blue: ["#0072b2", "#56b4e9"], red: ["#d55e00", "#ff8c42"], violet: ["#6b3fa0", "#c39bf0"],
  ratio: [["#8f4700", "#e69f00", "#dddddd", "#a87fc7", "#4b1279"],
    ["#ffcf70", "#b87900", "#444444", "#8e63b5", "#dcb8ff"]],
  share: [["#f0f0f0", "#56b4e9", "#0b3c5d"], ["#2c2c2c", "#2b7fb8", "#cfeaff"]],
};
const CSS = `
.smp { font: 13px/1.4 system-ui, sans-serif; max-width: 880px; position: relative; padding: 4px;
  color: var(--ink); background: var(--paper); overflow-wrap: anywhere; }
.smp .bar { display: flex; flex-wrap: wrap; gap: 4px 12px; align-items: center; }
.smp figure, .smp canvas { display: block; margin: 0; max-width: 100%; }
.smp figcaption { font-weight: 600; height: 1.5em; overflow: hidden; white-space: nowrap; }
.smp :focus-visible { outline: 2px solid var(--blue); outline-offset: 1px; }
.smp input { flex: 1; min-width: 120px; accent-color: var(--blue); }
.smp button, .smp select { font: inherit; color: inherit; background: var(--none);
  border: 1px solid var(--grey); border-radius: 4px; padding: 1px 8px; max-width: 15em; }
.smp output { display: block; min-height: 5.6em; }
.smp .tip { position: absolute; pointer-events: none; max-width: 300px; padding: 2px 6px;
  border-radius: 4px; color: var(--paper); background: var(--ink); }
.smp [hidden] { display: none; }
.jp-OutputArea-child:has(.jupyter-widgets):not(:has(canvas)):has(+ * [data-smp-explorer]) {
  display: none; }`;
// The last rule hides JupyterLab's line "model not found" above the page of a reopened notebook.

/** Return what `pack` wrote, the state or an answer. bytes: compressed by zlib. */
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
const round = (value) => +value.toPrecision(3);

/** Return a function from values, of which `low` is at `from` and `high` at `to`, to their places. */
const scale = (low, high, from, to) => (value) => from + ((value - low) / (high - low || 1)) * (to - from);

/** Format a fraction with three digits, like `as_percent`: 0.1 -> 10%. */
export const percent = (share) => `${round(100 * share)}%`;

/** Return the numbers of one run at one step. place: of the step, among the run's steps. */
export function stepOf(state, runNumber, place) {
  const run = state.runs[runNumber], n = state.matrices.length;
  const part = (name, at = place) => run[name].subarray(at * n, (at + 1) * n);
  const [kept, again, largest] = ["kept", "again", "largest"].map((name) => part(name));
  const sizes = state.matrices.map(({ rows, columns }) => rows * columns), all = total(kept);
  const both = total(again), before = place ? total(part("kept", place - 1)) : 0;
  return {
    runNumber, place, run, step: run.steps[place], sizes, kept, all, again, largest,
    emptyRows: part("emptyRows"), emptyColumns: part("emptyColumns"),
    density: all / total(sizes), before: place ? run.steps[place - 1] : null,
    removed: before ? (before - both) / before : 0, returned: place && all ? (all - both) / all : 0,
    exchanged: Array.from(kept, (k, i) => (place && k ? 1 - again[i] / k : 0)), // since the step before
    overlap: total(largest) / (all || 1),
    chance: total(Array.from(kept, (k, i) => (k * k) / sizes[i])) / (all || 1),
  };
}

/** Return the kept weights of a matrix's heads at a step, an empty array without heads. */
export function headsOf(state, at, matrix) {
  const starts = state.matrices.map((each) => each.heads);
  const first = at.place * total(starts) + total(starts.slice(0, matrix));
  return at.run.heads.subarray(first, first + starts[matrix]);
}

/** Return the kept share of a matrix, or of one of its heads, at a step. */
export function shareOf(state, at, matrix, head = null) {
  const heads = headsOf(state, at, matrix), size = at.sizes[matrix];
  return (head === null ? at.kept[matrix] : heads[head] * heads.length) / size;
}

/** Return the name of a matrix, with a head if one is given: "layer 5 · query · head 1". */
export function nameOf(state, matrix, head = null) {
  const { layer, kind } = state.matrices[matrix];
  return `layer ${layer} · ${kind}${head === null ? "" : ` · head ${head}`}`;
}

/** Return the hover text of a matrix or head of the overview. */
export function matrixText(state, at, matrix, head = null) {
  const { rows, columns, heads, side } = state.matrices[matrix], size = rows * columns;
  const kept = at.kept[matrix], among = (part) => percent(part[matrix] / (kept || 1));
  const words = (share) => `weights kept (${percent(share)})`, share = shareOf(state, at, matrix, head);
  const since = at.before === null ? "" : `${among(at.again)} of them kept at step ${count(at.before)}; `;
  const rest = `${since}${among(at.largest)} among the largest (chance ${percent(kept / size)}); ` +
    `step ${count(at.step)}`, name = nameOf(state, matrix, head);
  if (head === null)
    return `${name} · ${count(rows)} × ${count(columns)}: ${count(kept)} of ${count(size)} ` +
      `${words(share)}; empty rows ${at.emptyRows[matrix]}, columns ${at.emptyColumns[matrix]}; ${rest}`;
  const each = (side === "rows" ? rows : columns) / heads, own = headsOf(state, at, matrix)[head];
  return `${name} · ${side} ${head * each}–${(head + 1) * each - 1}: ${count(own)} ` +
    `of ${count(size / heads)} ${words(share)}; matrix ${percent(kept / size)}; ${rest}`;
}

/** Return the hover text of a step of the timeline. */
export function stepText(at) {
  const since = at.before === null ? "" : ` ${percent(at.removed)} of the kept weights removed ` +
    `since step ${count(at.before)}, ${percent(at.returned)} returned;`;
  return `step ${count(at.step)}: ${percent(at.density)} kept;${since} ${percent(at.overlap)} ` +
    `among the largest (chance ${percent(at.chance)})`;
}

/** Return the hover text of a bar of scores. found: {scores, edges} of a matrix. */
export function barText({ scores, edges: [low, high, cut] }, bar) {
  const edge = scale(0, BINS, low, high);
  return `scores ${round(edge(bar))} to ${round(edge(bar + 1))}: ${count(scores[2 * bar + 1])} kept, ` +
    `${count(scores[2 * bar])} removed; lowest kept ${round(cut)}`;
}

/** Return the window after a zoom by `factor`, which keeps the weight at the fractions (x, y). */
export function zoomed(window, shape, area, factor, x = 0.5, y = 0.5) { // factor 0: the whole matrix
  const sizes = window.slice(2), pixels = sizes.map((size, axis) => area[1 - axis] / size); // a weight
  const [tall, broad] = sizes.map((size, axis) => size === shape[axis]); // all rows, all columns
  if (tall && broad && factor < 1) return window;
  const wanted = factor * (tall === broad ? Math.sqrt(pixels[0] * pixels[1]) : pixels[tall ? 1 : 0]);
  const next = shape.map((side, axis) => Math.round(clamp(area[1 - axis] / wanted, Math.min(4, side), side)));
  const from = next.map((size, axis) => window[axis] + [y, x][axis] * (sizes[axis] - size));
  return [...from.map((low, axis) => Math.round(clamp(low, 0, shape[axis] - next[axis]))), ...next];
}

// The first of each of n parts of a side, and its end.
const starts = (first, size, n) =>
  Array.from({ length: n + 1 }, (_, i) => first + Math.floor((i * size) / n));

/** Return blocks of a window of masks: {a, b, both, size: counts of weights; ys, xs: their starts}. */
export function pool(mask, other, columns, [row, column, high, wide], [across, down]) {
  const ys = starts(row, high, Math.min(high, down)), xs = starts(column, wide, Math.min(wide, across));
  const n = (ys.length - 1) * (xs.length - 1);
  const [a, b, both, size] = [0, 0, 0, 0].map(() => new Float64Array(n));
  for (let i = 0, k = 0; i < ys.length - 1; i++)
    for (let j = 0; j < xs.length - 1; j++, k++) {
      size[k] = (ys[i + 1] - ys[i]) * (xs[j + 1] - xs[j]);
      for (let r = ys[i]; r < ys[i + 1]; r++)
        for (let w = r * columns + xs[j]; w < r * columns + xs[j + 1]; w++) {
          a[k] += mask[w];
          if (other) [b[k], both[k]] = [b[k] + other[w], both[k] + (mask[w] & other[w])];
        }
    }
  return { a, b, both, size, ys, xs };
}

/** Return for each weight the kept share of its coarse block. grid: the shares in the state. */
export function coarseMask(grid, rows, columns) {
  const [down, across] = [rows, columns].map((side) => // the last block that begins there
    Array.from({ length: side }, (_, i) => Math.ceil(((i + 1) * GRID) / side) - 1));
  const shares = Array.from(grid, (byte) => (byte / 255) ** 2), mask = new Float32Array(rows * columns);
  for (let row = 0, i = 0; row < rows; row++)
    for (let column = 0; column < columns; column++, i++) mask[i] = shares[down[row] * GRID + across[column]];
  return mask;
}

/** Return [number, first row, last row, first column, last column] of the block at a weight. */
export function blockAt({ ys, xs }, row, column) {
  const [i, j] = [[ys, row], [xs, column]].map(([from, at]) => from.findLastIndex((each) => each <= at));
  return [i * (xs.length - 1) + j, ys[i], ys[i + 1] - 1, xs[j], xs[j + 1] - 1];
}

const rgb = (colour) => [1, 3, 5].map((i) => parseInt(colour.slice(i, i + 2), 16));

/** Return [r, g, b] at t in [0, 1] between colours at equal distances. */
export function blend(colours, t) {
  const place = clamp(t || 0, 0, 1) * (colours.length - 1);
  const i = Math.min(Math.floor(place), colours.length - 2);
  const [low, high] = [rgb(colours[i]), rgb(colours[i + 1])];
  return low.map((value, k) => Math.round(value + (place - i) * (high[k] - value)));
}

function node(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  if (["canvas", "button", "input", "select"].includes(tag))
    made.dataset.lmSuppressShortcuts = "true"; // where the focus is; else Notebook 7 moves to a cell
  made.append(...children);
  return made;
}

const whole = ({ rows, columns }) => [0, 0, rows, columns]; // an area: row, column, height, width
const option = (value, textContent) => node("option", { value, textContent });
const button = (textContent, title, onclick) =>
  node("button", { type: "button", textContent, title, onclick });
const label = (text, input) => node("label", {}, `${text} `, input);
const bar = (...children) => node("div", { className: "bar" }, ...children);

/** Return whether the page behind an element is dark. */
function isDark(element) {
  for (let at = element; at; at = at.parentElement) {
    const parts = getComputedStyle(at).backgroundColor.match(/[\d.]+/g) || [];
    if (parts.length && (parts.length < 4 || +parts[3] > 0.5))
      return 0.3 * parts[0] + 0.6 * parts[1] + 0.1 * parts[2] < 128;
  }
  return matchMedia("(prefers-color-scheme: dark)").matches;
}

/** Build the explorer in an element. ask: message -> Promise of buffers; null: no kernel. */
function build(element, first, ask) {
  const theme = Number(isDark(element));
  const colours = Object.fromEntries(Object.entries(COLOURS).map(([name, both]) => [name, both[theme]]));
  const start = Math.max(0, first.matrices.length - first.kinds.length); // the first of the last layer
  const chosen = { matrix: start, head: null, mode: "kept", place: 0, area: whole(first.matrices[start]),
    other: first.runs.length > 1 ? [1, first.runs[1].steps.length - 1] : null }; // other: run, place
  const cellWide = (SIZES.Overview[0] - 52) / first.kinds.length;
  const cellHigh = Math.min(34, (SIZES.Overview[1] - 44) / first.layers.length);
  let state, last = 0, all, loaded, problems, silent; // see `update`
  let matrix, head, mode, place, area, other; // `chosen`
  let at, b, own, shape, found, values, blocks; // what is shown; see `show`
  let ctx, timer, hovered, follows;

  /** Take a state: the first, or one to which training has added steps; stay at the last step. */
  function update(next) {
    const end = next.runs[0].steps.length - 1;
    chosen.place = chosen.place === last ? end : Math.min(chosen.place, end);
    [state, last, loaded, problems, silent] = [next, end, new Map(), {}, 0];
    all = state.runs.map((run, i) => run.steps.map((_, step) => stepOf(state, i, step)));
    if (other && !all[other[0]][other[1]]) chosen.other = null;
    slider.max = last;
    compare.replaceChildren(option("", "nothing"), ...state.runs.map((run, i) =>
      node("optgroup", { label: i ? `B: ${run.label}` : "this run" },
        ...all[i].map((one) => option(`${i} ${one.place}`, nameOfStep(one))))));
    show();
  }

  const nameOfStep = ({ step, runNumber }) => `step ${count(step)}${runNumber ? " of the other run" : ""}`;
  const ownName = () => nameOf(state, matrix, head).replace("layer", "Layer");

  function choose(changes) {
    Object.assign(chosen, changes);
    show();
  }

  const chooseCell = (cell) =>
    choose(cell.matrix === matrix ? cell : { ...cell, area: whole(state.matrices[cell.matrix]) });
  const move = (to) => choose({ place: clamp(to, 0, last) });
  const zoom = (...how) => choose({ area: zoomed(area, shape, AREA, ...how) });

  function wheel(event) {
    const how = [event.deltaY < 0 ? 1.5 : 1 / 1.5, ...fraction(...point(event))];
    if (!event.deltaY || zoomed(area, shape, AREA, ...how) === area) return; // the page scrolls
    event.preventDefault();
    zoom(...how);
  }

  function pan(...by) {
    const [row, column] = by.map((part, axis) => clamp(
      area[axis] + Math.round((part * area[axis + 2]) / 4), 0, shape[axis] - area[axis + 2]));
    choose({ area: [row, column, area[2], area[3]] });
  }

  function play(on = !timer) {
    clearInterval(timer);
    const next = () => (place < last && root.isConnected ? move(place + 1) : play(false));
    timer = on && setInterval(next, FRAME);
    player.textContent = on ? "⏸" : "▶";
    if (on && place === last) move(0);
  }

  function chooseNeighbour(down, across) {
    const { matrices, layers, kinds } = state;
    const layer = layers[layers.indexOf(own.layer) + down], kind = kinds[kinds.indexOf(own.kind) + across];
    const to = matrices.findIndex((each) => each.layer === layer && each.kind === kind);
    if (to >= 0) chooseCell({ matrix: to, head: null });
  }

  function onkeydown(event) {
    const { target, key } = event, arrow = ARROWS[key];
    if (event.ctrlKey || event.metaKey || event.altKey || target.tagName === "SELECT") return;
    if ((arrow && target === slider) || (key === " " && target.tagName === "BUTTON")) return;
    if (arrow && target === canvases.Matrix) pan(...arrow);
    else if (arrow && target === canvases.Time) move(place + arrow[1] - arrow[0]);
    else if (arrow) chooseNeighbour(...arrow);
    else if (key in STEPS) move(place + STEPS[key]);
    else if (key in ZOOMS) zoom(ZOOMS[key]);
    else if (key === " ") play();
    else return;
    event.preventDefault();
    event.stopPropagation();
  }

  // Answers of the kernel

  /** Return the answer to a message if it is here; else ask, and show all again with the answer. */
  function load(message) {
    const from = loaded, key = JSON.stringify(message), answer = from.get(key);
    if (answer === undefined && (!ask || Date.now() < silent)) return null;
    from.delete(key);
    from.set(key, answer || null); // as the youngest; null: asked
    if (answer !== undefined) return answer;
    const end = (error = null) => {
      if (error) from.delete(key);
      if (from !== loaded) return; // a new state came
      [problems[message.kind], silent] = [error?.message, error ? Date.now() + PATIENCE : 0];
      show();
    };
    ask(message).then(([bytes]) => unpack(bytes)).then(({ runs: [found] }) => {
      from.set(key, found);
      end();
    }, end);
    return null;
  }

  const loadMask = ({ runNumber: run, step }) => load({ kind: "matrix", run, step, matrix });
  const loadValues = () => state.values && Math.max(area[2], area[3]) <= MOST_VALUES &&
    load({ kind: "values", matrix, window: area });

  /** Ask whether the file has new steps; the kernel then sends a new state. */
  async function follow() {
    if (follows || document.hidden || !root.offsetParent) return;
    follows = true;
    const problem = await ask({ kind: "follow" }).then(() => undefined, (error) => error.message);
    follows = false;
    if (problem === problems.follow) return;
    [problems.follow, silent] = [problem, problem ? silent : 0];
    show();
  }

  function show() {
    ({ matrix, head, mode, place, area, other } = chosen);
    [at, b, own] = [all[0][place], other && all[other[0]][other[1]], state.matrices[matrix]];
    shape = [own.rows, own.columns];
    const foundB = b && loadMask(b);
    [found, values] = [loadMask(at) || ofPage(), loadValues()];
    for (const key of [...loaded.keys()].slice(0, -MOST_ANSWERS)) loaded.delete(key);
    blocks = found && (found.coarse || !b || foundB) &&
      pool(found.mask, foundB?.mask, own.columns, area, AREA);
    slider.value = place;
    slider.ariaValueText = nameOfStep(at);
    compare.value = other ? other.join(" ") : "";
    title.textContent = at.run.label;
    stepWords.textContent = `${count(at.step)} · ${percent(at.density)} kept`;
    for (const [name, [wide, high]] of Object.entries(SIZES)) {
      const canvas = canvases[name];
      ctx = canvas.getContext("2d");
      ctx.setTransform(canvas.width / wide, 0, 0, canvas.height / high, 0, 0);
      rect(colours.paper, 0, 0, wide, high);
      ctx.font = FONT;
      canvas.caption.textContent = canvas.ariaLabel = pictures[name](wide, high);
    }
    words.textContent = sentences().join(" ");
    showTip();
  }

  function ofPage() { // what the page has of the matrix at the last step
    const [scores, edges, grid] = ["scores", "edges", "grid"].map((name) => {
      const numbers = at.run[name], size = numbers.length / state.matrices.length;
      return numbers.subarray(size * matrix, size * (matrix + 1));
    });
    return place === last && { scores, edges, mask: coarseMask(grid, ...shape), coarse: true };
  }

  function rect(colour, x, y, wide, high) {
    ctx.fillStyle = colour;
    ctx.fillRect(x, y, wide, high);
  }

  function write(text, x, y, textAlign = "left", most = 200) {
    Object.assign(ctx, { fillStyle: colours.ink, textAlign, textBaseline: "middle" });
    ctx.fillText(text, x, y, most);
  }

  /** Return the colour of a matrix or head of the overview. */
  function tone(of, part) {
    if (mode === "turnover") return blend(colours.share, Math.sqrt(at.exchanged[of]));
    if (mode === "magnitude") return blend(colours.share, at.largest[of] / (at.kept[of] || 1));
    const relative = (one) => Math.max(shareOf(state, one, of, part) / (one.density || 1), 1e-9);
    return blend(colours.ratio, 0.5 + Math.log2(relative(b || at) / (b ? relative(at) : 1)) / 4);
  }

  const cellOf = ({ layer, kind, heads }) => // [x, y, width, height, heads shown] in the overview
    [52 + state.kinds.indexOf(kind) * cellWide, 18 + state.layers.indexOf(layer) * cellHigh,
      0.94 * cellWide, 0.9 * cellHigh, mode === "kept" ? heads : 0];

  /** Draw the area of the matrix: each pixel or cell is a block of weights. */
  function drawMask([wide, high]) {
    const { a, b: onB, both, size, ys, xs } = blocks, two = b && !found.coarse;
    const across = xs.length - 1, down = ys.length - 1, image = new ImageData(across, down);
    const [none, ink, blue, one] =
      [colours.none, colours.ink, colours.blue, two ? colours.orange : colours.violet].map(rgb);
    for (let i = 0; i < a.length; i++) {
      const shared = both[i], onlyA = a[i] - shared, onlyB = onB[i] - shared;
      const some = shared + onlyA + onlyB, strength = Math.sqrt(some / size[i]); // 3% differs from 0
      for (let k = 0; k < 3; k++)
        image.data[4 * i + k] = none[k] + (some &&
          strength * ((shared * ink[k] + onlyA * one[k] + onlyB * blue[k]) / some - none[k]));
      image.data[4 * i + 3] = 255;
    }
    const small = node("canvas", { width: across, height: down });
    small.getContext("2d").putImageData(image, 0, 0);
    ctx.imageSmoothingEnabled = false;
    ctx.drawImage(small, LEFT, TOP, wide, high);
  }

  /** Draw the heads' boundaries and names, a mark at each empty row and column, and the numbers. */
  function drawEdges([wide, high]) {
    const { heads } = own, headAxis = own.side === "rows" ? 0 : 1, under = TOP + high + 8;
    for (const axis of [0, 1]) { // rows, columns
      const low = area[axis], size = area[axis + 2], [depth, length] = axis ? [high, wide] : [wide, high];
      const to = scale(low, low + size, 0, length), each = shape[axis] / heads;
      const box = (colour, from, long, side, broad) => rect(colour,
        ...(axis ? [LEFT + from, TOP + side, long, broad] : [LEFT + side, TOP + from, broad, long]));
      const gaps = !found.coarse && length / size > 6; // between single weights
      for (let i = low + 1; gaps && i < low + size; i++) box(colours.paper, to(i) - 0.5, 1, 0, depth);
      const sums = axis ? found.columns : found.rows; // not of the page
      for (let i = low; sums && i < low + size; i++)
        if (!sums[i]) box(colours.red, to(i), Math.max(1, length / size), -6, 5);
      for (let i = 0; axis === headAxis && i < heads; i++) {
        const from = Math.max(0, to(i * each)), long = Math.min(length, to((i + 1) * each)) - from;
        if (from > 0 && long > 0) box(colours.ink, from, 0.7, 0, depth);
        const y = TOP + from + long / 2;
        if (long > 10) write(`h${i}`, ...(axis ? [y - TOP + LEFT, under, "center"] : [LEFT + wide + 4, y]));
      }
    }
    write(area[0], LEFT - 8, TOP + 6, "right");
    write(area[0] + area[2] - 1, LEFT - 8, TOP + high - 6, "right");
    if (headAxis && area[3] === own.columns && heads) return; // the heads' names stand there
    write(`column ${area[1]}`, LEFT, under);
    write(area[1] + area[3] - 1, LEFT + wide, under, "right");
  }

  const pictures = { // each function draws one and returns its title
    Overview(wide, high) {
      const ratio = mode === "kept", compared = b && ratio, named = Math.ceil(13 / cellHigh);
      state.kinds.forEach((kind, i) => write(
        kind.replace("attention", "att."), 52 + (i + 0.47) * cellWide, 9, "center", 0.94 * cellWide));
      state.layers.forEach((layer, i) =>
        i % named || write(`layer ${layer}`, 2, 18 + (i + 0.45) * cellHigh));
      state.matrices.forEach((one, i) => {
        const [x, y, w, h, heads] = cellOf(one), part = w / (heads || 1);
        for (let k = 0; k < (heads || 1); k++)
          rect(`rgb(${tone(i, heads ? k : null)})`, x + k * part, y, heads ? 0.9 * part : w, h);
        if (i !== matrix) return;
        const [from, size] = head === null || !heads ? [x, w] : [x + head * part, part];
        Object.assign(ctx, { strokeStyle: colours.ink, lineWidth: 2 });
        ctx.strokeRect(from - 1, y - 1, size + 2, h + 2);
      });
      for (let i = 0; i < 120; i++)
        rect(`rgb(${blend(ratio ? colours.ratio : colours.share, i / 119)})`, 190 + i, high - 14, 1.5, 10);
      const [, text, unit, low, most] = MODES[mode];
      write(low, 186, high - 9, "right");
      write(`${most}   ${compared ? "share of B / share of A" : unit}`, 314, high - 9, "left", 112);
      return compared ? `B (${nameOfStep(b)}) beside A (${nameOfStep(at)})` : text;
    },
    Matrix() {
      const [row, column, high, wide] = area, waits = ask && !problems.matrix;
      if (blocks) {
        drawMask(AREA);
        drawEdges(AREA);
      } else write(waits ? "Loading …" : "This needs a kernel: run the cell again.", LEFT + 10, 60);
      return `${ownName()}, ${high * wide === at.sizes[matrix] ? shape.map(count).join(" × ") :
        `rows ${row}–${row + high - 1}, columns ${column}–${column + wide - 1}`}`;
    },
    Time(wide, high) {
      const [left, right] = [AXIS, TIME_END], y = scale(0, 1, BASE, 12), x = timeAt();
      for (const share of [0, 0.5, 1]) {
        rect(colours.faint, left, y(share), right - left, 1);
        write(percent(share), left - 4, y(share), "right");
      }
      const values = (one) =>
        [one.density, shareOf(state, one, matrix, head), one.removed, one.returned, one.overlap];
      LINES.forEach(([name, colour, dashes], i) => {
        Object.assign(ctx, { strokeStyle: colours[colour], lineWidth: i ? 1.5 : 2.5 });
        ctx.setLineDash(dashes);
        ctx.beginPath();
        all[0].forEach((one) => ctx.lineTo(x(one.step), y(values(one)[i])));
        ctx.moveTo(right + 8, 20 + 22 * i);
        ctx.lineTo(right + 30, 20 + 22 * i);
        ctx.stroke();
        const text = name !== "here" ? name : head === null ? "kept here" : `head ${head}`;
        write(text, right + 36, 20 + 22 * i, "left", 92);
      });
      ctx.setLineDash([]);
      all[0].forEach(({ step }) => rect(colours.grey, x(step) - 0.5, BASE - 5, 1, 5));
      rect(colours.red, x(at.step) - 1.5, 12, 3, BASE - 12);
      write(0, left, high - 6);
      write(`step ${count(all[0][last].step)}`, right, high - 6, "right");
      return "Over the training";
    },
    Scores(wide, high) {
      if (!found) write("The scores of this step need a kernel.", AXIS, 60);
      else {
        const { scores: bars, edges: [low, top, cut] } = found, right = wide - 20;
        const sums = Array.from({ length: BINS }, (_, i) => bars[2 * i] + bars[2 * i + 1]);
        const most = Math.max(1, ...sums), x = scale(0, BINS, AXIS, right), y = scale(0, most, BASE, 16);
        sums.forEach((sum, i) => {
          const middle = y(bars[2 * i]), broad = x(1) - x(0) - 0.5;
          rect(colours.grey, x(i), middle, broad, BASE - middle);
          rect(colours.violet, x(i), y(sum), broad, middle - y(sum));
        });
        const limit = scale(low, top, AXIS, right)(cut);
        rect(colours.red, limit, 6, 1.5, BASE - 6);
        write(`threshold ${round(cut)}`, clamp(limit + 4, AXIS, wide - 90), 8);
        write(round(low), AXIS, high - 8);
        write(round(top), right, high - 8, "right");
        write(`up to ${count(most)} weights; violet: kept, grey: removed`, 206, high - 8, "center", 250);
      }
      return `${ownName()}: scores`;
    },
  };

  /** Return the sentences under the pictures. */
  function sentences() {
    const ends = b?.runNumber && at === all[0].at(-1) && b === all[1].at(-1);
    const [onA, onB, both, size] =
      b && blocks && !found.coarse ? [blocks.a, blocks.b, blocks.both, blocks.size].map(total) : [];
    return [`Step ${count(at.step)}: the encoder keeps ${count(at.all)} of ${count(total(at.sizes))} ` +
      `weights (${percent(at.density)}).`,
    `${matrixText(state, at, matrix, head).replace("layer", "Layer")}.`,
    b && `A is this step. B is ${nameOfStep(b)} (${percent(b.density)} kept).`,
    ends && `B keeps ${count(state.both[0])} of A's ${count(at.all)} weights too (by chance ` +
      `${percent(state.both[1] / (at.all || 1))}).`,
    size && `In the window: kept by both ${count(both)} (${theme ? "white" : "black"}), only by A ` +
      `${count(onA - both)} (orange), only by B ${count(onB - both)} (blue), by none ` +
      `${count(size - onA - onB + both)}.`,
    ask ? null : "This page has no kernel: it shows the matrix of the last step in blocks.",
    ...new Set(Object.values(problems))].filter(Boolean);
  }

  const point = ({ offsetX, offsetY, currentTarget: { name, clientWidth } }) => // in the canvas's own units
    [offsetX, offsetY].map((at) => (at * SIZES[name][0]) / clientWidth);
  const fraction = (x, y) => // of the area
    [(x - LEFT) / AREA[0], (y - TOP) / AREA[1]].map((part) => clamp(part, 0, 0.999999));

  function cellAt(x, y) { // [{matrix, head}] at a point of the overview, or []
    return state.matrices.flatMap((one, i) => {
      const [left, top, wide, high, heads] = cellOf(one), head = Math.floor(((x - left) / wide) * heads);
      const inside = x >= left && x < left + wide && y >= top && y < top + high;
      return inside ? [{ matrix: i, head: heads ? head : null }] : [];
    });
  }

  const timeAt = () => scale(0, all[0][last].step, AXIS, TIME_END);
  function stepAt(x) {
    const away = ({ step }) => Math.abs(timeAt()(step) - x);
    return all[0].reduce((best, one) => (away(one) < away(best) ? one : best));
  }

  const tips = { // each function returns the text at a point of a picture
    Overview(x, y) {
      const [cell] = cellAt(x, y), text = (one) => matrixText(state, one, cell.matrix, cell.head);
      return cell && (b ? `A: ${text(at)}. B: ${text(b)}` : text(at));
    },
    Matrix(x, y) {
      if (!blocks) return "";
      const [fx, fy] = fraction(x, y), [row, column, high, wide] = area, { a, size } = blocks;
      const [k, top, low, left, right] = blockAt(blocks, row + fy * high, column + fx * wide);
      const part = Math.floor((own.side === "rows" ? top / shape[0] : left / shape[1]) * own.heads);
      const inHead = own.heads ? `, head ${part}` : "", step = `; ${nameOfStep(at)}`;
      const group = `rows ${top}–${low} × columns ${left}–${right}`;
      if (found.coarse) return `${group}: about ${percent(a[k])} kept; single weights need a kernel`;
      if (size[k] > 1) return `${group}${inHead}: ${count(a[k])} of ${count(size[k])} weights kept${step}`;
      const [onA, onB] = [a[k], blocks.b[k]].map((kept) => (kept ? "kept" : "removed"));
      const value = (name, digits) => values[name][(top - row) * wide + left - column].toPrecision(digits);
      const numbers = values ? `; weight ${value("weights", 3)}, score now ${value("scores", 4)}` : "";
      return `row ${top}, column ${left}${inHead}: ${b ? `A ${onA}, B ${onB}` : onA}${numbers}${step}`;
    },
    Time: (x) => stepText(stepAt(x)),
    Scores(x) {
      const bin = Math.floor(scale(AXIS, SIZES.Scores[0] - 20, 0, BINS)(x));
      return found && bin >= 0 && bin < BINS && barText(found, bin);
    },
  };

  function showTip() {
    const text = (hovered && tips[hovered.name](...hovered.at)) || "";
    Object.assign(tip, { textContent: text, hidden: !text });
  }

  function hover(event) {
    const frame = root.getBoundingClientRect(), left = event.clientX - frame.left + 14;
    hovered = event.type === "pointermove" && { name: event.currentTarget.name, at: point(event) };
    tip.style.left = `${clamp(left, 0, Math.max(0, frame.width - 310))}px`;
    tip.style.top = `${event.clientY - frame.top + 16}px`;
    showTip();
  }

  /** Save the four pictures and the sentences as one PNG file. */
  function save() {
    const lines = sentences(), high = 550 + 15 * lines.length;
    const canvas = node("canvas", { width: 1760, height: 2 * high });
    ctx = canvas.getContext("2d");
    ctx.scale(2, 2);
    rect(colours.paper, 0, 0, 880, high);
    ctx.font = `bold ${FONT}`;
    write(at.run.label, 10, 12, "left", 860);
    Object.values(canvases).forEach((each, i) => {
      const [x, y] = [i % 2 ? 452 : 10, i < 2 ? 24 : 362];
      write(each.caption.textContent, x, y + 8, "left", 400);
      ctx.drawImage(each, x, y + 18, ...SIZES[each.name]);
    });
    ctx.font = FONT;
    lines.forEach((line, i) => write(line, 10, 545 + 15 * i, "left", 860));
    canvas.toBlob((file) => {
      const link = node("a", { href: URL.createObjectURL(file), download: `${at.run.file}_${at.step}.png` });
      link.click();
      URL.revokeObjectURL(link.href);
    });
  }

  const menu = (read, ...options) =>
    node("select", { onchange: ({ target }) => choose(read(target.value)) }, ...options);
  const compare = menu((value) => ({ other: value ? value.split(" ").map(Number) : null }));
  const modes = menu((value) => ({ mode: value }),
    ...Object.entries(MODES).map(([value, [text]]) => option(value, text)));
  const slider = node("input", { type: "range", min: 0, oninput: () => move(+slider.value) });
  const player = button("▶", "Play the steps", () => play());
  const [title, stepWords, words] = ["b", "span", "output"].map((tag) => node(tag));
  const tip = node("div", { className: "tip", hidden: true }), canvases = {};
  const view = (name, onclick) => {
    const [wide, high] = SIZES[name], ratio = globalThis.devicePixelRatio || 1, caption = node("figcaption");
    const canvas = node("canvas", { name, caption, onclick, onpointermove: hover, onpointerleave: hover,
      tabIndex: 0, role: "img", width: wide * ratio, height: high * ratio,
      style: `width: ${wide}px; aspect-ratio: ${wide} / ${high}` });
    canvases[name] = canvas;
    return node("figure", {}, caption, canvas);
  };
  const root = node("div", { className: "smp", role: "group", ariaLabel: "Mask explorer", onkeydown },
    node("style", { textContent: CSS }),
    bar(title, label("Colour", modes), label("Compare with", compare),
      button("Save picture", "Save what is shown as a PNG file", save)),
    bar(view("Overview", (event) => cellAt(...point(event)).forEach(chooseCell)), view("Matrix")),
    bar(player, label("Step", slider), stepWords, button("−", "Zoom out", () => zoom(1 / 2)),
      button("+", "Zoom in", () => zoom(2)),
      button("Whole matrix", "Show the whole matrix", () => zoom(0))),
    bar(view("Time", (event) => move(stepAt(point(event)[0]).place)), view("Scores")),
    words, node("small", { textContent: KEYS }), tip);
  canvases.Matrix.onwheel = wheel;
  root.style.colorScheme = theme ? "dark" : "light";
  for (const [name, value] of Object.entries(colours)) root.style.setProperty(`--${name}`, value);
  element.append(root);
  update(first);
  return { root, update, follow, play };
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
    waiting.set(id, ({ error }, buffers) => (error ? reject(new Error(error)) : resolve(buffers)));
    setTimeout(() => waiting.delete(id) && reject(new Error("The kernel does not answer.")), PATIENCE);
    model.send({ ...message, id });
  });
}

/** Show the widget of anywidget, and follow a training that writes the file. */
async function render({ model, el }) {
  const sent = model.get("state"), state = await unpack(bytesOf(sent));
  const explorer = build(el, state, kernelOf(model));
  const rule = `[data-smp-explorer="${state.key}"] { display: none; }`; // the cell's own page
  explorer.root.append(node("style", { textContent: rule }));
  const update = async () => {
    const bytes = model.get("state"), next = await unpack(bytesOf(bytes));
    if (bytes === model.get("state")) explorer.update(next); // else a newer one came meanwhile
  };
  model.on("change:state", update);
  if (model.get("state") !== sent) update();
  const timer = setInterval(() => explorer.follow(), FOLLOW);
  return () => {
    clearInterval(timer);
    explorer.play(false);
    model.off("change:state", update);
  };
}

/** Replace the picture of an element with the explorer, without a kernel. */
async function showPage(element) {
  element.dataset.smpShown = "";
  const state = await unpack(Uint8Array.from(atob(element.dataset.smpState), (byte) => byte.charCodeAt(0)));
  element.replaceChildren();
  build(element, state, null);
}

if (typeof document !== "undefined")
  document.querySelectorAll("[data-smp-state]:not([data-smp-shown])").forEach(showPage);

export default { render };
