import assert from "node:assert/strict";
import { afterEach, test } from "node:test";

import { parse } from "../../web/js/lib/drawings/markers.js";
import { sampleCurve } from "../../web/js/lib/drawings/schedule.js";
import { markerWarnings } from "../../web/js/lib/drawings/warnings.js";
import { language, linesOf, say, sayRole, sayValue, speak, wordsOf } from "../../web/js/lib/texts.js";

afterEach(() => speak("en", {}));

test("a text is said in the language spoken, and in English where that has none", () => {
  speak("zh", { "{count} layers": "{count} 层" });
  assert.equal(language(), "zh");
  assert.equal(say("{count} layers", { count: 3 }), "3 层");
  assert.equal(say("{count} steps", { count: 0 }), "0 steps");
  speak("fr", {});
  assert.equal(say("{count} layers", { count: 3 }), "3 layers");
});

test("English is spoken until another language is", () => {
  assert.equal(language(), "en");
  assert.equal(say("layer set"), "layer set");
});

test("a translation may place values elsewhere, more than once or not at all", () => {
  speak("zh", { "{a} before {b}": "{b}, {b}, {a}", "{a} alone": "x" });
  assert.equal(say("{a} before {b}", { a: 1, b: 2 }), "2, 2, 1");
  assert.equal(say("{a} alone", { a: 1 }), "x");
});

test("values are put in as they are, whatever they look like", () => {
  assert.equal(say("{a} {b}", { a: "{b}", b: "$&" }), "{b} $&");
  assert.equal(say("{other} {a}", { a: 1 }), "{other} 1");
  assert.equal(say("{toString} {constructor}"), "{toString} {constructor}");
});

test("a text that is the name of something every object has is only a text", () => {
  speak("zh", {});
  assert.equal(say("constructor"), "constructor");
});

test("a role is called as the language calls it", () => {
  assert.deepEqual(["content", "style"].map(sayRole), ["content", "style"]);
  speak("zh", { content: "内容", style: "风格" });
  assert.deepEqual(["content", "style"].map(sayRole), ["内容", "风格"]);
});

test("a template has its lines, and a menu its words, in the language spoken", () => {
  const options = { cosine: "余弦（cosine）" };
  const nodes = { Node: { inputs: { shape: {}, method_gamma: { options } } } };
  speak("zh", {}, { demo: { One: "一" } }, nodes);
  assert.deepEqual(linesOf("demo"), { One: "一" });
  assert.equal(sayValue("Node", "method.gamma", "cosine"), "余弦（cosine）");
  assert.equal(sayValue("Node", "method.gamma", "constructor"), "constructor");
  assert.equal(sayValue("Node", "method.gamma", null), "");
  for (const name of ["other", "constructor", null]) assert.deepEqual(linesOf(name), {});
  assert.equal(wordsOf("Node", "shape"), undefined);
  assert.equal(wordsOf("toString", "shape"), undefined);
  speak("en", {});
  assert.deepEqual(linesOf("demo"), {});
  assert.equal(sayValue("Node", "method.gamma", "cosine"), "cosine");
});

test("an error is in one language, with sentences joined as that language joins them", () => {
  const windowed = () => sampleCurve("window", { content_start: 1, content_end: 0.5 }, 0, 0, 5);
  assert.throws(windowed, {
    message:
      "window: content_start = 1 lies after content_end = 0.5. " +
      "A window runs from its start to a later or equal end, 0 to 1. " +
      "Swap them, or set the role's strength to 0 to switch it off.",
  });
  speak("zh", {
    "window: {role}_start = {start} lies after {role}_end = {end}": "{role}_start 晚于 {end}。",
    "A window runs from its start to a later or equal end, 0 to 1": "先开始，后结束。",
  });
  assert.throws(windowed, {
    message:
      "content_start 晚于 0.5。先开始，后结束。" +
      "Swap them, or set the role's strength to 0 to switch it off.",
  });
});

test("a warning names marker and role in the language spoken", () => {
  const off = "The prompt has no {marker}, so the {role} LoRA is off.";
  speak("zh", { [off]: "{marker}{role}", style: "风格" });
  assert.deepEqual(markerWarnings(parse("<c>a fox</c>"), ["content", "style"], undefined), [
    "<s>风格",
  ]);
});
