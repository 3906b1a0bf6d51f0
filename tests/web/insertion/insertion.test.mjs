import assert from "node:assert/strict";
import { test } from "node:test";

import { FLOOR, FULL_STRENGTH, GUIDED_STRENGTH } from "../../../web/js/lib/core.js";
import { isSampler } from "../../../web/js/lib/graph/samplers.js";
import {
  isOffered, nextSteps, nodesAmong, onlySampler, planInsertion, samplersOf, startOf,
  wholeOf,
} from "../../../web/js/lib/insertion/insertion.js";

const OUTSIDE = -10;

/** A graph of the host's shape: nodes by id, links [from, slot, to, input name]. */
function graph(nodes, links) {
  const made = { nodes, table: new Map(), getNodeById: (id) => nodes.find((n) => n.id === id) };
  made.getLink = (id) => made.table.get(id);
  links.forEach(([from, slot, to, name], index) => {
    const id = index + 1;
    made.table.set(id, { id, origin_id: from, origin_slot: slot, target_id: to });
    if (to > 0) made.getNodeById(to).inputs.find((input) => input.name === name).link = id;
    if (from > 0) (made.getNodeById(from).outputs[slot].links ??= []).push(id);
  });
  for (const node of nodes) node.graph = made;
  return made;
}

const slot = (text) => {
  const [name, type] = text.split(":");
  return { name, type, link: null };
};
const node = (id, type, inputs, outputs, widgets = {}) => ({
  id, type, mode: 0, inputs: inputs.map(slot), outputs: outputs.map(slot),
  widgets: Object.entries(widgets).map(([name, value]) => ({ name, value })),
});
const loader = (id) =>
  node(id, "CheckpointLoaderSimple", [], ["MODEL:MODEL", "CLIP:CLIP", "VAE:VAE"], { ckpt_name: "a" });
const lora = (id, values) =>
  node(id, "LoraLoader", ["model:MODEL", "clip:CLIP"], ["MODEL:MODEL", "CLIP:CLIP"], values);
const text = (id, value) =>
  node(id, "CLIPTextEncode", ["clip:CLIP", "text:STRING"], ["CONDITIONING:CONDITIONING"], { text: value });
const SAMPLES = ["model:MODEL", "positive:CONDITIONING", "negative:CONDITIONING", "latent_image:LATENT"];
const sampler = (id, type = "KSampler") => node(id, type, SAMPLES, ["LATENT:LATENT"]);
const guider = (id, type = "CFGGuider") => node(id, type, SAMPLES.slice(0, 3), ["GUIDER:GUIDER"]);
const control = (id) =>
  node(id, "ControlNetApplyAdvanced", ["positive:CONDITIONING", "negative:CONDITIONING"],
    ["positive:CONDITIONING", "negative:CONDITIONING"]);

/** Loader 1, texts 2 and 3, and a sampler 4 that they feed. */
function simple(one = sampler(4), links = []) {
  const nodes = [loader(1), text(2, "a dog"), text(3, "ugly"), one];
  const all = [
    [1, 1, 2, "clip"], [1, 1, 3, "clip"], [1, 0, 4, "model"], [2, 0, 4, "positive"],
    [3, 0, 4, "negative"], ...links,
  ];
  return { nodes, graph: graph(nodes, all), one };
}

const only = (samplers) => {
  const { fusions, refused } = planInsertion(samplers, []);
  assert.equal(fusions.length, 1);
  assert.deepEqual(refused, []);
  return fusions[0];
};

test("the Router gets what fed the sampler, and the positive text", () => {
  const { one, nodes } = simple();
  const fusion = only([one]);
  assert.deepEqual([fusion.model.id, fusion.model.slot], [1, 0]);
  assert.deepEqual([fusion.clip.id, fusion.clip.slot], [1, 1]);
  assert.equal(fusion.prompt.node, nodes[1]);
  assert.equal(fusion.prompt.text, "a dog");
  assert.equal(fusion.prompt.textFeed, null);
  assert.deepEqual(fusion.prompt.cleaned, []);
  assert.deepEqual(fusion.positives, [{ node: one, index: 1 }]);
  assert.deepEqual(fusion.targets, [{ node: one, as: "CRAFTACFGKSampler" }]);
});

test("LoRA loaders stay before the Router", () => {
  const nodes = [loader(1), lora(2), lora(3), text(4, "x"), sampler(5)];
  graph(nodes, [
    [1, 0, 2, "model"], [1, 1, 2, "clip"], [2, 0, 3, "model"], [2, 1, 3, "clip"], [3, 1, 4, "clip"],
    [3, 0, 5, "model"], [4, 0, 5, "positive"],
  ]);
  const fusion = only([nodes[4]]);
  assert.deepEqual([fusion.model.id, fusion.clip.id], [3, 3]);
});

test("a guider becomes an ACFG Guider, other samplers stay themselves", () => {
  assert.equal(only([simple(guider(4)).one]).targets[0].as, "CRAFTACFGGuider");
  for (const type of ["KSamplerAdvanced", "SamplerCustom", "CRAFTACFGKSampler"]) {
    assert.equal(only([simple(sampler(4, type)).one]).targets[0].as, null);
  }
});

test("a ControlNet between text and sampler keeps its place", () => {
  const nodes = [loader(1), text(2, "a dog"), text(3, "ugly"), control(4), sampler(5)];
  graph(nodes, [
    [1, 1, 2, "clip"], [1, 1, 3, "clip"], [2, 0, 4, "positive"], [3, 0, 4, "negative"],
    [1, 0, 5, "model"], [4, 0, 5, "positive"], [4, 1, 5, "negative"],
  ]);
  const fusion = only([nodes[4]]);
  assert.deepEqual(fusion.positives, [{ node: nodes[3], index: 0 }]);
  assert.equal(fusion.prompt.text, "a dog");
});

test("an encoder with more inputs than text takes the clean prompt, where its texts agree", () => {
  const encoder = node(2, "CLIPTextEncodeSDXL",
    ["clip:CLIP", "width:INT", "text_g:STRING", "text_l:STRING"], ["CONDITIONING:CONDITIONING"],
    { width: 1024, text_g: "a dog", text_l: "a dog" });
  const nodes = [loader(1), encoder, sampler(4)];
  graph(nodes, [[1, 1, 2, "clip"], [1, 0, 4, "model"], [2, 0, 4, "positive"]]);
  const fusion = only([nodes[2]]);
  assert.deepEqual(fusion.prompt.cleaned, [2, 3]);
  assert.deepEqual(fusion.positives, []);
  encoder.widgets[2].value = "another text";
  assert.deepEqual(only([nodes[2]]).prompt.cleaned, [2]);
  encoder.widgets[2].value = "";
  assert.deepEqual(only([nodes[2]]).prompt.cleaned, [2, 3]);
});

test("a linked text stays linked", () => {
  const { nodes, graph: all, one } = simple();
  all.table.set(90, { id: 90, origin_id: 8, origin_slot: 0, target_id: 2 });
  nodes[1].inputs[1].link = 90;
  const { prompt } = only([one]);
  assert.deepEqual([prompt.textFeed.id, prompt.textFeed.slot], [8, 0]);
});

test("in a subgraph, its own inputs feed the Router", () => {
  const nodes = [text(2, "a dog"), sampler(4)];
  graph(nodes, [
    [OUTSIDE, 0, 2, "clip"], [OUTSIDE, 1, 4, "model"], [2, 0, 4, "positive"],
  ]);
  const fusion = only([nodes[1]]);
  assert.deepEqual([fusion.model.id, fusion.model.slot], [OUTSIDE, 1]);
  assert.deepEqual([fusion.clip.id, fusion.clip.slot], [OUTSIDE, 0]);
});

test("a loader stands for the samplers that its model reaches, which share a Router", () => {
  const second = sampler(5, "KSamplerAdvanced");
  const nodes = [loader(1), text(2, "a dog"), sampler(4), second, lora(6)];
  graph(nodes, [
    [1, 1, 2, "clip"], [1, 0, 6, "model"], [6, 0, 4, "model"], [6, 0, 5, "model"],
    [2, 0, 4, "positive"], [2, 0, 5, "positive"],
  ]);
  const samplers = samplersOf([nodes[0]]);
  assert.deepEqual(new Set(samplers), new Set([nodes[2], second]));
  const fusion = only(samplers);
  assert.deepEqual(fusion.targets.map(({ as }) => as).sort(), ["CRAFTACFGKSampler", null].sort());
  assert.equal(fusion.positives.length, 2);
});

test("samplers with other texts get Routers of their own", () => {
  const nodes = [loader(1), text(2, "a dog"), text(3, "a cat"), sampler(4), sampler(5)];
  graph(nodes, [
    [1, 1, 2, "clip"], [1, 1, 3, "clip"], [1, 0, 4, "model"], [1, 0, 5, "model"],
    [2, 0, 4, "positive"], [3, 0, 5, "positive"],
  ]);
  const { fusions } = planInsertion(samplersOf([nodes[0]]), []);
  assert.deepEqual(fusions.map(({ prompt }) => prompt.text).sort(), ["a cat", "a dog"]);
});

test("a node that samples with a guider stands for the guider", () => {
  const advanced = node(7, "SamplerCustomAdvanced", ["guider:GUIDER"], ["output:LATENT"]);
  const nodes = [loader(1), text(2, "x"), guider(4), advanced];
  graph(nodes, [
    [1, 1, 2, "clip"], [1, 0, 4, "model"], [2, 0, 4, "positive"], [4, 0, 7, "guider"],
  ]);
  assert.deepEqual(samplersOf([advanced]), [nodes[2]]);
  assert.ok(isOffered(advanced) && isOffered(nodes[0]) && !isOffered(nodes[1]));
  assert.ok(isSampler(nodes[2]) && !isSampler(advanced) && !isSampler(nodes[0]));
});

test("a loop of models ends", () => {
  const nodes = [lora(1), lora(2)];
  graph(nodes, [[1, 0, 2, "model"], [2, 0, 1, "model"]]);
  assert.deepEqual(samplersOf(nodes), []);
});

function refuses(samplers, pattern) {
  assert.throws(() => planInsertion(samplers, []), (error) => {
    assert.equal(error.name, "CraftError");
    assert.equal(error.message.split(/(?<=\.) /).length, 3);
    assert.match(error.message, pattern);
    return true;
  });
}

test("a sampler that a Router feeds already is left alone, however far behind it is", () => {
  const router = node(6, "CRAFTRouter", ["model:MODEL"], ["model:MODEL"]);
  router.title = "My Router";
  const nodes = [loader(1), text(2, "x"), router, lora(7), sampler(4)];
  graph(nodes, [
    [1, 1, 2, "clip"], [1, 0, 6, "model"], [6, 0, 7, "model"], [7, 0, 4, "model"],
    [2, 0, 4, "positive"],
  ]);
  refuses([nodes[4]], /My Router feeds KSampler already/);
});

test("what lacks a link, or a text of its own in the graph, is refused with a reason", () => {
  refuses([], /no sampler here/);
  const { nodes, one } = simple();
  nodes[1].inputs[0].link = null;
  refuses([one], /linked to clip of CLIPTextEncode/);
  one.inputs[1].link = null;
  refuses([one], /linked to positive of KSampler/);
  one.inputs[0].link = null;
  refuses([one], /linked to model of KSampler/);
  const inside = sampler(4);
  graph([inside], [[OUTSIDE, 0, 4, "model"], [OUTSIDE, 1, 4, "positive"]]);
  refuses([inside], /not encoded in this graph/);
});

test("several prompts in one conditioning are not guessed between", () => {
  const both = node(5, "ConditioningCombine",
    ["conditioning_1:CONDITIONING", "conditioning_2:CONDITIONING"], ["CONDITIONING:CONDITIONING"]);
  const nodes = [loader(1), text(2, "x"), text(3, "y"), both, sampler(4)];
  graph(nodes, [
    [2, 0, 5, "conditioning_1"], [3, 0, 5, "conditioning_2"], [1, 0, 4, "model"],
    [5, 0, 4, "positive"],
  ]);
  refuses([nodes[4]], /of several/);
});

test("of several samplers those that can be are planned, and the reason is given for each of the others", () => {
  const { nodes, graph: all, one } = simple();
  const loose = sampler(9);
  nodes.push(loose);
  loose.graph = all;
  const { fusions, refused } = planInsertion([one, loose], []);
  assert.equal(fusions.length, 1);
  assert.match(refused[0], /Nothing is linked to model/);
});

test("without a selection the only sampler is meant, and of several none", () => {
  const { nodes, one } = simple();
  assert.deepEqual(onlySampler(nodes), [one]);
  assert.throws(() => onlySampler([...nodes, sampler(8)]), /2 samplers are in this graph/);
});

test("of a selection the nodes count, not its groups and reroutes", () => {
  const { one } = simple();
  const [group, reroute] = [{ title: "Group", nodes: [one] }, { id: 3, linkIds: new Set() }];
  assert.deepEqual(nodesAmong(new Set([group, one, reroute])), [one]);
  assert.deepEqual(nodesAmong(new Set([group])), []);
});

test("samplers behind one ControlNet give its positive input to the Router once", () => {
  const nodes = [loader(1), text(2, "a dog"), text(3, "ugly"), control(4), sampler(5), sampler(6)];
  const shared = [5, 6].flatMap((id) => [
    [1, 0, id, "model"], [4, 0, id, "positive"], [4, 1, id, "negative"],
  ]);
  graph(nodes, [
    [1, 1, 2, "clip"], [1, 1, 3, "clip"], [2, 0, 4, "positive"], [3, 0, 4, "negative"], ...shared,
  ]);
  const fusion = only([nodes[4], nodes[5]]);
  assert.equal(fusion.targets.length, 2);
  assert.deepEqual(fusion.positives, [{ node: nodes[3], index: 0 }]);
});

test("strengths start lower where ACFG multiplies them by cfg, floors are the same", () => {
  const start = (one) => startOf(only([simple(one).one]));
  const [guided, full] = [GUIDED_STRENGTH, FULL_STRENGTH].map((strength) => ({
    strength, floor: FLOOR, clock: "steps",
  }));
  assert.ok(guided.strength < full.strength);
  assert.deepEqual(start(sampler(4)), guided);
  assert.deepEqual(start(guider(4)), guided);
  assert.deepEqual(start(sampler(4, "CRAFTACFGKSampler")), guided);
  assert.deepEqual(start(sampler(4, "SamplerCustom")), full);
  const standard = sampler(4, "CRAFTACFGKSampler");
  standard.widgets = [{ name: "asymmetric", value: false }];
  assert.deepEqual(start(standard), full);
  const withMenu = (guidance) => {
    const one = sampler(4, "CRAFTACFGKSampler");
    one.widgets = [{ name: "asymmetric", value: true }, { name: "guidance", value: guidance }];
    return start(one);
  };
  assert.deepEqual(withMenu("acfg/cfg"), guided);
  assert.deepEqual(withMenu("role"), full);
});

/** Sigmas 20 of which a SplitSigmas 21 makes two parts, and a reroute 22 behind the second. */
const parts = (type = "SplitSigmas") => [
  node(20, "BasicScheduler", ["model:MODEL"], ["SIGMAS:SIGMAS"]),
  node(21, type, ["sigmas:SIGMAS"], ["high_sigmas:SIGMAS", "low_sigmas:SIGMAS"]),
  node(22, "Reroute", [":*"], [":*"]),
];

test("a sampler that makes a part of a picture has the model's clock", () => {
  assert.equal(startOf(only([simple(sampler(4, "KSamplerAdvanced")).one])).clock, "model");
  const clocks = { SplitSigmas: "model", SplitSigmasDenoise: "model", FlipSigmas: "steps" };
  for (const [type, clock] of Object.entries(clocks)) {
    const custom = node(4, "SamplerCustom", [...SAMPLES, "sigmas:SIGMAS"], ["output:LATENT"]);
    const nodes = [loader(1), text(2, "x"), custom, ...parts(type)];
    graph(nodes, [
      [1, 1, 2, "clip"], [1, 0, 4, "model"], [2, 0, 4, "positive"], [20, 0, 21, "sigmas"],
      [21, 1, 22, ""], [22, 0, 4, "sigmas"],
    ]);
    assert.equal(startOf(only([custom])).clock, clock);
  }
});

test("a guider has the model's clock where one that samples with it has a part of the sigmas", () => {
  const advanced = (id) =>
    node(id, "SamplerCustomAdvanced", ["guider:GUIDER", "sigmas:SIGMAS"], ["output:LATENT"]);
  for (const [from, clock] of [[21, "model"], [20, "steps"]]) {
    const nodes = [loader(1), text(2, "x"), guider(4), advanced(7), advanced(8), ...parts()];
    graph(nodes, [
      [1, 1, 2, "clip"], [1, 0, 4, "model"], [2, 0, 4, "positive"], [4, 0, 7, "guider"],
      [4, 0, 8, "guider"], [20, 0, 21, "sigmas"], [20, 0, 7, "sigmas"], [from, 0, 8, "sigmas"],
    ]);
    assert.equal(startOf(only([nodes[2]])).clock, clock);
  }
});

/** Two KSamplerAdvanced in a row, 4 and 5, with these widgets' values. */
function inARow(first, second = first) {
  const stages = [first, second].map((values, index) => {
    const made = sampler(4 + index, "KSamplerAdvanced");
    made.inputs.push(slot("steps:INT"));
    made.widgets = Object.entries(values).map(([name, value]) => ({ name, value }));
    return made;
  });
  const nodes = [loader(1), text(2, "x"), ...stages, node(9, "PrimitiveInt", [], ["INT:INT"])];
  const links = [4, 5].flatMap((id) => [[1, 0, id, "model"], [2, 0, id, "positive"]]);
  return { nodes, stages, links: [[1, 1, 2, "clip"], ...links] };
}

test("samplers in a row have the whole run's sigmas from one scheduler, as their settings are", () => {
  const values = { steps: 12, scheduler: "karras", sampler_name: "euler" };
  const whole = (...both) => {
    const { nodes, stages, links } = inARow(...both);
    graph(nodes, links);
    const fusion = only(stages);
    assert.equal(/differ in steps or scheduler/.test(nextSteps([fusion])), !wholeOf(fusion));
    return wholeOf(fusion);
  };
  const found = { feed: null, values: { steps: 12, scheduler: "karras" }, feeds: {} };
  assert.deepEqual(whole(values), found);
  assert.equal(whole({ ...values, sampler_name: "uni_pc" }).values.steps, 13);
  assert.equal(whole(values, { ...values, steps: 20 }), null);
  assert.equal(whole(values, { ...values, scheduler: "normal" }), null);
  assert.equal(wholeOf(only([simple().one])), null);
});

test("steps that are linked to samplers in a row are linked to the scheduler too", () => {
  const { nodes, stages, links } = inARow({ steps: 12, scheduler: "karras", sampler_name: "dpm_2" });
  graph(nodes, [...links, [9, 0, 4, "steps"], [9, 0, 5, "steps"]]);
  const { values, feeds } = wholeOf(only(stages));
  assert.deepEqual([values, feeds.steps.id], [{ scheduler: "karras" }, 9]);
});

test("parts of split sigmas have the whole from where they were split first", () => {
  const custom = (id) => node(id, "SamplerCustom", [...SAMPLES, "sigmas:SIGMAS"], ["output:LATENT"]);
  const again = node(23, "SplitSigmas", ["sigmas:SIGMAS"], ["high_sigmas:SIGMAS", "low_sigmas:SIGMAS"]);
  const nodes = [loader(1), text(2, "x"), custom(4), custom(5), ...parts(), again];
  const links = [4, 5].flatMap((id) => [[1, 0, id, "model"], [2, 0, id, "positive"]]);
  graph(nodes, [
    [1, 1, 2, "clip"], ...links, [20, 0, 21, "sigmas"], [21, 0, 4, "sigmas"], [21, 1, 23, "sigmas"],
    [23, 1, 5, "sigmas"],
  ]);
  const { feed } = wholeOf(only([nodes[2], nodes[3]]));
  assert.deepEqual([feed.id, feed.slot], [20, 0]);
});

test("LoRAs that loaders put into the model are named, in their order, unless they do nothing", () => {
  const values = (lora_name, strength_model = 1) => ({ lora_name, strength_model });
  const bypassed = { ...lora(5, values("c.safetensors")), mode: 4 };
  const nodes = [
    loader(1), text(2, "x"), lora(3, values("a.safetensors")), lora(4, values("b.safetensors")),
    bypassed, lora(6, values("d.safetensors", 0)), sampler(7),
  ];
  graph(nodes, [
    [1, 1, 2, "clip"], [2, 0, 7, "positive"], [1, 0, 3, "model"], [3, 0, 4, "model"],
    [4, 0, 5, "model"], [5, 0, 6, "model"], [6, 0, 7, "model"],
  ]);
  const fusion = only([nodes[6]]);
  assert.deepEqual(fusion.loras, ["a.safetensors", "b.safetensors"]);
  assert.match(nextSteps([fusion]), /Loaders before the Router put a\.safetensors, b\.safetensors on all rows/);
  assert.deepEqual(only([simple().one]).loras, []);
});

test("samplers of the same model that are left plain are named", () => {
  const router = node(20, "CRAFTRouter", ["model:MODEL"], ["model:MODEL"]);
  const ids = [4, 5, 6, 7, 8, 9];
  const [one, second, behind, muted, routed, other] = ids.map((id) => sampler(id));
  [second.title, behind.title, muted.mode] = ["Hires", "Behind a LoRA", 2];
  const nodes = [
    loader(1), text(2, "x"), loader(3), lora(10), router, one, second, behind, muted, routed, other,
  ];
  const models = [[1, 4], [1, 5], [1, 10], [10, 6], [1, 7], [1, 20], [20, 8], [3, 9]];
  graph(nodes, [
    [1, 1, 2, "clip"], ...ids.map((id) => [2, 0, id, "positive"]),
    ...models.map(([from, to]) => [from, 0, to, "model"]),
  ]);
  const fusion = only([one]);
  assert.deepEqual(fusion.plain, ["Hires", "Behind a LoRA"]);
  assert.match(nextSteps([fusion]), /on the same model: Hires, Behind a LoRA;/);
  const { fusions } = planInsertion([one, second, behind], []);
  assert.deepEqual(fusions.map(({ plain }) => plain), [[], []]);
});

test("in a subgraph, samplers of the same outer model that are left plain are named", () => {
  const nodes = [text(2, "x"), sampler(4), sampler(5), sampler(6)];
  graph(nodes, [
    [OUTSIDE, 0, 2, "clip"], [OUTSIDE, 1, 4, "model"], [OUTSIDE, 1, 5, "model"],
    [OUTSIDE, 2, 6, "model"], ...[4, 5, 6].map((id) => [2, 0, id, "positive"]),
  ]);
  [nodes[2].title, nodes[3].title] = ["Same", "Other"];
  assert.deepEqual(only([nodes[1]]).plain, ["Same"]);
});

test("the message fits the guidance, and leaves out the least important when there is much to say", () => {
  const steps = (one) => nextSteps([only([one])]);
  const acfg = /multiplies the LoRAs by cfg, so their strengths start low\./;
  const without = /guide as they did, without ACFG\./;
  assert.match(steps(simple().one), acfg);
  assert.doesNotMatch(steps(simple().one), without);
  assert.match(steps(simple(sampler(4, "KSamplerAdvanced")).one), without);
  assert.doesNotMatch(steps(simple(sampler(4, "KSamplerAdvanced")).one), acfg);
  assert.doesNotMatch(steps(simple(sampler(4, "CRAFTACFGKSampler")).one), without);
  const fusion = { ...only([simple().one]), loras: ["a"], plain: ["b"] };
  fusion.targets.push({ node: sampler(9, "BasicGuider"), as: null });
  assert.equal(nextSteps([fusion]).match(/\.(?= |$)/g).length, 4);
  assert.match(nextSteps([fusion]), acfg);
});
