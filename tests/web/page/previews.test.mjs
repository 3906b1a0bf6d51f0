import assert from "node:assert/strict";
import { afterEach, test } from "node:test";

import { isPreview, sayPreview } from "../../../web/js/lib/page/previews.js";
import { speak } from "../../../web/js/lib/texts.js";
import { linked } from "../linked.mjs";

const TABLE = { "Layer sets: {set}": "层集：{set}" };
const ENGLISH = "Layer sets: all";
const CHINESE = "层集：all";

afterEach(() => speak("en", {}));

/** A preview of a node's first output, through reroutes where there are some. */
function previewOf(source, { serialize = false, name = "preview_text" } = {}) {
  speak("zh", {}, {}, {}, TABLE);
  const widget = { name, value: ENGLISH, options: { serialize } };
  const node = { id: 2, comfyClass: "PreviewAny", inputs: [{ link: 1 }], widgets: [widget] };
  linked([{ id: 1, ...source }, node]);
  return { node, widget, look: () => (sayPreview({ node, hosts: [] }), widget.value) };
}

const ours = (name, comfyClass = "CRAFTRouter") => ({ comfyClass, outputs: [{ name }] });

test("a report of ours is shown in the page's language, and in English again", () => {
  const { widget, look } = previewOf(ours("report"));
  assert.equal(look(), CHINESE);
  assert.equal(look(), CHINESE);
  speak("en", {});
  assert.equal(look(), ENGLISH);
  speak("zh", {}, {}, {}, TABLE);
  assert.equal(look(), CHINESE);
  widget.value = "Layer sets: auto"; // of another run
  assert.equal(look(), "层集：auto");
});

test("both widgets of an older page show it, and its switch stays", () => {
  assert.equal(previewOf(ours("scores"), { name: "preview_markdown" }).look(), CHINESE);
  assert.equal(previewOf(ours("report"), { name: "preview_mode" }).look(), ENGLISH);
});

test("what is no report, and what is another pack's, stays as it is", () => {
  assert.equal(previewOf(ours("clean_prompt")).look(), ENGLISH);
  assert.equal(previewOf(ours("report", "ShowText")).look(), ENGLISH);
  const { node, look } = previewOf(ours("report"));
  node.inputs[0].link = null;
  assert.equal(look(), ENGLISH);
});

test("a report that is unlinked is in English again", () => {
  const { node, look } = previewOf(ours("report"));
  assert.equal(look(), CHINESE);
  node.inputs[0].link = null;
  assert.equal(look(), ENGLISH);
});

test("a widget whose value the page sends with a prompt keeps it", () => {
  assert.equal(previewOf(ours("report"), { serialize: true }).look(), ENGLISH);
});

test("a report is followed through a reroute", () => {
  const { node, look } = previewOf(ours("report"));
  const reroute = { id: 3, type: "Reroute", inputs: [{ link: 1 }] };
  const [source] = node.graph.nodes;
  const nodes = [source, node, reroute];
  const graph = {
    nodes,
    getNodeById: (id) => nodes.find((one) => one.id === id),
    getLink: (id) => ({ 1: { origin_id: 1, origin_slot: 0 }, 2: { origin_id: 3, origin_slot: 0 } })[id],
  };
  for (const one of nodes) one.graph = graph;
  node.inputs[0].link = 2;
  assert.equal(look(), CHINESE);
});

test("only Preview as Text is one", () => {
  assert.ok(isPreview({ comfyClass: "PreviewAny" }));
  assert.ok(!isPreview({ comfyClass: "SaveText" }));
});
