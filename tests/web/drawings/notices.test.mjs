import assert from "node:assert/strict";
import { test } from "node:test";

import { GUIDED_WEIGHT, MOST_GUIDED_WEIGHT } from "../../../web/js/lib/core.js";
import { parse } from "../../../web/js/lib/drawings/markers.js";
import {
  actingLoras, chosenLoras, dialNotices, guidanceNotices, isAsInserted, sameNotices, sizeNotices,
  sweepNotices, wordNotices,
} from "../../../web/js/lib/drawings/notices.js";
import { isGuided, replaceable } from "../../../web/js/lib/graph/samplers.js";
import { guidedStrength } from "../../../web/js/lib/guidance.js";
import { linked } from "../linked.mjs";

const PAIR = chosenLoras({ content: "dog", style: "ink" }, []);
const sampler = (type, values, id = 7) => ({
  node: { id, type, title: type, widgets: Object.entries(values).map(([name, value]) => ({ name, value })) },
  hosts: [],
});
const acfg = (values) =>
  sampler("CRAFTACFGKSampler", { cfg: 8, asymmetric: true, guidance: "acfg/cfg", ...values });
const texts = (notices) => notices.map(({ text }) => text);

test("strengths that ACFG multiplies too far are named with what to set", () => {
  const [notice] = guidanceNotices([acfg({})], PAIR, { content: 1, style: 1 });
  assert.match(notice.text, /Strength 1 times cfg 8 is 8; above 2, pictures burn/);
  const fitting = guidedStrength(8);
  assert.deepEqual(notice.strengths, { content_strength: fitting, style_strength: fitting });
  assert.ok(notice.warns && fitting * 8 <= MOST_GUIDED_WEIGHT);
});

test("what the notice sets, and what the benchmark bears, is not warned of", () => {
  for (const cfg of [1.5, 2, 3, 4, 5, 7, 8, 12, 20]) {
    const fitting = guidedStrength(cfg);
    const dials = { content: fitting, style: fitting };
    assert.deepEqual(guidanceNotices([acfg({ cfg })], PAIR, dials), []);
    assert.ok(Math.abs(fitting * cfg - GUIDED_WEIGHT) <= 0.025 * cfg + 1e-9);
  }
  assert.deepEqual(guidanceNotices([acfg({ cfg: 4 })], PAIR, { content: 0.5, style: 0.5 }), []);
});

test("standard guidance is not warned of, role weights are", () => {
  const full = { content: 1, style: 1 };
  assert.deepEqual(guidanceNotices([acfg({ asymmetric: false })], PAIR, full), []);
  const role = {
    guidance: "role", "guidance.weight": 1.5, "guidance.content_weight": 1,
    "guidance.style_weight": 1,
  };
  assert.deepEqual(guidanceNotices([acfg(role)], PAIR, full), []);
  const [notice] = guidanceNotices([acfg({ ...role, "guidance.style_weight": 2 })], PAIR, full);
  assert.deepEqual(Object.keys(notice.strengths), ["style_strength"]);
  assert.match(notice.text, /times weight 2\.5 is 2\.5/);
});

test("of several samplers the worst is named, and a further LoRA's own strength counts", () => {
  const both = [acfg({ cfg: 4 }), acfg({ cfg: 8 })];
  assert.match(guidanceNotices(both, PAIR, { content: 1, style: 0 })[0].text, /cfg 8/);
  const extra = { name: "x", role: "content", strength: 5, own: false };
  const dials = { content: 0.5, style: 0.5 };
  const [notice] = guidanceNotices([acfg({ cfg: 3 })], [...PAIR, extra], dials);
  assert.deepEqual(Object.keys(notice.strengths), ["content_strength"]);
});

test("what the button sets mends the strength, whatever a LoRA's own and the dial's sign", () => {
  const role = "content";
  for (const strength of [0.5, 1, 2, 3, -4, 10])
    for (const cfg of [3, 8, 12, 20])
      for (const dial of [0.5, 1, 1.5, -1]) {
        const loras = [...PAIR, { name: "x", role, strength, own: false }];
        const samplers = [acfg({ cfg })];
        const [notice] = guidanceNotices(samplers, loras, { content: dial, style: 0 });
        if (!notice) continue;
        const set = notice.strengths.content_strength;
        assert.ok(set !== dial && Math.sign(set) === Math.sign(dial), `${strength} ${cfg} ${dial}`);
        assert.deepEqual(guidanceNotices(samplers, loras, { content: set, style: 0 }), []);
      }
});

test("the text names the strength, the button the dial", () => {
  const extra = { name: "x", role: "content", strength: 2, own: false };
  const dials = { content: 0.5, style: -1 };
  const [notice] = guidanceNotices([acfg({ cfg: 3 })], [...PAIR, extra], dials);
  assert.match(notice.text, /With content_strength, style_strength, bring the strength to 0\.5/);
  assert.deepEqual(notice.strengths, { content_strength: 0.25, style_strength: -0.5 });
  assert.equal(notice.button, "Set to 0.25, -0.5");
});

test("unknown values are not guessed at", () => {
  assert.deepEqual(guidanceNotices([acfg({ cfg: undefined })], PAIR, { content: 1, style: 1 }), []);
  assert.deepEqual(guidanceNotices([acfg({})], PAIR, { content: undefined }), []);
  assert.deepEqual(guidanceNotices([acfg({})], [], { content: 1, style: 1 }), []);
});

test("the host's sampler is named with the offer of ACFG, others without one are named alone", () => {
  const types = ["KSampler", "SamplerCustom", "KSamplerAdvanced", "DualCFGGuider", "SamplerCustom"];
  const plain = types.map((type, at) => sampler(type, { cfg: 8 }, 3 + at));
  const [notice, other, ...more] = guidanceNotices(plain, PAIR, { content: 1, style: 1 });
  assert.match(notice.text, /^KSampler: standard CFG/);
  assert.deepEqual([notice.samplers, notice.button, more], [[3], "Use ACFG", []]);
  assert.match(other.text, /^SamplerCustom, KSamplerAdvanced, DualCFGGuider: standard CFG/);
  assert.deepEqual([other.samplers, other.button], [undefined, undefined]);
});

test("a node with a negative prompt guides, whatever it calls the positive ones", () => {
  const node = (type, ...names) => ({
    inputs: [{ name: "model", type: "MODEL" }, ...names.map((name) => ({ name, type: "CONDITIONING" }))],
    outputs: [{ type }],
  });
  assert.ok(isGuided(node("GUIDER", "cond1", "cond2", "negative")));
  assert.ok(isGuided(node("LATENT", "positive", "negative")));
  assert.ok(!isGuided(node("GUIDER", "conditioning")) && !isGuided(node("IMAGE", "positive", "negative")));
});

test("a sampler in a subgraph that is placed twice is offered ACFG once", () => {
  const plain = sampler("KSampler", { cfg: 8 }, 3);
  const ours = acfg({ cfg: 1 });
  const placed = [plain, { ...plain, hosts: [{ id: 9 }] }, ours];
  assert.deepEqual(replaceable(placed), [plain.node]);
  const [notice] = guidanceNotices(placed, PAIR, { content: 1, style: 1 });
  assert.deepEqual(notice.samplers, [3]);
});

const widgets = (values) => Object.entries(values).map(([name, value]) => ({ name, value }));
const swept = (lines, values, of = {}, type = "CRAFTACFGKSampler", acting = () => PAIR) => {
  const node = {
    id: 1, type: "CRAFTMethodSweep", inputs: [],
    widgets: widgets({ methods: lines.join("\n"), cfgs: "2", asymmetric: true, ...values }),
  };
  const names = ["asymmetric", "cfg"].filter((name) => !(name in of));
  const behind = {
    id: 7, type, title: type, widgets: widgets(of), inputs: names.map((name) => ({ name, link: 1 })),
  };
  linked([node, behind]);
  const dials = { content: 0.75, style: 0.75 };
  return sweepNotices({ node, hosts: [] }, [{ node: behind, hosts: [] }], acting, dials);
};

test("of a sweep's settings those that guidance takes too far are counted, the farthest is named", () => {
  const lines = ["craft", "direct: guidance = cfg   # two loaders", "", "k_lora: gamma = 1"];
  assert.deepEqual(swept(lines), []);
  const [notice] = swept(lines, { cfgs: "2, 4, 8" });
  assert.match(notice.text, /^LoRAs are guided too far in 4 of 9 settings, farthest in craft, cfg 8\. /);
  assert.match(notice.text, /Strength 0\.75 times cfg 8 is 6; above 2, pictures burn\./);
  const fitting = guidedStrength(8);
  assert.deepEqual(notice.strengths, { content_strength: fitting, style_strength: fitting });
  assert.ok(notice.warns && notice.button);
  assert.deepEqual(swept(lines, { cfgs: "8", asymmetric: false }), []);
});

test("a sweep's lines with weights are counted, and what a sampler sets itself goes before them", () => {
  const role = "direct: guidance = role, weight = 3, style_weight = 0.5";
  const [notice] = swept(["craft", role], { asymmetric: false });
  assert.match(notice.text, /^LoRAs are guided too far in 1 of 2 settings, farthest in direct, guidance = role/);
  assert.match(notice.text, /times weight 3 is 2\.25/);
  assert.deepEqual(Object.keys(notice.strengths), ["content_strength"]);
  assert.deepEqual(swept(["craft"], { cfgs: "8" }, { cfg: 2 }), []);
  assert.match(swept(["craft"], {}, { cfg: 8 })[0].text, /cfg 8/);
  assert.deepEqual(swept(["craft"], { cfgs: "8" }, { asymmetric: false }), []);
  assert.match(swept(["craft"], {}, { cfg: 8 }, "KSampler")[0].text, /cfg 8/); // the rule is on the MODEL
  const own = { cfg: 2, guidance: "role", "guidance.weight": 3, "guidance.content_weight": 1, "guidance.style_weight": 1 };
  assert.match(swept(["craft"], { asymmetric: false }, own)[0].text, /farthest in CRAFTACFGKSampler/);
});

test("of a sweep's settings those count whose LoRAs act by their method", () => {
  const phrases = parse("<c>a dog</c> in ink").phrases;
  const acting = (methods) => actingLoras(PAIR, phrases, !methods.includes("direct"));
  const said = (lines, of) => swept(lines, { cfgs: "8" }, of, "CRAFTACFGKSampler", acting)[0];
  const both = ["content_strength", "style_strength"];
  assert.deepEqual(Object.keys(said(["craft", "k_lora: gamma = 1"]).strengths), both.slice(0, 1));
  assert.match(said(["craft", "k_lora: gamma = 1"]).text, /in 2 of 2 settings/);
  assert.deepEqual(Object.keys(said(["direct"]).strengths), both);
  const own = { cfg: 2, guidance: "role", "guidance.weight": 3, "guidance.content_weight": 1, "guidance.style_weight": 1 };
  assert.deepEqual(Object.keys(said(["craft"], own).strengths), both.slice(0, 1));
  assert.deepEqual(Object.keys(said(["craft", "direct"], own).strengths), both);
  const none = (methods) => actingLoras(PAIR, [], methods.includes("craft"));
  assert.deepEqual(swept(["craft"], { cfgs: "8" }, {}, "CRAFTACFGKSampler", none), []);
  const [one] = swept(["craft", "direct"], { cfgs: "8" }, {}, "CRAFTACFGKSampler", none);
  assert.match(one.text, /in 1 of 2 settings, farthest in direct/);
});

test("what the page cannot read of a sweep is not guessed at", () => {
  assert.deepEqual(swept([], { cfgs: "8" }), []);
  assert.deepEqual(swept(["craft: guidance = role, weight = x"], {}), []);
  assert.deepEqual(swept(["craft"], { cfgs: undefined }), []);
  const [notice] = swept(["craft", "direct: guidance = role, weight = 3"], { cfgs: undefined });
  assert.match(notice.text, /^LoRAs are guided too far in 1 of 2 settings, farthest in direct, guid/);
});

test("a dial at 0 or far up is a line, for a role that has a LoRA", () => {
  assert.deepEqual(texts(dialNotices(PAIR, { content: 0, style: 1.5 })), [
    "content_strength is 0: content is off.",
  ]);
  assert.deepEqual(texts(dialNotices(PAIR, { content: 1, style: -2 })), [
    "style_strength is -2: above 1.5, most LoRAs distort pictures.",
  ]);
  const one = chosenLoras({ content: "dog", style: "none" }, []);
  assert.deepEqual(dialNotices(one, { content: undefined, style: 0 }), []);
});

test("a LoRA acts if its role has a phrase, or its method reads no markers", () => {
  const { phrases } = parse("<c>a dog</c> in ink");
  const roles = (...given) => actingLoras(PAIR, ...given).map(({ role }) => role);
  assert.deepEqual(roles(phrases, true), ["content"]);
  assert.deepEqual(roles([], true), []);
  for (const given of [[phrases, false], [undefined, true]])
    assert.deepEqual(roles(...given), ["content", "style"]);
});

test("a dial of LoRAs that are off is not called too high", () => {
  const acting = actingLoras(PAIR, parse("<c>a dog</c> in ink").phrases, true);
  assert.deepEqual(texts(dialNotices(PAIR, { content: 2, style: 3 }, acting)), [
    "content_strength is 2: above 1.5, most LoRAs distort pictures.",
  ]);
  assert.deepEqual(guidanceNotices([acfg({})], acting, { content: 0.1, style: 3 }), []);
});

test("one file in both roles is a line", () => {
  assert.match(texts(sameNotices(chosenLoras({ content: "a", style: "a" }, [])))[0], /^a is both/);
  assert.deepEqual(sameNotices(PAIR), []);
  const extra = [{ name: "dog", role: "style", strength: 1, own: false }];
  assert.equal(sameNotices([...PAIR, ...extra]).length, 1);
});

test("a LoRA whose words its phrase lacks is a line, one of its words is enough", () => {
  const words = (name) => ({ dog: ["sks", "dogphoto"], ink: [] })[name];
  const said = (prompt, marked = true) => {
    const { phrases } = parse(prompt);
    return texts(wordNotices(PAIR, words, prompt, phrases, marked));
  };
  assert.deepEqual(said("<c>a dog</c> in <s>sks ink</s>"), [
    "dog was trained with “sks, dogphoto”, which is not in the content phrase.",
  ]);
  for (const prompt of ["<c>a SKS dog</c>", "in <s>ink</s>"]) assert.deepEqual(said(prompt), []);
  assert.match(said("a dog", false)[0], /not in the prompt/);
  assert.deepEqual(said("a sks dog", false), []);
  assert.deepEqual(wordNotices(PAIR, words, null, [], true), []);
});

test("the line about words offers to put those that it names", () => {
  const words = () => ["sks", "zwx", "qrt", "wuf"];
  const [notice] = wordNotices(PAIR, words, "a", [{ role: "content", text: "a dog" }], true);
  assert.deepEqual(notice.words, { role: "content", words: ["sks", "zwx", "qrt"] });
  assert.equal(notice.button, "Put into the prompt");
});

const latent = (width, height, inserted = [512, 512], inputs = []) => ({
  title: "Empty Latent Image", inputs, properties: inserted ? { craft_lora_size: inserted } : {},
  widgets: [{ name: "width", value: width }, { name: "height", value: height }],
});

test("an inserted latent of another model's size is a line, one that the user has set is none", () => {
  const wanted = ["EmptyLatentImage", 1024, 1024];
  const [notice] = sizeNotices([latent(512, 512)], wanted, "xl.safetensors");
  assert.equal(
    notice.text, "Empty Latent Image is 512 x 512; xl.safetensors was made for 1024 x 1024.",
  );
  assert.deepEqual([notice.button, notice.size], ["Set size to 1024 x 1024", wanted]);
  const linked = latent(512, 512, [512, 512], [{ name: "width", link: 3 }]);
  for (const other of [latent(512, 768), latent(512, 512, null), linked]) {
    assert.ok(!isAsInserted(other));
    assert.deepEqual(sizeNotices([other], wanted, "xl.safetensors"), []);
  }
  assert.deepEqual(sizeNotices([latent(512, 512)], null, "xl.safetensors"), []);
  assert.deepEqual(sizeNotices([latent(1024, 1024, [1024, 1024])], wanted, "x"), []);
});
