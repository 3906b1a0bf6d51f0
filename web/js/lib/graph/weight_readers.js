// @ts-check
/** Nodes of the host that do not sample a MODEL but read its weights, or sample it beside another. */

import { idInPrompt, inputs, linkOf } from "./links.js";
import { nodesIn } from "./samplers.js";
import { fileOf, isActive, modelSource, valueOf } from "./upstream.js";

/** @typedef {any} GraphNode */
/** @typedef {{node: GraphNode, hosts: GraphNode[]}} At a node, and the subgraph nodes around it */
/** @typedef {import("./upstream.js").Origin} Origin */

const SAVES = new Set(["ModelSave", "CheckpointSave", "ImageOnlyCheckpointSave", "LoraSave"]);
const MERGES = /^ModelMerge/;
const FIRST = "model1"; // of a merge: its weights are multiplied, those of the other are read
const TWO_MODELS = "DualModelGuider";
const PAIR = ["model", "model_negative"]; // of such a guider
const ROUTER = "CRAFTRouter";
const RULED = new Set(["CRAFTMethodSweep", "CRAFTFindBest"]); // route, and set a rule of guidance

/**
 * Such nodes that the MODEL of a node reaches, in any graph.
 *
 * @param {any} root the outermost graph
 * @param {GraphNode} node
 * @returns {{reading: GraphNode[], merging: GraphNode[], guiding: GraphNode[],
 *   negative: GraphNode[]}} reading: they ask for its weights. merging: as the first model of a merge.
 *   guiding, negative: guiders of two MODELs whose sampling will stop, as the two have other LoRAs
 *   (guiding), or as the LoRAs are in the one for the negative prompt alone (negative)
 */
export function weightReaders(root, node) {
  const found = nodesIn(root, []).filter(({ node: one }) => isActive(one));
  /** @param {At} at @param {string} input */
  const isFrom = ({ node: one, hosts }, input) =>
    modelSource(one, input, hosts).passed.includes(node);
  const guiders = found.filter((at) =>
    at.node.type === TWO_MODELS && PAIR.some((name) => isFrom(at, name)));
  const reads = found.filter(({ node: one }) => SAVES.has(one.type) || MERGES.test(one.type));
  const throughOthers = (/** @type {any} */ at) =>
    inputs(at.node).some((input) => input.type === "MODEL" && !isFirst(at.node, input.name) &&
      isFrom(at, input.name));
  return {
    reading: reads.filter(throughOthers).map((at) => at.node),
    merging: reads.filter((at) => isFirst(at.node, FIRST) && isFrom(at, FIRST)).map((at) => at.node),
    guiding: guiders.filter((at) => whyStopped(at) === "guiding").map((at) => at.node),
    negative: guiders.filter((at) => whyStopped(at) === "negative").map((at) => at.node),
  };
}

/** Whether a guider has another MODEL for the negative prompt than for the positive, as far as LoRAs
 * are concerned. @param {At} at */
export const isOfTwoModels = (at) =>
  at.node.type === TWO_MODELS && modelSource(at.node, PAIR[1], at.hosts).linked && !isOneRouting(at);

/** @param {At} at */
const isOneRouting = (at) => String(routings(at, PAIR[0])) === String(routings(at, PAIR[1]));

/** Why comfy_adapter/engine/engine.py will stop the sampling of such a guider; "" where it will not,
 * and where the page cannot know. @param {At} at */
function whyStopped(at) {
  const isAtOne = valueOf(at.node, "cfg", at.hosts) === 1; // then no negative is evaluated
  if (isAtOne || !isOfTwoModels(at)) return "";
  const [own, ofNegative] = PAIR.map((name) => routings(at, name));
  if (ofNegative.length) return own.length ? "guiding" : "negative";
  const { passed } = modelSource(at.node, PAIR[0], at.hosts);
  return !passed.some(({ type }) => RULED.has(type)) && isOneNetwork(at) ? "guiding" : "";
}

/** What routed the LoRAs of a guider's MODEL. @param {At} at @param {string} input */
const routings = ({ node, hosts }, input) =>
  modelSource(node, input, hosts).places
    .filter(({ node: one }) => isActive(one) && (one.type === ROUTER || RULED.has(one.type)))
    .map(placed);

/** @param {Origin} at */
const placed = ({ node, slot, hosts }) => [idInPrompt(node, hosts), slot].join("/");

/** Whether both MODELs of a guider come from one loader, or from two that the server takes for one.
 * @param {At} at */
function isOneNetwork({ node, hosts }) {
  const [one, other] = PAIR.map((name) => modelSource(node, name, hosts).places.at(-1));
  if (!one || !other) return false;
  return placed(one) === placed(other) || loadsAlike(one, other);
}

/** @param {Origin} one @param {Origin} other */
function loadsAlike(one, other) {
  if (one.node.type !== other.node.type || !fileOf(one.node, one.hosts)) return false;
  return (one.node.widgets ?? []).every((/** @type {any} */ { name }) => {
    const values = [one, other].map(({ node, hosts }) => valueOf(node, name, hosts));
    return values[0] !== undefined && values[0] === values[1];
  });
}

/** The links by which such nodes take the MODEL of a node.
 * @param {any} root the outermost graph @param {GraphNode} node
 * @param {ReturnType<typeof weightReaders>} readers of the node @returns {any[]} */
export function linksTo(root, node, { reading, merging, guiding, negative }) {
  const readers = [...reading, ...merging, ...guiding, ...negative];
  const found = nodesIn(root, []).filter(({ node: one }) => readers.includes(one));
  const links = found.flatMap(({ node: one, hosts }) =>
    inputs(one)
      .filter((input) => input.type === "MODEL" && input.link != null &&
        modelSource(one, input.name, hosts).passed.includes(node))
      .map((input) => linkOf(one.graph, input.link)));
  return [...new Set(links.filter(Boolean))];
}

/** @param {GraphNode} node @param {string} input */
const isFirst = (node, input) => MERGES.test(node.type) && input === FIRST;
