import assert from "node:assert/strict";
import { test } from "node:test";

import { didNotAct, otherNegative } from "../../../web/js/lib/core.js";
import { weightNotices } from "../../../web/js/lib/drawings/notices.js";
import { isOfTwoModels, linksTo, weightReaders } from "../../../web/js/lib/graph/weight_readers.js";

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
    negative: ids(found.negative), texts: weightNotices(found).map(({ text }) => text) };
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

const dual = (sources, widgets = []) => [9, "DualModelGuider", sources, widgets];

test("a guider whose negative has other LoRAs is told to stop, in the words of the run", () => {
  const { text } = weightNotices({ reading: [], merging: [], guiding: [{ title: "Dual" }], negative: [] })[0];
  assert.equal(text, `Dual: the sampler will stop. ${otherNegative().message}`);
  const second = [3, "CRAFTRouter", { model: 2 }];
  const stops = [
    [file(3), dual({ model: 2, model_negative: 3 })], // two loaders that the server takes for one
    [second, dual({ model: 3, model_negative: 2 })], // a second Router behind the first
    [file(3, "other"), [4, "CRAFTRouter", { model: 3 }], dual({ model: 2, model_negative: 4 })],
    [[3, "LoraLoaderModelOnly", { model: 2 }], dual({ model: 3, model_negative: 1 })],
  ];
  for (const parts of stops) assert.deepEqual([of(...parts).guiding, of(...parts).negative], [[9], []]);
});

test("LoRAs in the MODEL for the negative prompt alone are told not to act", () => {
  for (const positive of [file(3), file(3, "other")]) {
    const found = of(positive, dual({ model: 3, model_negative: 2 }));
    assert.deepEqual([found.guiding, found.negative], [[], [9]]);
    const [, possible, action] = didNotAct().parts;
    assert.deepEqual(found.texts, [
      `DualModelGuider: the sampler will stop. ${possible}. ${action}.`,
    ]);
  }
});

test("a guider of two MODELs that runs is not named", () => {
  const other = (name) => [3, "UNETLoader", {}, [
    { name: "unet_name", value: "base" }, { name: "weight_dtype", value: name },
  ]];
  const cfg = [{ name: "cfg", value: 1 }];
  const runs = [
    [dual({ model: 2, model_negative: 1 }, cfg)], // evaluates no negative
    [dual({ model: 1, model_negative: 2 }, cfg)],
    [[3, "LoraLoaderModelOnly", { model: 2 }], dual({ model: 3, model_negative: 2 })],
    [other("default"), dual({ model: 2, model_negative: 3 })],
    [[3, "Unknown", {}], dual({ model: 2, model_negative: 3 })],
  ];
  for (const parts of runs) assert.deepEqual(of(...parts).texts, []);
  const root = graph(file(1), [5, "CRAFTMethodSweep", { model: 1 }], [2, "CRAFTRouter", { model: 5 }],
    dual({ model: 2, model_negative: 1 })); // the sweep may have left the negative plain
  assert.deepEqual(weightNotices(weightReaders(root, root.getNodeById(2))), []);
});

test("files that are loaded in other ways are two networks", () => {
  const loader = (id, dtype) => [id, "UNETLoader", {}, [
    { name: "unet_name", value: "base" }, { name: "weight_dtype", value: dtype },
  ]];
  const guiding = (dtype) => {
    const root = graph(loader(1, "default"), ROUTER, loader(3, dtype), dual({ model: 2, model_negative: 3 }));
    return weightReaders(root, root.getNodeById(2)).guiding.length;
  };
  assert.deepEqual([guiding("default"), guiding("fp8_e5m2")], [1, 0]);
});

test("the LoRAs of a guider act on both halves where its MODELs have the same", () => {
  const at = (...parts) => ({ node: graph(file(1), ROUTER, ...parts).getNodeById(9), hosts: [] });
  assert.ok(!isOfTwoModels(at(dual({ model: 2 }))));
  assert.ok(!isOfTwoModels(at(dual({ model: 2, model_negative: 2 }))));
  assert.ok(isOfTwoModels(at(dual({ model: 2, model_negative: 1 }))));
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
