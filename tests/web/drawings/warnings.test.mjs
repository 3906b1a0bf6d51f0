import assert from "node:assert/strict";
import { test } from "node:test";

import { parse } from "../../../web/js/lib/drawings/markers.js";
import { path, spoken } from "../../../web/js/lib/drawings/plot.js";
import {
  cfgWarnings,
  layerSetWarnings,
  markerWarnings,
  rolesWithLora,
  usedSet,
} from "../../../web/js/lib/drawings/warnings.js";

test("a chosen LoRA without its marker is warned of, one without a LoRA is not", () => {
  const marked = parse("<c>a fox</c> in ink");
  const both = rolesWithLora({ content_lora: "a", style_lora: "b" }, []);
  assert.deepEqual(markerWarnings(marked, both, undefined), [
    "The prompt has no <s>, so the style LoRA is off.",
  ]);
  const one = rolesWithLora({ content_lora: "a", style_lora: "none" }, []);
  assert.deepEqual(markerWarnings(marked, one, undefined), []);
});

test("an extra branch counts as a LoRA of its role", () => {
  const own = { content_lora: "none", style_lora: "none" };
  assert.deepEqual(rolesWithLora(own, ["style"]), ["style"]);
});

test("a method that listens to no markers is not warned of them", () => {
  const traits = { markers: false, layer_sets: true, pinned: "" };
  assert.deepEqual(markerWarnings(parse("a fox"), ["content"], traits), []);
});

test("a method may have layer sets of its own, or use none", () => {
  const traits = { markers: true, layer_sets: false, pinned: "b-lora" };
  assert.deepEqual(usedSet("all", "b_lora", traits), { used: "b-lora", why: "part of b_lora" });
  const none = { ...traits, pinned: null };
  assert.deepEqual(usedSet("all", "k_lora", none), { used: null, why: "not used by k_lora" });
  assert.deepEqual(usedSet("all", undefined, undefined), { used: "all", why: "" });
});

test("patterns that match nothing are warned of, blocks that a preset lacks are not", () => {
  const sets = { "craft-paper": { unmatched: ["style: x"] }, custom: { unmatched: ["style: y"] } };
  assert.deepEqual(layerSetWarnings("craft-paper", sets), []);
  assert.match(layerSetWarnings("custom", sets)[0], /match no layer of this model: style: y/);
  assert.deepEqual(layerSetWarnings("b-lora", { "b-lora": { error: "No." } }), ["No."]);
  assert.deepEqual(layerSetWarnings(null, sets), []);
  assert.deepEqual(layerSetWarnings("auto", sets), []);
});

test("cfg 1 is warned of with asymmetric guidance alone", () => {
  assert.equal(cfgWarnings(1, true).length, 1);
  assert.match(cfgWarnings(1, true, "acfg/cfg")[0], /choose role in the guidance menu/);
  assert.deepEqual(cfgWarnings(1, true, "role"), []);
  for (const [cfg, asymmetric] of [[1, false], [3, true], [undefined, true], [1, undefined]])
    assert.deepEqual(cfgWarnings(cfg, asymmetric), []);
});

test("a curve goes from the lower left, y upwards", () => {
  const box = { left: 10, top: 20, width: 100, height: 50 };
  assert.equal(path([[0, 0], [0.5, 1], [1, 0.5]], box), "M10 70L60 20L110 45");
  assert.equal(spoken("Content", [1, 0.5, 0]), "Content: 1.00 at first, 0.50 midway, 0.00 at last");
});
