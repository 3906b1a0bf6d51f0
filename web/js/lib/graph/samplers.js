// @ts-check
/** Nodes that sample with a MODEL, or make the guider that one samples with. */

import { feedOf, idInPrompt, inputs, outputs, typed } from "./links.js";
import { isActive, modelSource, originPastReroutes } from "./upstream.js";

/** @typedef {any} GraphNode */

/** @type {Record<string, string>} the host's nodes that have one of ours with ACFG */
export const REPLACED = { KSampler: "CRAFTACFGKSampler", CFGGuider: "CRAFTACFGGuider" };
const LATENT = "LATENT";
const RESULTS = new Set([LATENT, "GUIDER"]);
const POSITIVES = new Set(["positive", "conditioning"]);
const DEEP = 20; // levels of subgraphs that are searched

/** Whether a node takes a MODEL and a positive conditioning, and samples or guides.
 * @param {GraphNode} node */
export const isSampler = (node) => samples(node) && positiveOf(node) >= 0;

/** Whether a node takes a MODEL and a negative conditioning, and samples or guides.
 * @param {GraphNode} node */
export const isGuided = (node) =>
  samples(node) &&
  inputs(node).some(({ type, name }) => type === "CONDITIONING" && name === "negative");

/** @param {GraphNode} node */
const samples = (node) =>
  outputs(node).some((output) => RESULTS.has(output.type)) && modelInput(node) >= 0;

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
 * @param {GraphNode[] | null} [within] the subgraph nodes around it, where its subgraph may be placed
 *   twice and one place is meant
 * @param {(node: GraphNode) => boolean} [isMeant] which nodes are samplers
 * @returns {{node: GraphNode, hosts: GraphNode[]}[]}
 */
export function samplersBehind(root, node, within = null, isMeant = isSampler) {
  const id = within && idInPrompt(node, within);
  return nodesIn(root, []).filter(({ node: one, hosts }) => {
    if (!isActive(one) || !isMeant(one)) return false;
    const { places } = modelSource(one, inputs(one)[modelInput(one)].name, hosts);
    return places.some((at) => at.node === node && (!id || idInPrompt(node, at.hosts) === id));
  });
}

/** The nodes whose latents samplers start from, each once.
 * @param {{node: GraphNode, hosts: GraphNode[]}[]} samplers @returns {GraphNode[]} */
export function latentsBefore(samplers) {
  const found = samplers.map(({ node, hosts }) => {
    const index = typed(node, LATENT);
    const from = index >= 0 && feedOf(node, index) ? originPastReroutes(node, index, hosts) : null;
    return from && "slot" in from ? from.node : null;
  });
  return [...new Set(found.filter(Boolean))];
}

/** The host's nodes among samplers that have one of ours with ACFG, each once: a subgraph may be
 * placed twice. @param {{node: GraphNode}[]} samplers @returns {GraphNode[]} */
export const replaceable = (samplers) =>
  [...new Set(samplers.map(({ node }) => node))].filter((node) => node.type in REPLACED);

/** All nodes of a graph and of its subgraphs. @param {any} graph @param {GraphNode[]} hosts
 * @returns {{node: GraphNode, hosts: GraphNode[]}[]} */
export function nodesIn(graph, hosts) {
  /** @type {GraphNode[]} */
  const nodes = graph?.nodes ?? [];
  return nodes.flatMap((node) =>
    node.subgraph && hosts.length < DEEP && isActive(node)
      ? nodesIn(node.subgraph, [...hosts, node])
      : [{ node, hosts }],
  );
}
