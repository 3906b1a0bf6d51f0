import assert from "node:assert/strict";
import { test } from "node:test";

import { freePlace, overlap } from "../../../web/js/lib/graph/placing.js";
import {
  modelChoices, modelFile, planAdditions, planWiring,
} from "../../../web/js/lib/insertion/wiring.js";

const slots = (types, link) => types.map((type) => ({ name: type.toLowerCase(), type, link }));
const node = (type, takes, gives, mode = 0) => ({
  type, mode, inputs: slots(takes, null), outputs: slots(gives, null),
});
const loader = () => node("CheckpointLoaderSimple", [], ["MODEL", "CLIP", "VAE"]);
const latent = () => node("EmptyLatentImage", [], ["LATENT"]);
const sampler = () => node("KSampler", ["MODEL", "LATENT"], ["LATENT"]);
const decode = (link = null) => ({
  type: "VAEDecode", mode: 0, outputs: [],
  inputs: [{ name: "samples", type: "LATENT", link }, { name: "vae", type: "VAE", link: 9 }],
});
const FILES = { checkpoints: ["a"], diffusion_models: ["u"], text_encoders: ["t"], vae: ["v"] };
const B = { kind: "checkpoints", name: "b" };
const NONE = { checkpoints: [], diffusion_models: [], text_encoders: [], vae: [] };
const types = ({ additions }) => additions.map(({ type }) => type);

test("one of each is linked, and nodes that only pass on are none", () => {
  const [load, empty, free] = [loader(), latent(), decode()];
  const lora = node("LoraLoader", ["MODEL", "CLIP"], ["MODEL", "CLIP"]);
  const found = planWiring([load, lora, empty, sampler(), free]);
  assert.deepEqual(found.sources.model, { node: load, slot: 0 });
  assert.deepEqual(found.sources.clip, { node: load, slot: 1 });
  assert.deepEqual(found.sources.latent, { node: empty, slot: 0 });
  assert.equal(found.decode, free);
  assert.deepEqual([found.missing, found.several, found.needsDecode], [[], [], false]);
});

test("a decode that is used already is left to its sampler", () => {
  const found = planWiring([loader(), latent(), decode(5)]);
  assert.equal(found.decode, null);
  assert.equal(found.needsDecode, true);
});

test("several of one are the user's to choose from, bypassed ones do not count", () => {
  const found = planWiring([loader(), loader(), latent()]);
  assert.deepEqual(found.several, ["model", "clip", "vae"]);
  assert.equal(found.needsDecode, false);
  const quiet = { ...loader(), mode: 4 };
  assert.deepEqual(planWiring([loader(), quiet]).several, []);
});

test("an empty graph gets all of it, from the files that are there", () => {
  const { missing } = planWiring([]);
  const whole = planAdditions(missing, FILES, { kind: "checkpoints", name: "a" });
  assert.deepEqual(types(whole), ["CheckpointLoaderSimple", "EmptyLatentImage"]);
  const split = planAdditions(missing, FILES, { kind: "diffusion_models", name: "u" });
  assert.deepEqual(types(split), ["UNETLoader", "CLIPLoader", "VAELoader", "EmptyLatentImage"]);
  assert.deepEqual(split.lacking, []);
  assert.deepEqual(split.additions[0].values, { unet_name: "u" });
  const bare = planAdditions(missing, NONE, null);
  assert.deepEqual(types(bare), ["EmptyLatentImage"]);
  assert.deepEqual(bare.lacking, ["model", "clip", "vae"]);
});

test("a new latent and loader have the values that the model's family asks for", () => {
  const { missing } = planWiring([]);
  const { additions } = planAdditions(missing, FILES, B, ["EmptySD3LatentImage", 1328, 832]);
  assert.deepEqual(additions.map(({ type, values }) => [type, values]), [
    ["CheckpointLoaderSimple", { ckpt_name: "b" }],
    ["EmptySD3LatentImage", { width: 1328, height: 832 }],
  ]);
});

test("the model's file is the loader's in the graph, else the one that is chosen", () => {
  const widgets = [{ name: "ckpt_name", value: "mine" }];
  const own = planWiring([{ ...loader(), widgets }]);
  assert.deepEqual(modelFile(own, B), { kind: "checkpoints", name: "mine" });
  assert.deepEqual(modelFile(planWiring([]), B), B);
  assert.equal(modelFile(planWiring([]), null), null);
  assert.equal(modelFile(planWiring([loader(), loader()]), B), null);
});

test("all models are offered where the graph has none", () => {
  const names = (nodes, files) => modelChoices(planWiring(nodes), files).map(({ name }) => name);
  assert.deepEqual(names([], { ...FILES, checkpoints: ["a", "b"] }), ["a", "b", "u"]);
  assert.deepEqual(names([], NONE), []);
  for (const nodes of [[loader()], [loader(), loader()]]) assert.deepEqual(names(nodes, FILES), []);
});

test("a new place is the wanted one where it is free, else the nearest beside what is there", () => {
  assert.deepEqual(freePlace([0, 0, 100, 100], [[300, 0, 50, 50]]), [0, 0]);
  assert.deepEqual(freePlace([0, 0, 100, 100], [[-90, -500, 100, 900]]), [50, 0]);
  const taken = [[0, 0, 200, 200], [0, 260, 200, 200], [-400, 0, 300, 700]];
  const [x, y] = freePlace([0, 100, 150, 300], taken);
  assert.ok(!taken.some((box) => overlap([x, y, 150, 300], box)));
});
