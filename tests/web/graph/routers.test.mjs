import assert from "node:assert/strict";
import { test } from "node:test";

import { routersBehind } from "../../../web/js/lib/graph/routers.js";
import { linked } from "../linked.mjs";

/** A list and a Router that takes its branches. */
function graph(mode, type = "CRAFTRouter") {
  return linked([
    { id: 1, type: "CRAFTLoRAList", mode: 0, inputs: [] },
    { id: 2, type, mode, inputs: [{ name: "extra_branches", type: "CRAFT_BRANCHES", link: 0 }] },
  ]);
}

const found = (root) => routersBehind(root, root.nodes[0]).map(({ node }) => node.id);

test("nodes with a marked prompt take the branches of a list", () => {
  for (const type of ["CRAFTRouter", "CRAFTMethodSweep", "CRAFTXYGrid", "CRAFTFindBest"])
    assert.deepEqual(found(graph(0, type)), [2]);
  assert.deepEqual(found(graph(0, "KSampler")), []);
});

test("a muted or bypassed Router takes none", () => {
  for (const mode of [2, 4]) assert.deepEqual(found(graph(mode)), []);
});
