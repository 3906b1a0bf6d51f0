import assert from "node:assert/strict";
import { test } from "node:test";

import { absentFiles } from "../../web/js/lib/small_world.js";

const MODEL = "craft_small_world.safetensors";
const menu = (value, values) => ({ value, options: { values } });

test("a file of the small world that its menu lacks is named once, wherever it stands", () => {
  const inner = { nodes: [{ widgets: [menu("craft_small_world_style.safetensors", ["none"])] }] };
  const graph = {
    nodes: [
      { widgets: [menu(MODEL, ["other.safetensors"]), menu(20, undefined)] },
      { widgets: [menu(MODEL, () => [])] },
      { subgraph: inner },
      {},
    ],
  };
  assert.deepEqual(absentFiles(graph), [MODEL, "craft_small_world_style.safetensors"]);
});

test("files that are there, files of others, and texts are nobody's miss", () => {
  const widgets = [
    menu(MODEL, [MODEL]),
    menu(MODEL, () => [MODEL]),
    menu("absent.safetensors", []),
    { value: "craft_small_world is nice" },
    menu("craft_small_world", {}),
  ];
  assert.deepEqual(absentFiles({ nodes: [{ widgets }] }), []);
  assert.deepEqual(absentFiles(undefined), []);
});

test("a subgraph that holds itself ends", () => {
  const graph = { nodes: [] };
  graph.nodes.push({ subgraph: graph });
  assert.deepEqual(absentFiles(graph), []);
});
