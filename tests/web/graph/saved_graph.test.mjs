import assert from "node:assert/strict";
import test from "node:test";

import { entryOf, noteSize } from "../../../web/js/lib/graph/saved_graph.js";

const root = { id: "root" };
const inner = { id: "inner" };
const saved = () => ({
  nodes: [{ id: 1, pos: [0, 0], size: [10, 10] }],
  definitions: { subgraphs: [{ id: "inner", nodes: [{ id: 1, pos: [5, 5], size: [20, 20] }] }] },
});

test("a node's entry is the one of its own graph, whether ids are numbers or texts", () => {
  assert.deepEqual(entryOf(saved(), { id: "1", graph: root }, root).pos, [0, 0]);
  assert.deepEqual(entryOf(saved(), { id: 1, graph: inner }, root).pos, [5, 5]);
});

test("a node that was not saved has no entry", () => {
  for (const graph of [root, inner, { id: "other" }, null]) {
    assert.equal(entryOf(saved(), { id: 2, graph }, root), undefined);
    assert.equal(entryOf(null, { id: 2, graph }, root), undefined);
  }
  assert.equal(entryOf({ nodes: [] }, { id: 1, graph: inner }, root), undefined);
});

test("a size is noted, and a place only where it is asked for", () => {
  const node = { pos: new Float64Array([7, 8]), size: new Float64Array([30, 40]) };
  const entry = { pos: [0, 0], size: [10, 10] };
  noteSize(entry, node);
  assert.deepEqual(entry, { pos: [0, 0], size: [30, 40] });
  noteSize(entry, node, true);
  assert.deepEqual(entry, { pos: [7, 8], size: [30, 40] });
  noteSize(undefined, node, true);
});

test("a place that differs by the rounding of the page is noted with the size", () => {
  const entry = { pos: [0, 418], size: [10, 10] };
  noteSize(entry, { pos: [-0.0000538, 417.9999147], size: [30, 40] });
  assert.deepEqual(entry, { pos: [-0.0000538, 417.9999147], size: [30, 40] });
  noteSize(entry, { pos: [0.5, 417.9999147], size: [30, 40] });
  assert.deepEqual(entry.pos, [-0.0000538, 417.9999147]); // the user moved it
});
