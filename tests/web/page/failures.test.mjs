import assert from "node:assert/strict";
import { test } from "node:test";

import { onlyRouter, routersBefore } from "../../../web/js/lib/graph/routers.js";
import { failureBehind, failureInside, isOurs } from "../../../web/js/lib/page/failures.js";

/** A graph of the host's shape: [id, type, ids of the nodes before it, its subgraph]. */
function graph(...parts) {
  const links = [];
  const nodes = parts.map(([id, type, sources = [], subgraph]) => ({
    id, type, title: type, mode: 0, subgraph,
    inputs: sources.map((from) => {
      links.push({ origin_id: from, origin_slot: 0 });
      return { name: `in${from}`, type: "MODEL", link: links.length - 1 };
    }),
  }));
  const made = {
    nodes, getNodeById: (id) => nodes.find((node) => node.id === id), getLink: (id) => links[id],
    outputNode: { slots: [] },
  };
  for (const node of nodes) node.graph = made;
  return made;
}

const failed = (node, type = "KSampler", text = "The run is no part.") => ({ node, type, text });
const at = (root, id) => ({ node: root.getNodeById(id), hosts: [] });

test("errors are the pack's by the node's type, or by their own in any node", () => {
  assert.ok(isOurs("CRAFTRouter", "builtins.KeyError"));
  for (const folder of ["custom_nodes.craft-lora", "/home/a/craft-lora", "craft_lora_pack"])
    assert.ok(isOurs("KSampler", `${folder}.craft_core.errors.CraftError`));
  for (const other of ["builtins.ValueError", "CraftError", undefined])
    assert.ok(!isOurs("KSampler", other));
});

test("a node that a Router feeds says on it, by name, why it fails", () => {
  const root = graph(
    [1, "CheckpointLoaderSimple"], [2, "CRAFTRouter", [1]], [3, "LoraLoaderModelOnly", [2]],
    [4, "CFGGuider", [3]], [5, "SamplerCustomAdvanced", [4]], [6, "CRAFTRouter", [1]],
    [7, "CRAFTRouter", [6]], [8, "KSampler", [7]],
  );
  const said = { text: "SamplerCustomAdvanced: The run is no part.", failed: true };
  const advanced = failed("5", "SamplerCustomAdvanced");
  assert.deepEqual(failureBehind([advanced], root, at(root, 2)), said);
  assert.equal(failureBehind([advanced], root, at(root, 7)), null);
  assert.equal(failureBehind([failed("8")], root, at(root, 6)), null); // the nearest of a chain
  assert.equal(failureBehind([failed("8")], root, at(root, 7)).failed, true);
  assert.equal(failureBehind([failed("4", "CRAFTACFGGuider")], root, at(root, 2)), null);
  assert.equal(failureBehind([failed("99")], root, at(root, 2)), null); // it is gone
});

test("a subgraph node says why a node inside it fails, or one that its Router feeds", () => {
  const inner = graph([1, "CRAFTRouter"], [2, "CRAFTACFGKSampler", [1]]);
  inner.outputNode.slots = [{ linkIds: [0] }];
  inner.getLink = () => ({ origin_id: 1, origin_slot: 0 });
  const root = graph([5, "uuid", [], inner], [6, "KSampler", [5]], [7, "uuid", [], inner]);
  const on = (id, ...failures) => failureInside(failures, root, at(root, id));
  assert.deepEqual(on(5, failed("5:1", "CRAFTRouter", "Off.")), { text: "Off.", failed: true });
  assert.equal(on(5, failed("5:2", "CRAFTACFGKSampler")).text, "CRAFTACFGKSampler: The run is no part.");
  assert.equal(on(5, failed("6")).text, "KSampler: The run is no part.");
  assert.equal(on(7, failed("6"), failed("5:1", "CRAFTRouter")), null); // another place of it
});

test("the only Router of a subgraph is found at any depth, several and idle ones are none", () => {
  const deep = graph([1, "uuid", [], graph([2, "CRAFTMethodSweep"], [3, "CRAFTXYGrid"])]);
  const root = graph([5, "uuid", [], deep], [6, "uuid", [], graph([1, "CRAFTRouter"], [2, "CRAFTRouter"])]);
  const found = onlyRouter(root.getNodeById(5), []);
  assert.deepEqual([found.node.id, found.hosts.map(({ id }) => id)], [2, [5, 1]]);
  assert.equal(onlyRouter(root.getNodeById(6), []), null);
  root.getNodeById(5).mode = 4;
  assert.equal(onlyRouter(root.getNodeById(5), []), null);
  assert.equal(onlyRouter(deep.nodes[0].subgraph.nodes[0], []), null);
});

test("a loop of links ends", () => {
  const root = graph([1, "A", [2]], [2, "B", [1]]);
  assert.deepEqual(routersBefore(at(root, 1)), []);
});
