import assert from "node:assert/strict";
import { test } from "node:test";

import { parse } from "../../../web/js/lib/drawings/markers.js";
import { promptWith, withWords } from "../../../web/js/lib/insertion/trigger_prompt.js";

const START = "A photo of <c>sks dog</c> in <s>watercolor style</s>";

test("each role's words take the place of its phrase", () => {
  const words = { content: ["zwx cat"], style: ["ink", "wash"] };
  assert.equal(promptWith(START, words), "A photo of <c>zwx cat</c> in <s>ink, wash</s>");
});

test("a role without words keeps its phrase", () => {
  assert.equal(promptWith(START, { content: [], style: [] }), START);
  const one = promptWith(START, { content: [], style: ["ink"] });
  assert.equal(one, "A photo of <c>sks dog</c> in <s>ink</s>");
});

test("whatever a file calls its words, the prompt can be read", () => {
  for (const word of ["$&", "<c>", "a</s>b", "\\1"]) {
    const { phrases } = parse(promptWith(START, { content: [word + " x"], style: [word + " y"] }));
    assert.deepEqual(phrases.map(({ role }) => role), ["content", "style"]);
  }
});

test("words are added to the phrase of their role, each once", () => {
  const prompt = "A <c>dog</c> in <s>Ink style</s>, <s>wash</s>";
  const after = withWords(prompt, "style", ["ink", "zwx", "Wash"]);
  assert.equal(after, "A <c>dog</c> in <s>Ink style, zwx</s>, <s>wash</s>");
  assert.equal(withWords(after, "style", ["ink", "zwx", "Wash"]), after);
  assert.equal(withWords("ink style <s>", "style", ["zwx"]), "ink style, zwx <s>");
});

test("without a phrase of the role, words that are there are marked, others are added", () => {
  assert.equal(withWords("A sks dog in <s>ink</s>", "content", ["SKS"]), "A <c>sks</c> dog in <s>ink</s>");
  assert.equal(withWords("A dog in <s>ink</s>", "content", ["ink", "sks"]),
    "A dog in <s>ink</s>, <c>ink, sks</c>");
  assert.equal(withWords("pink inks", "style", ["ink"]), "pink inks, <s>ink</s>");
  assert.equal(withWords("", "content", ["sks"]), "<c>sks</c>");
  for (const word of ["s", "S"])
    assert.equal(withWords("fox in <s>ink</s>", "content", [word]), `fox in <s>ink</s>, <c>${word}</c>`);
});

test("a prompt with its words can be read, and what was in it is kept", () => {
  const prompts = ["", "a cat", START, "a\u0000b", "x <c>", "<s>a</s>\n"];
  for (const prompt of prompts)
    for (const words of [["$&", "a</c>b"], ["<c>"], ["a", "cat"], []]) {
      const before = parse(prompt).phrases.length;
      const after = withWords(prompt, "content", words);
      assert.ok(parse(after).phrases.length >= before);
      let at = 0; // every letter is there, in its order
      for (const letter of prompt.trim()) at = after.indexOf(letter, at) + 1 || Infinity;
      assert.ok(at < Infinity);
    }
});
