// @ts-check
/** Nodes of the host that do not sample a MODEL but read its weights, or sample it beside another. */

import { inputs, linkOf } from "./links.js";
import { nodesIn } from "./samplers.js";
import { isActive, modelSource } from "./upstream.js";

/** @typedef {any} GraphNode */

const SAVES = new Set(["ModelSave", "CheckpointSave", "ImageOnlyCheckpointSave", "LoraSave"]);
const MERGES = /^ModelMerge/;
const FIRST = "model1"; // of a merge: its weights are multiplied, those of the other are read
const TWO_MODELS = "DualModelGuider";

/**
 * Such nodes that the MODEL of a node reaches, in any graph.
 *
 * @param {any} root the outermost graph
 * @param {GraphNode} node
 * @returns {{reading: GraphNode[], merging: GraphNode[], guiding: GraphNode[]}} reading: they ask
 *   for its weights. merging: as the first model of a merge. guiding: with another clone of the same
 *   file for the other half of guidance
 */
export function weightReaders(root, node) {
  const found = nodesIn(root, []).filter(({ node: one }) => isActive(one));
  /** @param {{node: GraphNode, hosts: GraphNode[]}} at @param {string} input */
  const isFrom = ({ node: one, hosts }, input) =>
    modelSource(one, input, hosts).passed.includes(node);
  const reads = found.filter(({ node: one }) => SAVES.has(one.type) || MERGES.test(one.type));
  const throughOthers = (/** @type {any} */ at) =>
    inputs(at.node).some((input) => input.type === "MODEL" && !isFirst(at.node, input.name) &&
      isFrom(at, input.name));
  return {
    reading: reads.filter(throughOthers).map((at) => at.node),
    merging: reads.filter((at) => isFirst(at.node, FIRST) && isFrom(at, FIRST)).map((at) => at.node),
    guiding: found.filter((at) => at.node.type === TWO_MODELS && isFrom(at, "model") &&
      !isFrom(at, "model_negative") && sameFile(at)).map((at) => at.node),
  };
}

/** The links by which such nodes take the MODEL of a node.
 * @param {any} root the outermost graph @param {GraphNode} node
 * @param {ReturnType<typeof weightReaders>} readers of the node @returns {any[]} */
export function linksTo(root, node, { reading, merging, guiding }) {
  const readers = [...reading, ...merging, ...guiding];
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

/** @param {{node: GraphNode, hosts: GraphNode[]}} at */
function sameFile({ node, hosts }) {
  const [one, other] = ["model", "model_negative"].map((name) => modelSource(node, name, hosts).file);
  return Boolean(one && other) && one?.kind === other?.kind && one?.name === other?.name;
}
