import assert from "node:assert/strict";
import { test } from "node:test";

import { parse } from "../../../web/js/lib/drawings/markers.js";
import { promptWith } from "../../../web/js/lib/insertion/trigger_prompt.js";

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
