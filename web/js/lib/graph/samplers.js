// @ts-check
/** Nodes that sample with a MODEL, or make the guider that one samples with. */

import { inputs, outputs, typed } from "./links.js";
import { isActive, modelSource } from "./upstream.js";

/** @typedef {any} GraphNode */

/** @type {Record<string, string>} the host's nodes that have one of ours with ACFG */
export const REPLACED = { KSampler: "CRAFTACFGKSampler", CFGGuider: "CRAFTACFGGuider" };
const RESULTS = new Set(["LATENT", "GUIDER"]);
const POSITIVES = new Set(["positive", "conditioning"]);
const DEEP = 20; // levels of subgraphs that are searched

/** Whether a node takes a MODEL and a positive conditioning, and samples or guides.
 * @param {GraphNode} node */
export function isSampler(node) {
  const samples = outputs(node).some((output) => RESULTS.has(output.type));
  return samples && modelInput(node) >= 0 && positiveOf(node) >= 0;
}

/** The index of the input that takes a MODEL. @param {GraphNode} node */
export const modelInput = (node) => typed(node, "MODEL");

/** @param {GraphNode} node */
export const positiveOf = (node) =>
  inputs(node).findIndex((one) => one.type === "CONDITIONING" && POSITIVES.has(one.name));

/**
 * The samplers that the MODEL of a node reaches, in any graph, each with the subgraph nodes around
 * it.
 *
 * @param {any} root the outermost graph
 * @param {GraphNode} node
 * @returns {{node: GraphNode, hosts: GraphNode[]}[]}
 */
export function samplersBehind(root, node) {
  return within(root, []).filter(({ node: one, hosts }) => {
    if (!isActive(one) || !isSampler(one)) return false;
    const { passed } = modelSource(one, inputs(one)[modelInput(one)].name, hosts);
    return passed.includes(node);
  });
}

/** The host's nodes among samplers that have one of ours with ACFG, each once: a subgraph may be
 * placed twice. @param {{node: GraphNode}[]} samplers @returns {GraphNode[]} */
export const replaceable = (samplers) =>
  [...new Set(samplers.map(({ node }) => node))].filter((node) => node.type in REPLACED);

/** All nodes of a graph and of its subgraphs. @param {any} graph @param {GraphNode[]} hosts
 * @returns {{node: GraphNode, hosts: GraphNode[]}[]} */
export function within(graph, hosts) {
  /** @type {GraphNode[]} */
  const nodes = graph?.nodes ?? [];
  return nodes.flatMap((node) =>
    node.subgraph && hosts.length < DEEP && isActive(node)
      ? within(node.subgraph, [...hosts, node])
      : [{ node, hosts }],
  );
}
