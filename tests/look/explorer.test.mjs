// Tests of explorer.js without a browser; test_explorer.py writes the two files that they read.
import assert from "node:assert";
import { readFileSync } from "node:fs";
import test, { afterEach } from "node:test";

import * as explorer from "./explorer.mjs";

const expected = JSON.parse(readFileSync("expected.json"));
const state = await explorer.unpack(readFileSync("state.bin"));
const QUERY = 6, at = explorer.stepOf(state, 0, 2); // step 20

test("the numbers of a step", () => {
  assert.equal(at.step, 20);
  assert.equal(at.before, 10);
  assert.ok(Math.abs(at.density - expected.density) < 1e-9);
  assert.equal(at.kept[QUERY], expected.kept);
  assert.equal(explorer.headsOf(state, at, QUERY)[1], expected.head);
  assert.equal(at.again[QUERY], expected.both);
});

test("the hover texts", () => {
  assert.match(explorer.matrixText(state, at, QUERY, 1),
    new RegExp(`^layer 1 · query · head 1 · rows 8–15: ${expected.head} of 256 weights kept`));
  assert.match(explorer.matrixText(state, at, QUERY), new RegExp(`: ${expected.kept} of 1,024 weights kept`));
  assert.match(explorer.stepText(at), /^step 20: .*% kept; .*% of the kept weights removed since step 10/);
  assert.match(explorer.stepText(explorer.stepOf(state, 0, 0)), /^step 0: 100% kept; [^;]*largest/);
  assert.equal(explorer.barText({ scores: [3, 0, ...Array(124).fill(0), 0, 2000], edges: [-1, 1, 0.5] }, 63),
    "scores 0.969 to 1: 2,000 kept, 0 removed; lowest kept 0.5");
});

test("percentages have three digits", () => {
  assert.deepEqual([0.1, 0.5512, 1, 0, 0.00031].map(explorer.percent), ["10%", "55.1%", "100%", "0%", "0.031%"]);
});

test("masks are counted in blocks", async () => {
  const { runs: [{ mask }] } = await explorer.unpack(readFileSync("answer.bin"));
  assert.deepEqual(Array.from(mask), expected.mask);
  const { a, b, both, size } = explorer.pool(mask, expected.earlier, expected.columns, [0, 0, 32, 32], [1, 1]);
  assert.deepEqual([a[0], both[0], size[0]], [expected.kept, expected.both, 1024]);
  assert.ok(b[0] >= both[0]);
  const window = explorer.pool(mask, null, expected.columns, [4, 8, 16, 16], [5, 3]);
  assert.deepEqual([window.xs.length, window.ys.length], [6, 4]);
  assert.equal(window.a.reduce((x, y) => x + y), expected.window);
  assert.equal(window.size.reduce((x, y) => x + y), 256);
  for (const [row, column] of [[4, 8], [9.5, 10.9], [19.99, 23.99]]) {
    const [block, top, low, left, right] = explorer.blockAt(window, row, column);
    assert.ok(top <= row && row < low + 1 && left <= column && column < right + 1);
    const kept = (_, i) => top <= (i >> 5) && (i >> 5) <= low && left <= i % 32 && i % 32 <= right;
    assert.equal(window.a[block], expected.mask.filter(kept).reduce((x, y) => x + y));
  }
});

test("a matrix smaller than the coarse blocks has them for single weights", () => {
  const mask = explorer.coarseMask(Uint8Array.from(expected.grid), 24, 20);
  const exact = expected.mask.filter((_, i) => i < 24 * 32 && i % 32 < 20);
  assert.deepEqual(Array.from(mask), exact);
});

test("a matrix that keeps nothing is not exchanged", () => {
  const none = state.runs[0].kept.slice().fill(0);
  const copy = { ...state, runs: [{ ...state.runs[0], kept: none, again: none, largest: none }] };
  const nothing = explorer.stepOf(copy, 0, 2);
  assert.deepEqual([nothing.exchanged[QUERY], nothing.chance, nothing.overlap], [0, 0, 0]);
  assert.doesNotMatch(explorer.matrixText(copy, nothing, QUERY), /NaN/);
});

test("zooming stays in the matrix and ends at 4 x 4 weights", () => {
  const shape = [3072, 768], area = [340, 280];
  let window = [0, 0, ...shape];
  for (let i = 0; i < 30; i++) {
    window = explorer.zoomed(window, shape, area, 1.5, 0.9, 0.1);
    const [row, column, high, wide] = window;
    assert.ok(row >= 0 && column >= 0 && row + high <= 3072 && column + wide <= 768, window);
  }
  assert.ok(window[2] === 4 && window[3] === 4, window);
  for (let i = 0; i < 60; i++) window = explorer.zoomed(window, shape, area, 1 / 1.5);
  assert.deepEqual(window, [0, 0, ...shape]);
});

test("colours are blended and missing values are the first", () => {
  assert.deepEqual(explorer.blend(["#000000", "#ff0000", "#ffffff"], 0.25), [128, 0, 0]);
  assert.deepEqual(explorer.blend(["#000000", "#ffffff"], 7), [255, 255, 255]);
  assert.deepEqual(explorer.blend(["#102030", "#ffffff"], NaN), [16, 32, 48]);
});

// The explorer in a document that only records: no browser is here.

class Element {
  constructor(tag) {
    Object.assign(this, { tagName: tag.toUpperCase(), children: [], dataset: {}, isConnected: true });
    Object.assign(this, { style: { setProperty() {} }, offsetParent: this, width: 400, height: 300 });
  }
  get clientWidth() { return this.width; }
  get all() { return [this, ...this.children.flatMap((child) => child.all ?? [])]; }
  append(...children) { this.children.push(...children); }
  replaceChildren(...children) { this.children = children; }
  getBoundingClientRect() { return { left: 0, top: 0, width: 880 }; }
  getContext() {
    return new Proxy({}, { get: (_, name) => (...values) => {
      for (const value of values) assert.ok(typeof value !== "number" || Number.isFinite(value), name);
    } });
  }
}

class Model {
  constructor(file) { Object.assign(this, { state: readFileSync(file), handlers: {}, sent: [] }); }
  get() { return this.state; }
  on(name, handler) { this.handlers[name] = handler; }
  off(name) { delete this.handlers[name]; }
  send(message) { this.sent.push(message); }
  async answer(message, error) {
    this.handlers["msg:custom"]({ id: message.id, error }, [readFileSync("answer.bin")]);
    await settle();
  }
  async change(...files) { // to the state of the last file
    const updates = files.map((file) => {
      this.state = readFileSync(file);
      return this.handlers["change:state"]();
    });
    await Promise.all(updates);
  }
}

// The answers are unpacked in other threads, so the same work is awaited too.
const settle = async () => {
  for (let i = 0; i < 60; i++) await (i % 20 ? new Promise(setImmediate) : explorer.unpack(readFileSync("answer.bin")));
};

let stop = () => {};
afterEach(() => stop());

/** Return the model, the parts of the page and functions that use it. */
async function shown(file) {
  globalThis.document = { createElement: (tag) => new Element(tag), querySelectorAll: () => [] };
  globalThis.getComputedStyle = () => ({ backgroundColor: "rgb(255, 255, 255)" });
  globalThis.ImageData = class {
    constructor(wide, high) { this.data = new Uint8ClampedArray(4 * wide * high); }
  };
  const model = new Model(file), el = new Element("div");
  stop = await explorer.default.render({ model, el });
  const all = el.all, [root] = el.children, named = (name) => all.find((each) => each.name === name);
  const event = (more) => ({ prevented: 0, stopPropagation() {}, preventDefault() { this.prevented++; }, ...more });
  const parts = { slider: "INPUT", words: "OUTPUT", player: "BUTTON" };
  const find = (tag) => all.find((each) => each.tagName === tag && each.textContent !== "Save picture");
  for (const [name, tag] of Object.entries(parts)) parts[name] = find(tag);
  return { ...parts, model, root, named, find,
    compare: all.filter((each) => each.tagName === "SELECT")[1],
    tip: all.find((each) => each.className === "tip"),
    text: () => parts.words.textContent,
    key: (key, target = root) => root.onkeydown(event({ key, target })),
    at: (name, what, x, y, more) => {
      const made = event({ type: what, currentTarget: named(name), offsetX: x, offsetY: y, clientX: x,
        clientY: y, ...more });
      named(name)[`on${what}`](made);
      return made.prevented;
    } };
}

test("playing starts again at the first step and ends at the last", async (context) => {
  context.mock.timers.enable({ apis: ["setInterval", "setTimeout"] });
  const { model, player, slider, key, text } = await shown("state.bin");
  assert.equal(slider.value, 3);
  key(" ");
  assert.deepEqual([slider.value, player.textContent], [0, "⏸"]);
  await model.answer(model.sent.at(-1)); // an answer between two steps
  context.mock.timers.tick(700);
  assert.equal(slider.value, 1);
  await model.change("short.bin"); // the file of a new training: one step
  assert.match(text(), /^Step 0: the encoder keeps/);
  context.mock.timers.tick(7000);
  assert.deepEqual([slider.value, player.textContent], [0, "▶"]);
});

test("an answer to an older state changes nothing", async () => {
  const { model, text } = await shown("state.bin");
  const [old] = model.sent;
  await model.change("two.bin", "short.bin"); // a large state and a small one, unpacked at once
  assert.match(text(), /^Step 0:/);
  await model.answer(old, "an old error");
  assert.doesNotMatch(text(), /old error/);
  await model.answer(model.sent.at(-1), "no such mask");
  assert.match(text(), /no such mask$/);
});

test("what is shown is not asked for again, and the oldest answers are forgotten", async () => {
  const { model, key, compare } = await shown("state.bin");
  compare.onchange({ target: { value: "0 1" } });
  for (let i = 0; i < 6; i++) {
    while (model.sent.length) await model.answer(model.sent.shift());
    key("+");
    assert.deepEqual(model.sent, []);
    key(i % 6 === 5 ? "ArrowUp" : "ArrowRight");
  }
  assert.equal(model.sent.length, 2);
});

test("the text at the pointer follows the steps", async () => {
  const { at, tip, key, named } = await shown("state.bin");
  at("Overview", "pointermove", 60, 25);
  assert.match(tip.textContent, /^layer 0 · query · head 0 .* step 30$/);
  key(",");
  assert.match(tip.textContent, /step 20$/);
  key("ArrowLeft", named("Time"));
  assert.match(tip.textContent, /step 10$/);
  at("Overview", "pointerleave", 0, 0);
  assert.equal(tip.hidden, true);
});

test("the wheel scrolls the page where it cannot zoom", async () => {
  const { at, named } = await shown("state.bin");
  const wheel = (deltaY) => at("Matrix", "wheel", 200, 150, { deltaY });
  assert.deepEqual([wheel(0), wheel(1), wheel(-1), wheel(1)], [0, 0, 1, 1]);
  for (let i = 0; i < 9; i++) wheel(1);
  assert.equal(wheel(1), 0);
  assert.match(named("Matrix").ariaLabel, /32 × 32$/);
});

test("a kernel that was busy is asked again", async (context) => {
  context.mock.timers.enable({ apis: ["setInterval", "setTimeout", "Date"] });
  const { model, text } = await shown("state.bin");
  context.mock.timers.tick(3000);
  assert.deepEqual(model.sent.map(({ kind }) => kind), ["matrix", "follow"]);
  context.mock.timers.tick(5000);
  await settle();
  assert.match(text(), /The kernel does not answer\.$/);
  context.mock.timers.tick(3000);
  await model.answer(model.sent.at(-1));
  assert.equal(model.sent.at(-1).kind, "matrix");
  await model.answer(model.sent.at(-1));
  assert.doesNotMatch(text(), /does not answer/);
  stop();
  const sent = model.sent.length;
  context.mock.timers.tick(60000);
  assert.equal(model.sent.length, sent);
});

test("a matrix of 1 x 1 that keeps nothing is shown", async () => {
  const { at, tip, key, named, compare, text, find } = await shown("tiny.bin");
  assert.match(text(), /B keeps 0 of A's 0 weights too \(by chance 0%\)/);
  assert.doesNotMatch(text(), /NaN|undefined/);
  assert.equal(find("B").textContent, "</style><img src=x>"); // as text
  for (const name of ["Overview", "Matrix", "Time", "Scores"]) {
    at(name, "pointermove", 100, 30);
    assert.ok(tip.textContent, name);
    for (const press of ["ArrowUp", "ArrowLeft", "+", "-", "0", ",", "."]) key(press, named(name));
  }
  compare.onchange({ target: { value: "" } });
});

test("without a kernel the page shows the last step in blocks", async () => {
  await shown("state.bin"); // makes the document
  const element = new Element("div");
  element.dataset.smpState = readFileSync("state.bin").toString("base64");
  document.querySelectorAll = () => [element];
  await import("./explorer.mjs?page");
  for (let i = 0; i < 50 && !element.children.length; i++) await settle();
  const words = element.all.find(({ tagName }) => tagName === "OUTPUT");
  assert.match(words.textContent, /This page has no kernel/);
});
