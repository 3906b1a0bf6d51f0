import assert from "node:assert/strict";
import { test } from "node:test";

import { parse, pieces } from "../../../web/js/lib/drawings/markers.js";

const shown = (prompt) => pieces(prompt, parse(prompt));

test("the pieces of a prompt put together are the prompt", () => {
  for (const prompt of ["", "no marker", "<c>a 🦊</c>, in <s>ink</s>!", "A dog <c> in ink <s>."])
    assert.equal(shown(prompt).map((piece) => piece.text).join(""), prompt);
});

test("pieces say whose words are whose", () => {
  assert.deepEqual(shown("A dog <c> in <s>ink</s>"), [
    { text: "A dog", kind: "content" },
    { text: " ", kind: "plain" },
    { text: "<c>", kind: "marker" },
    { text: " in ", kind: "plain" },
    { text: "<s>", kind: "marker" },
    { text: "ink", kind: "style" },
    { text: "</s>", kind: "marker" },
  ]);
});

test("offsets count as JavaScript does, places in messages as people do", () => {
  const [phrase] = parse("🦊 <c>a 🦊</c>").phrases;
  assert.equal("🦊 <c>a 🦊</c>".slice(phrase.start, phrase.end), "a 🦊");
  assert.throws(() => parse("🦊</c>"), /character 2 /);
});
