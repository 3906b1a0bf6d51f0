import assert from "node:assert/strict";
import { test } from "node:test";

import { routersBehind } from "../../../web/js/lib/graph/routers.js";
import { chain, hostsOf, modelSource, valueOf } from "../../../web/js/lib/graph/upstream.js";

/** A graph of the host's shape: nodes by id, links [from, slot, to, input]. */
function graph(nodes, links) {
  const made = { nodes, table: new Map(), getNodeById: (id) => nodes.find((n) => n.id === id) };
  made.getLink = (id) => made.table.get(id);
  links.forEach(([from, slot, to, input], index) => {
    made.table.set(index + 1, { origin_id: from, origin_slot: slot });
    if (to > 0) made.getNodeById(to).inputs[input].link = index + 1;
  });
  for (const node of nodes) node.graph = made;
  return made;
}

const model = () => ({ name: "model", type: "MODEL", link: null });
const loader = (id, name = "base.safetensors") => ({
  id, type: "CheckpointLoaderSimple", mode: 0, inputs: [],
  widgets: [{ name: "ckpt_name", value: name }],
});
const through = (id, type = "LoraLoaderModelOnly") => ({
  id, type, mode: 0, inputs: [model()], widgets: [{ name: "lora_name", value: "x" }],
});
const file = { kind: "checkpoints", name: "base.safetensors" };

test("a model is followed through patches and reroutes to its file", () => {
  const inputs = [{ name: "", type: "*", link: null }];
  const reroute = { id: 3, type: "Reroute", mode: 0, inputs };
  const router = through(4, "CRAFTRouter");
  const links = [[1, 0, 2, 0], [2, 0, 3, 0], [3, 0, 4, 0]];
  const all = graph([loader(1), through(2), reroute, router], links);
  const found = modelSource(router, "model", hostsOf(all, all));
  assert.deepEqual(found.file, file);
  assert.deepEqual(found.passed.map((node) => node.id), [3, 2, 1]);
});

test("a loader inside a menu's widgets is read, whichever kind it loads", () => {
  const limited = {
    id: 1, type: "CRAFTLoadRankLimitedUNet", mode: 0, inputs: [],
    widgets: [{ name: "source.unet_name", value: "u.safetensors" }],
  };
  const router = through(2);
  const all = graph([limited, router], [[1, 0, 2, 0]]);
  const found = modelSource(router, "model", []);
  assert.deepEqual(found.file, { kind: "diffusion_models", name: "u.safetensors" });
});

test("nothing linked, a muted node and an unknown source are not guessed", () => {
  const alone = through(1);
  graph([alone], []);
  const none = { file: null, passed: [], places: [], linked: false };
  assert.deepEqual(modelSource(alone, "model", []), none);
  const idle = [2, 4].map((mode) => ({ ...loader(1), mode })); // muted, bypassed
  for (const source of [...idle, { ...through(1, "GetNode"), inputs: [] }]) {
    const node = through(2);
    graph([source, node], [[1, 0, 2, 0]]);
    const found = modelSource(node, "model", []);
    assert.equal(found.file, null);
    assert.equal(found.linked, true);
  }
});

test("of a node that passes two models on, each output leads to its own", () => {
  const router = through(3, "CRAFTRouter");
  router.inputs.push({ name: "second_model", type: "MODEL", link: null });
  router.outputs = ["model", "conditioning", "second_model"].map((name) => ({ name }));
  const [first, second] = [through(4), through(5)];
  const loaders = [loader(1, "high.safetensors"), loader(2, "low.safetensors")];
  const links = [[1, 0, 3, 0], [2, 0, 3, 1], [3, 0, 4, 0], [3, 2, 5, 0]];
  graph([...loaders, router, first, second], links);
  const [high, low] = [first, second].map((node) => modelSource(node, "model", []));
  assert.equal(high.file?.name, "high.safetensors");
  assert.equal(low.file?.name, "low.safetensors");
  assert.deepEqual(low.passed.map((node) => node.id), [3, 2]);
  assert.equal(modelSource(router, "second_model", []).file?.name, "low.safetensors");
});

test("a loop ends", () => {
  const [one, other] = [through(1), through(2)];
  graph([one, other], [[1, 0, 2, 0], [2, 0, 1, 0]]);
  assert.equal(modelSource(one, "model", []).file, null);
});

/** A router in a subgraph: its model and prompt come in through the subgraph's inputs. */
function nested(outerPrompt) {
  const inner = through(7, "CRAFTRouter");
  inner.inputs.push({ name: "prompt", type: "STRING", link: null });
  inner.widgets.push({ name: "prompt", value: "inner" });
  const subgraph = graph([inner], [[-10, 0, 7, 0], [-10, 1, 7, 1]]);
  const host = {
    id: 2, type: "a uuid", mode: 0, subgraph,
    inputs: [model(), { name: "prompt", type: "STRING", link: null, widget: { name: "prompt" } }],
    widgets: [{ name: "prompt", value: outerPrompt }],
  };
  return { inner, subgraph, host };
}

test("ids may be texts, as some graphs of the host have them", () => {
  const { inner, subgraph, host } = nested("outer");
  for (const link of subgraph.table.values()) link.origin_id = String(link.origin_id);
  const all = graph([loader(1), host], [[1, 0, 2, 0]]);
  assert.deepEqual(modelSource(inner, "model", hostsOf(all, subgraph)).file, file);
});

test("the walls of a subgraph are crossed inwards and outwards", () => {
  const { inner, subgraph, host } = nested("outer");
  const all = graph([loader(1), host], [[1, 0, 2, 0]]);
  const hosts = hostsOf(all, subgraph);
  assert.deepEqual(hosts, [host]);
  assert.deepEqual(modelSource(inner, "model", hosts).file, file);
  assert.equal(valueOf(inner, "prompt", hosts), "outer");

  const loading = graph([loader(5)], [[5, 0, -20, 0]]);
  loading.outputNode = { slots: [{ linkIds: [1] }] };
  const source = { id: 1, type: "b uuid", mode: 0, subgraph: loading, inputs: [], widgets: [] };
  const router = through(2);
  graph([source, router], [[1, 0, 2, 0]]);
  assert.deepEqual(modelSource(router, "model", []).file, file);
});

test("a subgraph that is used twice leaves open which use is meant", () => {
  const { inner, subgraph, host } = nested("outer");
  const all = graph([host, { ...host, id: 3 }], []);
  assert.equal(hostsOf(all, subgraph), null);
  assert.equal(valueOf(inner, "prompt", null), undefined);
});

test("a linked widget has the value of its primitive, or none that the page knows", () => {
  const expected = { PrimitiveStringMultiline: "typed", StringConcatenate: undefined };
  for (const [type, value] of Object.entries(expected)) {
    const widgets = [{ name: "value", value: "typed" }];
    const source = { id: 1, type, mode: 0, inputs: [], widgets };
    const node = {
      id: 2, type: "CRAFTRouter", mode: 0, inputs: [{ name: "prompt", type: "STRING", link: null }],
      widgets: [{ name: "prompt", value: "stale" }],
    };
    graph([source, node], [[1, 0, 2, 0]]);
    assert.equal(valueOf(node, "prompt", []), value);
  }
});

test("a chain of branches is followed to its end, bypassed ones left out", () => {
  const branch = (id, mode) => ({
    id, type: "CRAFTLoadLoRABranch", mode, inputs: [{ name: "branches", type: "B", link: null }],
  });
  const router = {
    id: 4, type: "CRAFTRouter", mode: 0, inputs: [{ name: "extra_branches", link: null }],
  };
  const links = [[1, 0, 2, 0], [2, 0, 3, 0], [3, 0, 4, 0]];
  graph([branch(1, 0), branch(2, 4), branch(3, 0), router], links);
  const found = chain(router, "extra_branches", "branches", []);
  assert.deepEqual(found.map((node) => node.id), [3, 1]);
  const all = { nodes: [router.graph.getNodeById(1), router] };
  assert.deepEqual(routersBehind(all, all.nodes[0]).map(({ node }) => node.type), ["CRAFTRouter"]);
  assert.deepEqual(routersBehind(all, { id: 1 }), []);
});

test("a muted node lets no model through", () => {
  const router = through(3, "CRAFTRouter");
  graph([loader(1), { ...through(2), mode: 2 }, router], [[1, 0, 2, 0], [2, 0, 3, 0]]);
  assert.equal(modelSource(router, "model", []).file, null);
});
