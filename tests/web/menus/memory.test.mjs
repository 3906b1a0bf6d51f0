import assert from "node:assert/strict";
import { test } from "node:test";

import { MenuMemory } from "../../../web/js/lib/menus/memory.js";

const at = (entry, nested = {}) => [
  { name: "menu", value: entry },
  ...Object.entries(nested).map(([name, value]) => ({ name: `menu.${name}`, value })),
  { name: "other", value: "x" },
];

test("what was set under an entry is put back when it is chosen again, and only then", () => {
  const memory = new MenuMemory();
  assert.deepEqual(memory.look(at("custom", { patterns: "first" })), []);
  assert.deepEqual(memory.look(at("custom", { patterns: "mine" })), []);
  assert.deepEqual(memory.look(at("all")), []);
  const again = at("custom", { patterns: "first" });
  assert.deepEqual(memory.look(again), [{ widget: again[1], value: "mine" }]);
  again[1].value = "mine";
  assert.deepEqual(memory.look(again), []);
  assert.deepEqual(memory.look(at("custom", { patterns: "newer" })), []);
});

test("each entry has its own values, and lists and numbers come back as they were", () => {
  const memory = new MenuMemory();
  memory.look(at("curve", { points: [[0, 1]], floor: 0.2 }));
  memory.look(at("window", { floor: 0.7 }));
  const back = memory.look(at("curve", { points: [], floor: 0 }));
  assert.deepEqual(back.map(({ value }) => value), [[[0, 1]], 0.2]);
  assert.deepEqual(memory.look(at("window", { floor: 0 })).map(({ value }) => value), [0.7]);
});

test("a node that was just opened keeps the values it came with", () => {
  const memory = new MenuMemory();
  assert.deepEqual(memory.look(at("all")), []);
  assert.deepEqual(memory.look(at("custom", { patterns: "saved" })), []);
});
