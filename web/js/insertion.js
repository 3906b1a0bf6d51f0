// @ts-check
/** The command that puts the routed fusion before a sampler that is in the graph already. */

// @ts-ignore: the host's own module
import { app } from "../../../scripts/app.js";
import {
  addAsOneStep, addNode, attempt, connectFeed, putFree, replaceNode, setWidget, showNodes, tell,
} from "./graph_edit.js";
import {
  isOffered, modelInput, nextSteps, onlySampler, planInsertion, samplersOf, startOf,
} from "./lib/insertion.js";
import { say } from "./lib/texts.js";
import { hostsOf } from "./lib/upstream.js";

/** @typedef {import("./lib/insertion.js").Fusion} Fusion */

const COMMAND = "craft_lora.insert_fusion";
const APART = 60; // between the Router and its neighbours
const ROUTER_SIZE = [430, 540]; // room for what they draw
const SCHEDULE_SIZE = [300, 310];
const label = () => say("Insert content/style LoRA fusion");

/**
 * Insert it for the samplers that nodes stand for.
 *
 * @param {() => any[]} chosen nodes of the graph that is open
 */
function insertFor(chosen) {
  return attempt(async () => {
    const { graph } = app.canvas;
    const hosts = hostsOf(app.rootGraph ?? app.graph, graph) ?? [];
    const { fusions, refused } = planInsertion(samplersOf(chosen()), hosts);
    const steps = nextSteps(fusions);
    const added = addAsOneStep(
      () => fusions.map((fusion) => insert(graph, fusion)),
      (made) => made.flatMap(nodesOf),
      (made) => made.forEach(place),
    );
    showNodes(added.map(({ router }) => router));
    tell("info", say("Content/style LoRA fusion inserted"), steps);
    for (const reason of refused) tell("warn", say("One sampler was left as it is"), reason);
  });
}

/** The selected nodes; the graph's only sampler if there are none. */
function chosenNodes() {
  const selected = Object.values(app.canvas.selected_nodes ?? {});
  return selected.length ? selected : onlySampler(app.canvas.graph.nodes);
}

/** @param {any} graph @param {Fusion} fusion */
function insert(graph, fusion) {
  const { model, clip, prompt, positives, targets } = fusion;
  const [near] = targets;
  const router = addNode(graph, "CRAFTRouter", near.node.pos);
  const schedule = addNode(graph, "CRAFTTimestepSchedule", near.node.pos);
  [router.size, schedule.size] = [ROUTER_SIZE, SCHEDULE_SIZE];
  setWidget(router, "prompt", prompt.text);
  setStart(router, schedule, startOf(fusion));
  connectFeed(graph, model, router, "model");
  connectFeed(graph, clip, router, "clip");
  if (prompt.textFeed) connectFeed(graph, prompt.textFeed, router, "prompt");
  schedule.connect("schedule", router, "schedule");
  const conditioning = outputOf(router, "CONDITIONING");
  for (const { node, index } of positives) router.connect(conditioning, node, index);
  for (const index of prompt.told) router.connect("clean_prompt", prompt.node, index);
  const samplers = targets.map(({ node, as }) => {
    router.connect(outputOf(router, "MODEL"), node, modelInput(node));
    return as ? replaceNode(node, as) : node;
  });
  const unused = !prompt.node.outputs.some((/** @type {any} */ output) => output.links?.length);
  if (unused) graph.remove(prompt.node);
  const replaced = targets.map(({ as }) => as);
  return { router, schedule, samplers, replaced };
}

/** @param {any} router @param {any} schedule
 * @param {import("./lib/insertion.js").Start} start */
function setStart(router, schedule, { strength, floor, clock }) {
  for (const role of ["content", "style"]) {
    setWidget(router, `${role}_strength`, strength);
    setWidget(schedule, `${role}_floor`, floor);
  }
  setWidget(schedule, "clock", clock);
}

/** @param {any} added */
const nodesOf = ({ router, schedule, samplers }) => [router, schedule, ...samplers];

/** @param {any} node @param {string} type */
const outputOf = (node, type) =>
  node.outputs.findIndex((/** @type {any} */ output) => output.type === type);

/** Free places: samplers stay if they can, the Router goes before them. @param {any} added */
function place({ router, schedule, samplers, replaced }) {
  const pending = new Set([router, schedule]);
  samplers.forEach((/** @type {any} */ sampler, /** @type {number} */ index) => {
    if (replaced[index]) putFree(sampler, sampler.pos, pending);
  });
  const [left, top] = samplers[0].pos;
  pending.delete(router);
  putFree(router, [left - APART - router.size[0], top], pending);
  putFree(schedule, [router.pos[0] - APART - schedule.size[0], router.pos[1]]);
}

app.registerExtension({
  name: "craft_lora.insertion",
  commands: [
    { id: COMMAND, label, icon: "pi pi-sitemap", function: () => insertFor(chosenNodes) },
  ],
  menuCommands: [{ path: ["CRAFT-LoRA"], commands: [COMMAND] }],
  /** @param {any} node */
  getNodeMenuItems(node) {
    return isOffered(node) ? [{ content: label(), callback: () => insertFor(() => [node]) }] : [];
  },
});
