import assert from "node:assert/strict";
import { test } from "node:test";

import {
  actingRows, changed, dropPlace, isListed, moved, placeAfterMove, readRows, withRow, without,
  writeRows,
} from "../../../web/js/lib/drawings/lora_rows.js";

const ROWS = [
  { lora: "dog", role: "content", strength: 0.8 },
  { lora: "ink", role: "style", strength: 1, on: false, layers: "up_blocks.0\nmid_block" },
  { lora: "färg", role: "style", strength: -0.5, second_lora: "none" },
];

test("what is written is read as it was, one row a line", () => {
  assert.deepEqual(readRows(writeRows(ROWS)), ROWS);
  assert.equal(writeRows(ROWS).split("\n").length, ROWS.length + 2);
  assert.deepEqual(readRows(writeRows([])), []);
});

test("what is neutral is not written, what people add is kept", () => {
  const neutral = { on: true, layers: "", second_lora: "same" };
  assert.deepEqual(readRows(writeRows([{ ...ROWS[0], ...neutral }])), [ROWS[0]]);
  assert.deepEqual(readRows(writeRows([{ ...ROWS[0], note: "mine" }])), [{ ...ROWS[0], note: "mine" }]);
});

test("an empty text has no rows, and one that cannot be shown as rows is told from it", () => {
  for (const text of ["", " ", null, undefined, "[]"]) assert.deepEqual(readRows(text), []);
  for (const text of ["[", "{}", "7", '["a"]', '[{"lora": "a"}]', "[null]", '[{"lora":1,"role":"style"}]'])
    assert.equal(readRows(text), null);
});

test("a new row takes the role that has fewer", () => {
  let rows = [];
  for (const lora of ["a", "b", "c", "d"]) rows = withRow(rows, lora);
  const roles = rows.map(({ role }) => role);
  assert.deepEqual(roles.slice(0, 2), ["content", "style"]);
  assert.equal(roles.filter((role) => role === "content").length, 2);
  assert.ok(rows.every(({ strength }) => strength === 1));
});

test("a move keeps all rows and the order of the others, and an open row stays open", () => {
  for (let from = 0; from < 3; from += 1)
    for (let to = 0; to < 3; to += 1) {
      const after = moved(ROWS, from, to);
      assert.equal(after[to], ROWS[from]);
      assert.deepEqual(without(after, to), without(ROWS, from));
      ROWS.forEach((row, at) => assert.equal(after[placeAfterMove(at, from, to)], row));
      assert.deepEqual(moved(after, to, from), ROWS);
    }
});

test("a dragged row goes where the pointer is", () => {
  const middles = [10, 30, 50];
  assert.deepEqual([0, 9, 20, 29, 40, 60].map((y) => dropPlace(y, middles, 0)), [0, 0, 0, 0, 1, 2]);
  assert.deepEqual([0, 20, 40, 60].map((y) => dropPlace(y, middles, 2)), [0, 1, 2, 2]);
});

test("a change is of one row alone", () => {
  const after = changed(ROWS, 1, { on: true });
  assert.deepEqual(after.map(({ on }) => on), [undefined, true, undefined]);
  assert.equal(ROWS[1].on, false);
});

test("rows that are off do not act", () => {
  assert.deepEqual(actingRows(writeRows(ROWS)).map(({ lora }) => lora), ["dog", "färg"]);
  assert.deepEqual(actingRows("no rows"), []);
});

test("a file of a folder is there whichever slash the server and the list have", () => {
  for (const [known, file] of [["a\\b", "a/b"], ["a/b", "a\\b"], ["a/b", "a/b"]])
    assert.ok(isListed(["other", known], file));
  assert.ok(!isListed(["a\\b"], "b") && !isListed([], "b"));
});
