import assert from "node:assert/strict";
import { test } from "node:test";

import { weightNotices } from "../../../web/js/lib/drawings/notices.js";
import { linksTo, weightReaders } from "../../../web/js/lib/graph/weight_readers.js";

/** Nodes by id, each linked by its MODEL inputs {name: id of the node before}. */
function graph(...parts) {
  const links = [];
  const nodes = parts.map(([id, type, sources, widgets = []]) => ({
    id, type, title: type, mode: 0, widgets,
    inputs: Object.entries(sources).map(([name, from]) => {
      links.push({ origin_id: from, origin_slot: 0 });
      return { name, type: "MODEL", link: links.length - 1 };
    }),
    outputs: [{ name: "MODEL", type: "MODEL" }],
  }));
  const made = {
    nodes, getNodeById: (id) => nodes.find((node) => node.id === id), getLink: (id) => links[id],
  };
  for (const node of nodes) node.graph = made;
  return made;
}

const file = (id, name = "base") => [id, "CheckpointLoaderSimple", {}, [{ name: "ckpt_name", value: name }]];
const ROUTER = [2, "CRAFTRouter", { model: 1 }];
const of = (...parts) => {
  const root = graph(file(1), ROUTER, ...parts);
  const found = weightReaders(root, root.getNodeById(2));
  const ids = (nodes) => nodes.map(({ id }) => id);
  return { reading: ids(found.reading), merging: ids(found.merging), guiding: ids(found.guiding),
    texts: weightNotices(found).map(({ text }) => text) };
};

test("nodes that save, merge or extract the MODEL are named, through others too", () => {
  const found = of(
    [3, "LoraLoaderModelOnly", { model: 2 }], [4, "CheckpointSave", { model: 3 }],
    [5, "ModelSave", { model: 2 }], [6, "ModelMergeSDXL", { model1: 1, model2: 2 }],
    [7, "KSampler", { model: 2 }], [8, "ModelSave", { model: 1 }],
  );
  assert.deepEqual(found.reading, [4, 5, 6]);
  assert.match(found.texts[0], /^CheckpointSave, ModelSave, ModelMergeSDXL: reads weights/);
  assert.equal(found.texts.length, 1);
});

test("the first model of a merge is scaled, not read", () => {
  const found = of([3, "ModelMergeSimple", { model1: 2, model2: 1 }], [4, "ModelSave", { model: 3 }]);
  assert.deepEqual([found.merging, found.reading], [[3], [4]]);
});

test("two clones of one file under DualModelGuider are named, two files are not", () => {
  const guider = (other) => [4, "DualModelGuider", { model: 2, model_negative: other }];
  assert.deepEqual(of(guider(1)).guiding, [4]);
  assert.deepEqual(of(file(3, "other"), guider(3)).guiding, []);
  assert.deepEqual(of(guider(2)).guiding, []);
  assert.deepEqual(of([4, "DualModelGuider", { model: 2 }]).guiding, []);
});

test("a bypassed node and a plain sampler say nothing", () => {
  const root = graph(file(1), ROUTER, [3, "ModelSave", { model: 2 }], [4, "KSampler", { model: 2 }]);
  root.getNodeById(3).mode = 4;
  assert.deepEqual(weightNotices(weightReaders(root, root.getNodeById(2))), []);
});

test("readers in the Router's own graph are offered to be shown, others only named", () => {
  const root = graph(file(1), ROUTER, [3, "ModelSave", { model: 2 }], [4, "CheckpointSave", { model: 2 }]);
  const readers = weightReaders(root, root.getNodeById(2));
  const shown = () => weightNotices(readers, root).map(({ nodes, button }) => [nodes, button]);
  assert.deepEqual(shown(), [[[3, 4], "Show"]]);
  readers.reading[0].graph = { id: "another" };
  assert.deepEqual(shown(), [[[4], "Show"]]);
  readers.reading[1].graph = { id: "another" };
  assert.deepEqual(shown(), [[undefined, undefined]]);
});

test("the links by which readers take the MODEL are told, others of theirs are not", () => {
  const root = graph(
    file(1), ROUTER, [3, "ModelMergeSimple", { model1: 2, model2: 1 }], [4, "ModelSave", { model: 3 }],
    [5, "KSampler", { model: 2 }],
  );
  const router = root.getNodeById(2);
  const wanted = [root.getNodeById(3).inputs[0], root.getNodeById(4).inputs[0]];
  const found = linksTo(root, router, weightReaders(root, router));
  assert.deepEqual(found, wanted.map(({ link }) => root.getLink(link)));
});
