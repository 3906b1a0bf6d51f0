import assert from "node:assert/strict";
import { test } from "node:test";

import { isWithOurs, translated } from "../../../web/js/lib/page/template_texts.js";

const node = (type, more = {}) => ({ id: 1, type, pos: [0, 0], ...more });
const workflow = () => ({
  nodes: [
    node("MarkdownNote", { title: "About", widgets_values: ["## One\n\n|---|\nTwo."] }),
    node("Note", { widgets_values: ["Two."] }),
    node("CLIPTextEncode", { title: "Two.", widgets_values: ["Two."] }),
    node("SaveImage", { widgets_values: ["One"] }),
  ],
  links: [],
  groups: [{ title: "About", bounding: [0, 0, 1, 1] }],
  definitions: { subgraphs: [{ nodes: [node("Note", { widgets_values: ["Two."] })] }] },
});
const LINES = { About: "关于", "## One": "## 一", "Two.": "二。" };

test("notes and titles are translated line by line, and no value of another node is", () => {
  const expected = workflow();
  Object.assign(expected.nodes[0], { title: "关于", widgets_values: ["## 一\n\n|---|\n二。"] });
  expected.nodes[1].widgets_values = ["二。"];
  expected.nodes[2].title = "二。";
  expected.groups[0].title = "关于";
  expected.definitions.subgraphs[0].nodes[0].widgets_values = ["二。"];
  assert.deepEqual(translated(workflow(), LINES), expected);
});

test("the workflow that is given is not written to", () => {
  const given = workflow();
  translated(given, LINES);
  assert.deepEqual(given, workflow());
});

test("a line without a translation stays, also one that names what every object has", () => {
  const note = node("Note", { title: "toString", widgets_values: ["constructor\nOne"] });
  const given = { nodes: [note] };
  assert.deepEqual(translated(given, {}), given);
});

test("a workflow with a node of the pack is told from others", () => {
  assert.equal(isWithOurs(workflow()), false);
  assert.equal(isWithOurs({ nodes: [node("CRAFTRouter")] }), true);
  for (const none of [null, {}, { nodes: [{}] }]) assert.equal(isWithOurs(none), false);
});
