import assert from "node:assert/strict";
import { test } from "node:test";

import { lorasOn, promptsOf } from "../../../web/js/lib/menus/lora_widgets.js";
import { linked } from "../linked.mjs";

const widgetsOf = (values) => Object.entries(values).map(([name, value]) => ({ name, value }));
const BRANCHES = [{ name: "branches_out", type: "CRAFT_BRANCHES" }];

/** A branch before a Router. */
function graph(branch, router) {
  return linked([
    { id: 1, type: "CRAFTLoadLoRABranch", inputs: [], outputs: BRANCHES, widgets: widgetsOf(branch) },
    {
      id: 2, type: "CRAFTRouter", widgets: widgetsOf(router),
      inputs: [{ name: "extra_branches", type: "CRAFT_BRANCHES", link: 0 }], outputs: [],
    },
  ]);
}

const BRANCH = { lora: "b.safetensors", role: "style", second_lora: "same" };
const ROUTER = {
  content_lora: "c.safetensors", style_lora: "none", second_content_lora: "d.safetensors",
  second_style_lora: "", prompt: "a lora",
};
const told = (node, hosts = []) =>
  lorasOn(node, hosts).map(({ input, file, role }) => [input, file, role]);

test("each chosen file is found, in its role", () => {
  const { nodes: [branch, router] } = graph(BRANCH, ROUTER);
  assert.deepEqual(told(branch), [["lora", "b.safetensors", "style"]]);
  assert.deepEqual(told(router), [
    ["content_lora", "c.safetensors", "content"], ["second_content_lora", "d.safetensors", "content"],
  ]);
});

test("a widget is called as the page calls it", () => {
  const { nodes: [branch] } = graph(BRANCH, ROUTER);
  branch.widgets[0].label = "LoRA 文件";
  assert.equal(told(branch)[0][0], "LoRA 文件");
});

test("the words go to the node's own prompt, or to those that take its branches", () => {
  const root = graph(BRANCH, ROUTER);
  for (const node of root.nodes) {
    const [{ at }] = lorasOn(node, []);
    assert.deepEqual(promptsOf(root, at).map(({ node: one }) => one.id), [2]);
  }
});

test("where no prompt takes the words, a file is told of alone", () => {
  const node = { type: "CRAFTFuseToFile", outputs: [], widgets: widgetsOf({ style_lora: "a" }) };
  assert.deepEqual(told(node), [["style_lora", "a", null]]);
});

test("nodes of others have none, and a subgraph node those of the nodes inside it", () => {
  const root = graph(BRANCH, ROUTER);
  root.nodes[1].title = "My Router";
  const around = { id: 9, type: "a-subgraph", mode: 0, subgraph: root };
  assert.deepEqual(told(around).map(([input]) => input), [
    "CRAFTLoadLoRABranch: lora", "My Router: content_lora", "My Router: second_content_lora",
  ]);
  assert.deepEqual(told({ type: "LoraLoader", widgets: widgetsOf({ lora: "a" }) }), []);
});
