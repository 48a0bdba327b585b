// Tests of explorer.js without a browser; test_explorer.py writes the two files that they read.
import assert from "node:assert";
import { readFileSync } from "node:fs";
import test from "node:test";

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

test("masks are unpacked and counted in blocks", () => {
  const mask = explorer.unpackBits(Uint8Array.from(expected.bits), expected.mask.length);
  assert.deepEqual(Array.from(mask), expected.mask);
  const { a, b, both, size } = explorer.pool(mask, Uint8Array.from(expected.earlier), expected.columns, [0, 0, 32, 32], [1, 1]);
  assert.deepEqual([a[0], both[0], size[0]], [expected.kept, expected.both, 1024]);
  assert.ok(b[0] >= both[0]);
  const window = explorer.pool(mask, null, expected.columns, [4, 8, 16, 16], [5, 3]);
  assert.deepEqual([window.across, window.down], [5, 3]);
  assert.equal(window.a.reduce((x, y) => x + y), expected.window);
  assert.equal(window.size.reduce((x, y) => x + y), 256);
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
