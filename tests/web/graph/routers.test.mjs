import assert from "node:assert/strict";
import { test } from "node:test";

import { routersBehind } from "../../../web/js/lib/graph/routers.js";

/** A list and a Router that takes its branches. */
function graph(mode, type = "CRAFTRouter") {
  const nodes = [
    { id: 1, type: "CRAFTLoRAList", mode: 0, inputs: [] },
    { id: 2, type, mode, inputs: [{ name: "extra_branches", type: "CRAFT_BRANCHES", link: 0 }] },
  ];
  const made = {
    nodes,
    getNodeById: (id) => nodes.find((node) => node.id === id),
    getLink: () => ({ origin_id: 1, origin_slot: 0 }),
  };
  for (const node of nodes) node.graph = made;
  return made;
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
