import assert from "node:assert/strict";
import { test } from "node:test";

import {
  fileName, placeOf, planPreset, presetOf, routerAt, routersIn,
} from "../../../web/js/lib/menus/presets.js";

const widgetsOf = (values) => Object.entries(values).map(([name, value]) => ({ name, value }));
const link = (name, type, id = null) => ({ name, type, link: id });

/** A loader, a schedule, a Router and a sampler in a row. */
function graph({ schedule = "CRAFTTimestepSchedule", sampler = "CRAFTACFGKSampler", others = {} } = {}) {
  const nodes = [
    { id: 1, type: "CheckpointLoaderSimple", inputs: [], widgets: widgetsOf({ ckpt_name: "a" }) },
    {
      id: 2, type: schedule, inputs: [],
      widgets: widgetsOf({ shape: "window", "shape.content_end": 0.4, content_floor: 0.5,
        style_floor: 0.25, clock: "model" }),
    },
    {
      id: 3, type: "CRAFTRouter",
      inputs: [link("model", "MODEL", 1), link("schedule", "CRAFT_SCHEDULE", schedule && 2),
        link("content_strength", "FLOAT", others.strength ?? null)],
      widgets: widgetsOf({ method: "k_lora", "method.pattern": "s*", layer_sets: "custom",
        "layer_sets.patterns": "content: a", content_strength: 0.8, style_strength: 0.6 }),
      outputs: [{ name: "routed_model", type: "MODEL" }],
    },
    {
      id: 4, type: sampler, title: "My sampler", mode: 0,
      inputs: [link("model", "MODEL", 3), link("positive", "CONDITIONING")],
      outputs: [{ type: "LATENT" }],
      widgets: widgetsOf({ cfg: 4, asymmetric: true, guidance: "acfg/cfg", ...others.guide }),
    },
    { id: 5, type: "PrimitiveFloat", inputs: [], widgets: widgetsOf({ value: 0.3 }) },
  ];
  const links = [null, [1, 0], [2, 0], [3, 0], [5, 0]];
  const made = {
    nodes: nodes.filter((node) => node.type),
    getNodeById: (id) => nodes.find((node) => node.id === id),
    getLink: (id) => ({ origin_id: links[id][0], origin_slot: links[id][1] }),
  };
  for (const node of nodes) node.graph = made;
  return { root: made, router: { node: nodes[2], hosts: [] } };
}

const VALUES = {
  router: { method: "craft", content_strength: 1 },
  schedule: { shape: "cosine", content_floor: 0.5 },
  guidance: { asymmetric: true, guidance: "acfg/cfg", cfg: 3 },
};
const CONSTANT = { shape: "constant", "shape.content": 1, "shape.style": 1 };

test("a seed goes to each sampler that has one, or it is said", () => {
  const values = { ...VALUES, sampler: { seed: 7 } };
  for (const sampler of ["CRAFTACFGKSampler", "KSampler"]) {
    const { root, router } = graph({ sampler, others: { guide: { seed: 1 } } });
    const { targets, left } = planPreset(values, root, router);
    assert.deepEqual(targets.at(-1).values, { seed: 7 });
    assert.equal(targets.at(-1).node.id, 4);
    assert.ok(!left.some((text) => text.includes("seed")));
  }
  const { root, router } = graph();
  const { targets, left } = planPreset(values, root, router);
  assert.ok(targets.every((one) => !("seed" in one.values)));
  assert.deepEqual(left, ["The seed is left out: no sampler with a seed follows the Router."]);
});

test("a preset's values go to the Router, its schedule and our sampler behind it", () => {
  const { root, router } = graph();
  const { targets, left } = planPreset(VALUES, root, router);
  assert.deepEqual(targets.map(({ node, values }) => [node.id, values]), [
    [3, VALUES.router], [2, VALUES.schedule], [4, VALUES.guidance],
  ]);
  assert.deepEqual(left, []);
});

test("what no node takes is said, and a constant schedule needs none", () => {
  const { root, router } = graph({ schedule: null, sampler: "KSampler" });
  const said = planPreset(VALUES, root, router);
  assert.deepEqual(said.targets.map(({ node }) => node.id), [3]);
  assert.match(said.left[0], /schedule cosine is left out: no Timestep Schedule/);
  assert.match(said.left[1], /My sampler has standard guidance/);
  assert.equal(planPreset({ ...VALUES, schedule: CONSTANT }, root, router).left.length, 1);
  const half = { ...CONSTANT, "shape.style": 0.5 };
  assert.equal(planPreset({ ...VALUES, schedule: half }, root, router).left.length, 2);
  const other = graph({ schedule: "AnotherSchedule" });
  assert.equal(planPreset({ ...VALUES, schedule: CONSTANT }, other.root, other.router).left.length, 1);
});

test("a schedule that is linked and cannot be set is named, if the preset has one", () => {
  const { root, router } = graph({ schedule: "AnotherSchedule" });
  const said = planPreset(VALUES, root, router).left;
  assert.equal(said.length, 1);
  assert.match(said[0], /schedule cosine is left out: the one linked to the Router cannot be set/);
  assert.deepEqual(planPreset({ ...VALUES, schedule: {} }, root, router).left, []);
});

test("what a preset does not have stays as it is", () => {
  const { root, router } = graph();
  const { targets, left } = planPreset({ router: {}, schedule: {}, guidance: { cfg: 2 } }, root, router);
  assert.deepEqual(targets.map(({ node }) => node.id), [4]);
  assert.deepEqual(left, []);
});

test("a value that comes from another node is not set", () => {
  const { router } = graph({ others: { strength: 4 } });
  assert.match(placeOf(router, "content_strength"), /content_strength comes from another node/);
  assert.deepEqual(placeOf(router, "style_strength"), { node: router.node, name: "style_strength" });
  assert.match(placeOf(router, "nothing"), /has no input nothing/);
});

test("the present values make a preset", () => {
  const { root, router } = graph();
  assert.deepEqual(presetOf(root, router), {
    method: { method: "k_lora", pattern: "s*" }, layer_sets: "content: a",
    content_strength: 0.8, style_strength: 0.6,
    schedule: { shape: "window", content_end: 0.4, content_floor: 0.5, style_floor: 0.25, clock: "model" },
    guidance: { guidance: "acfg" }, cfg: 4,
  });
  const role = graph({ others: { guide: { guidance: "role", "guidance.weight": 2 }, strength: 4 } });
  const made = presetOf(role.root, role.router);
  assert.deepEqual(made.guidance, { guidance: "role", weight: 2 });
  assert.equal(made.content_strength, 0.3); // the primitive's
  const plain = graph({ schedule: null, sampler: "KSampler" });
  const { schedule, guidance, cfg } = presetOf(plain.root, plain.router);
  assert.deepEqual([schedule, guidance, cfg], ["constant", { guidance: "cfg" }, 4]);
  const unknown = graph({ schedule: "AnotherSchedule" });
  assert.ok(!("schedule" in presetOf(unknown.root, unknown.router)));
});

test("guidance that only a run knows is left out", () => {
  for (const name of ["asymmetric", "guidance"]) {
    const { root, router } = graph();
    const sampler = root.getNodeById(4);
    sampler.inputs.push(link(name, "*", 2)); // from a node that is no primitive
    const made = presetOf(root, router);
    assert.ok(!("guidance" in made));
    assert.equal(made.cfg, 4);
  }
});

test("a curve is saved as its points", () => {
  const { root, router } = graph();
  const points = [[0, 1], [1, 0]];
  const value = { points, interpolation: "monotone_cubic" };
  root.getNodeById(2).widgets = widgetsOf({ shape: "curve", "shape.content": value });
  assert.deepEqual(presetOf(root, router).schedule.content, points);
});

test("a Router alone in a subgraph node stands for it, two do not", () => {
  const router = { id: 1, type: "CRAFTRouter" };
  const around = (...nodes) => ({ id: 9, type: "x", subgraph: { nodes } });
  const host = around(router, { id: 2, type: "KSampler" });
  assert.deepEqual(routerAt(router, []), { node: router, hosts: [] });
  assert.deepEqual(routerAt(host, []), { node: router, hosts: [host] });
  assert.equal(routerAt(around(router, { ...router }), []), null);
  assert.equal(routerAt({ id: 3, type: "KSampler" }, []), null);
  const other = { ...router };
  assert.deepEqual(routersIn({ nodes: [host, other] }), [
    { node: router, hosts: [host] }, { node: other, hosts: [] },
  ]);
});

test("a Router of a subgraph that is used twice is found once, one that does not run is not", () => {
  const router = { id: 1, type: "CRAFTRouter", mode: 0 };
  const host = (id, mode, ...nodes) => ({ id, type: "x", mode, subgraph: { nodes } });
  assert.deepEqual(routersIn({ nodes: [host(7, 0, router), host(8, 0, router)] }), [
    { node: router, hosts: null },
  ]);
  for (const mode of [2, 4]) {
    assert.deepEqual(routersIn({ nodes: [{ ...router, mode }] }), []);
    assert.deepEqual(routersIn({ nodes: [host(7, mode, router)] }), []);
  }
});

test("a name is what every file system takes", () => {
  for (const name of ["a", " my own ", "水墨 1.5", "console", "a".repeat(80)]) assert.equal(fileName(name), name.trim());
  for (const name of ["", " ", "a/b", "a\\b", "..", ".a", "a.", "a:b", "a?", "a\nb", "con", "Com1.x",
    "a".repeat(81)])
    assert.equal(fileName(name), "");
});
