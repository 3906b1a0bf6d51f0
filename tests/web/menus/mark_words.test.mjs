import assert from "node:assert/strict";
import { test } from "node:test";

import { parse } from "../../../web/js/lib/drawings/markers.js";
import { markWords } from "../../../web/js/lib/menus/mark_words.js";

/** A prompt after its words between [ and ] were marked, what is selected then between [ and ]. */
function after(shown, role) {
  const from = shown.indexOf("[");
  const to = shown.indexOf("]") - 1;
  const prompt = shown.replace(/[[\]]/g, "");
  const edit = markWords(prompt, from, to, role);
  if (!edit) return null;
  const made = prompt.slice(0, edit.start) + edit.put + prompt.slice(edit.end);
  parse(made);
  const [start, end] = edit.selected;
  return `${made.slice(0, start)}[${made.slice(start, end)}]${made.slice(end)}`;
}

const CASES = {
  "A [sks dog] in ink": ["A [<c>sks dog</c>] in ink", "A [<s>sks dog</s>] in ink", "A [sks dog] in ink"],
  "A [sks dog ]in ink": ["A [<c>sks dog</c>] in ink", "A [<s>sks dog</s>] in ink", "A [sks dog] in ink"],
  "A <c>[dog]</c> in": ["A [<c>dog</c>] in", "A [<s>dog</s>] in", "A [dog] in"],
  "A [<c>dog</c>] in": ["A [<c>dog</c>] in", "A [<s>dog</s>] in", "A [dog] in"],
  "A <c>big [sks] dog</c> in": ["A big [<c>sks</c>] dog in", "A big [<s>sks</s>] dog in", "A big [sks] dog in"],
  "A <c>big [dog</c> in] ink": ["A big [<c>dog in</c>] ink", "A big [<s>dog in</s>] ink", "A big [dog in] ink"],
  "<c>a</c> [b] <s>c</s>": ["<c>a</c> [<c>b</c>] <s>c</s>", "<c>a</c> [<s>b</s>] <s>c</s>", "<c>a</c> [b] <s>c</s>"],
  "[<c>a</c> and <s>c</s>]": ["[<c>a and c</c>]", "[<s>a and c</s>]", "[a and c]"],
  "A [red fox] <c> in watercolor <s>": ["A [<c>red fox</c>]  <s>in watercolor</s> ",
    "A [<s>red fox</s>]  <s>in watercolor</s> ", "A [red fox]  <s>in watercolor</s> "],
  "<c>a [fox]</c>, ink <S>, wash <s>.": ["a [<c>fox</c>], <S>ink</S> , wash <s>.",
    "a [<s>fox</s>], <S>ink</S> , wash <s>.", "a [fox], <S>ink</S> , wash <s>."],
  "a <c> b <s> [c] <c>": ["a <c> b <s> [<c>c</c>] ", "a <c> b <s> [<s>c</s>] ", "a <c> b <s> [c] "],
  "a [big] dog <c>": ["a [<c>big</c>] dog ", "a [<s>big</s>] dog ", "a [big] dog "],
};

for (const [shown, expected] of Object.entries(CASES))
  test(`marking ${shown}`, () => {
    assert.deepEqual(["content", "style", null].map((role) => after(shown, role)), expected);
  });

test("where no word is selected nothing changes", () => {
  for (const shown of ["a[ ]b", "a [] b", "<c>a</c>[\n]b"]) assert.equal(after(shown, "content"), null);
});
