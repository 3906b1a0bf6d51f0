// @ts-check
/** The command that inserts the Router before samplers that are in the graph already. */

// @ts-ignore: the host's own module
import { app } from "../../../../scripts/app.js";
import { hostsOf } from "../lib/graph/upstream.js";
import { modelInput } from "../lib/graph/samplers.js";
import {
  isOffered, nextSteps, nodesAmong, onlySampler, planInsertion, samplersOf, startOf, wholeOf,
} from "../lib/insertion/insertion.js";
import { say } from "../lib/texts.js";
import {
  addAsOneStep, addNode, attempt, connectFeed, putFree, replaceNode, setWidget, showNodes, notify,
} from "./graph_edit.js";

/** @typedef {import("../lib/insertion/insertion.js").Fusion} Fusion */

const COMMAND = "craft_lora.insert_fusion";
const APART = 60; // between the Router and its neighbours
const ROUTER_SIZE = [430, 540]; // these two: with room for the node's drawing
const SCHEDULE_SIZE = [300, 310];
const SIGMAS = "whole_sigmas"; // an input of the Router
const label = () => say("Insert content/style LoRA fusion");

/**
 * Insert it before the samplers that nodes stand for.
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
    notify("info", say("Content/style LoRA fusion inserted"), steps);
    for (const reason of refused) notify("warn", say("One sampler was left as it is"), reason);
  });
}

/** The selected nodes; the graph's only sampler if there are none. */
function chosenNodes() {
  const selected = nodesAmong(app.canvas.selectedItems);
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
  const sigmas = addWhole(graph, fusion, router);
  const conditioning = outputOf(router, "CONDITIONING");
  for (const { node, index } of positives) router.connect(conditioning, node, index);
  for (const index of prompt.cleaned) router.connect("clean_prompt", prompt.node, index);
  const samplers = targets.map(({ node, as }) => {
    router.connect(outputOf(router, "MODEL"), node, modelInput(node));
    return as ? replaceNode(node, as) : node;
  });
  const unused = !prompt.node.outputs.some((/** @type {any} */ output) => output.links?.length);
  if (unused) graph.remove(prompt.node);
  const replaced = targets.map(({ as }) => as);
  return { router, schedule, sigmas, samplers, replaced };
}

/** @param {any} router @param {any} schedule
 * @param {import("../lib/insertion/insertion.js").Start} start */
function setStart(router, schedule, { strength, floor, clock }) {
  for (const role of ["content", "style"]) {
    setWidget(router, `${role}_strength`, strength);
    setWidget(schedule, `${role}_floor`, floor);
  }
  setWidget(schedule, "clock", clock);
}

/**
 * Link the sigmas of the whole run that the samplers have parts of.
 *
 * @param {any} graph @param {Fusion} fusion @param {any} router
 * @returns {any[]} the scheduler that was added to make them; none where one was there
 */
function addWhole(graph, fusion, router) {
  const whole = wholeOf(fusion);
  if (!whole || router.findInputSlot(SIGMAS) < 0) return [];
  if (whole.feed) {
    connectFeed(graph, whole.feed, router, SIGMAS);
    return [];
  }
  const scheduler = addNode(graph, "BasicScheduler", router.pos);
  for (const [name, value] of Object.entries(whole.values)) setWidget(scheduler, name, value);
  for (const [name, feed] of Object.entries(whole.feeds)) connectFeed(graph, feed, scheduler, name);
  connectFeed(graph, fusion.model, scheduler, "model");
  scheduler.connect(outputOf(scheduler, "SIGMAS"), router, SIGMAS);
  return [scheduler];
}

/** @param {any} added */
const nodesOf = ({ router, schedule, sigmas, samplers }) =>
  [router, schedule, ...sigmas, ...samplers];

/** @param {any} node @param {string} type */
const outputOf = (node, type) =>
  node.outputs.findIndex((/** @type {any} */ output) => output.type === type);

/** Place new nodes where nothing else is: a replaced sampler where the old one was if it fits, the
 * Router to its left, the schedule to the left of that. @param {any} added */
function place({ router, schedule, sigmas, samplers, replaced }) {
  const pending = new Set([router, schedule, ...sigmas]);
  samplers.forEach((/** @type {any} */ sampler, /** @type {number} */ index) => {
    if (replaced[index]) putFree(sampler, sampler.pos, pending);
  });
  const [left, top] = samplers[0].pos;
  pending.delete(router);
  putFree(router, [left - APART - router.size[0], top], pending);
  pending.delete(schedule);
  putFree(schedule, [router.pos[0] - APART - schedule.size[0], router.pos[1]], pending);
  for (const node of sigmas) {
    const below = schedule.pos[1] + schedule.size[1] + APART;
    putFree(node, [router.pos[0] - APART - node.size[0], below]);
  }
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
