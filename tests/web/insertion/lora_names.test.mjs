import assert from "node:assert/strict";
import { test } from "node:test";

import { findLoras, isPair, namesIn } from "../../../web/js/lib/insertion/lora_names.js";

const LORAS = ["dog.safetensors", "style/ink.safetensors", "a/cat.safetensors", "b/cat.safetensors"];

test("names stand one a line, or between commas", () => {
  assert.deepEqual(namesIn(" dog \r\n\n'ink, black.safetensors'\n"), ["dog", "ink, black.safetensors"]);
  assert.deepEqual(namesIn('"dog", ink,'), ["dog", "ink"]);
  assert.deepEqual(namesIn("  \n "), []);
});

test("a pair is two names of LoRAs, or of weights files", () => {
  assert.ok(isPair(["dog", "ink"], LORAS));
  assert.ok(isPair(["x.safetensors", "y.pt"], LORAS));
  for (const names of [["dog"], ["dog", "ink", "dog"], ["dog", "hello"], ["hello", "world"], []]) {
    assert.ok(!isPair(names, LORAS));
  }
});

test("a name fits with or without folder and extension, in any case and with either slash", () => {
  assert.deepEqual(findLoras(["DOG", "style\\ink"], LORAS), [LORAS[0], LORAS[1]]);
  assert.deepEqual(findLoras(["other/ink.safetensors", "b/cat"], LORAS), [LORAS[1], LORAS[3]]);
  const [windows] = ["style\\ink.safetensors"];
  assert.deepEqual(findLoras(["ink", "style/ink"], [windows]), [windows, windows]);
});

test("a name dropped on a Mac, with accents as letters of their own, fits", () => {
  const [dropped, listed] = ["fa\u0308rg.safetensors", "f\u00e4rg.safetensors"];
  assert.deepEqual(findLoras([dropped, listed], [listed]), [listed, listed]);
  assert.deepEqual(findLoras([listed], [dropped]), [dropped]);
});

test("a name as the server has it is that LoRA, whatever others are alike", () => {
  const alike = [
    ["f\u00e4rg.safetensors", "fa\u0308rg.safetensors"],
    ["Ink.safetensors", "ink.safetensors"],
    ["ink.pt", "ink.safetensors"],
    ["x/ink.pt", "x\\ink.pt"],
  ];
  for (const loras of alike) {
    for (const lora of loras) assert.deepEqual(findLoras([lora], loras), [lora]);
    assert.deepEqual(findLoras(loras, loras), loras);
  }
  assert.throws(() => findLoras(["ink"], alike[2]), /fits several LoRAs: ink\.pt, ink\.safetensors/);
});

test("the same name in the folder itself goes before those in others", () => {
  assert.deepEqual(findLoras(["ink"], ["old/ink.pt", "ink.pt"]), ["ink.pt"]);
});

test("an absent or ambiguous name says which it is", () => {
  assert.throws(() => findLoras(["fox.safetensors", "dog"], LORAS), /no LoRA fox\.safetensors\. .*models\/loras/);
  assert.throws(() => findLoras(["dog", "cat"], LORAS), /a\/cat\.safetensors, b\/cat\.safetensors/);
});
