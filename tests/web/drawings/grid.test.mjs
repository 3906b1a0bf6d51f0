import assert from "node:assert/strict";
import { test } from "node:test";

import { nameOf, stateOf, tableOf, withCells } from "../../../web/js/lib/drawings/grid.js";

const grid = (...cells) => ({ rows: ["craft", "k_lora\npattern = s*"], columns: ["cfg 1", "cfg 2"], cells });
const cell = (row, column, preset = "{}") => ({ row, column, picture: "data:", scores: "", preset });

test("new cells come to those there are, and one made again takes its place", () => {
  const one = withCells(undefined, grid(cell(0, 0, "old")));
  const two = withCells(one, grid(cell(1, 1), cell(0, 0, "new")));
  assert.deepEqual(two, grid(cell(0, 0, "new"), cell(1, 1)));
  assert.equal(withCells(two, undefined), two);
  assert.deepEqual(withCells(two, grid()), two);
});

test("cells of other axes are left out", () => {
  const other = { ...grid(cell(0, 1)), columns: ["seed 1", "seed 2"] };
  assert.deepEqual(withCells(grid(cell(0, 0)), other), other);
});

test("a cell stands at its place, and places without one stay empty", () => {
  const found = tableOf(grid(cell(1, 0)));
  assert.deepEqual(found, [[undefined, undefined], [cell(1, 0), undefined]]);
});

test("a cell is called by its row and its column", () => {
  assert.equal(nameOf(grid(), cell(1, 0)), "k_lora, pattern = s*; cfg 1");
  assert.equal(nameOf({ ...grid(), rows: [""] }, cell(0, 1)), "cfg 2");
});

test("a grid is drawn anew for every cell that comes in, also an equal one, and for labels", () => {
  const text = (one) => JSON.stringify(stateOf(one));
  const one = cell(0, 0);
  assert.notEqual(text(grid()), text(grid(cell(0, 0))));
  assert.notEqual(text(grid(cell(0, 0, "a"))), text(grid(cell(0, 0, "b"))));
  assert.notEqual(text(grid()), text({ ...grid(), columns: ["a", "b"] }));
  assert.notEqual(text(grid(one)), text(grid({ ...one, picture: "data:x" })));
  assert.equal(text(grid(one)), text(withCells(grid(one), grid())));
});
