import assert from "node:assert/strict";
import { test } from "node:test";
import { withoutUnsaved } from "../../../web/js/lib/graph/saved_values.js";

const DRAWING = "craft_drawing";
const drawing = (name) => ({ name, type: DRAWING, serialize: false });
const names = (node) => node.widgets.map(({ name }) => name);

/** A node with drawings below its prompt and its menu, whose entry `custom` brings a widget. */
function router() {
  const [prompt, menu] = [{ name: "prompt" }, { name: "menu" }];
  return { widgets: [prompt, drawing("words"), menu, drawing("report"), drawing("last")] };
}

/** As newer front ends load: the values that stand where unsaved widgets do are taken out. */
function load(node, values) {
  const left = values.filter((_, at) => node.widgets[at]?.serialize !== false);
  const menu = node.widgets.findIndex(({ name }) => name === "menu");
  node.widgets.splice(menu + 1, 0, { name: "menu.patterns" });
  return left;
}

test("values of a menu's entry are loaded whole, and the drawings come back in their places", () => {
  const node = router();
  const values = ["a dog", "custom", "up_blocks"];
  const saved = { widgets_values: values };
  assert.deepEqual(withoutUnsaved(node, saved, DRAWING, () => load(node, values)), values);
  assert.deepEqual(names(node), ["prompt", "words", "menu", "menu.patterns", "report", "last"]);
});

test("where as many values are saved as the node has widgets for, nothing moves", () => {
  for (const saved of [{ widgets_values: ["a dog", "all"] }, {}, undefined]) {
    const node = router();
    const before = names(node);
    assert.deepEqual(withoutUnsaved(node, saved, DRAWING, () => names(node)), before);
    assert.deepEqual(names(node), before);
  }
});

test("what fails while it loads leaves the drawings, and widgets of others stay", () => {
  const node = router();
  node.widgets.push({ name: "other", type: "button", serialize: false });
  const [before, saved] = [names(node), { widgets_values: ["a dog"] }];
  const failing = () => {
    assert.deepEqual(names(node), ["prompt", "menu", "other"]);
    throw new Error("no");
  };
  assert.throws(() => withoutUnsaved(node, saved, DRAWING, failing), /no/);
  assert.deepEqual(names(node), before);
});

test("a node without widgets is loaded", () => {
  assert.equal(withoutUnsaved({}, { widgets_values: [1] }, DRAWING, () => "done"), "done");
});
