// @ts-check
/** Nodes that take a marked prompt, the LoRAs that reach them, and what they feed. */

import { feedOf, idInPrompt, inputs } from "./links.js";
import { nodesIn } from "./samplers.js";
import { chain, isActive, origin } from "./upstream.js";

/** @typedef {any} GraphNode */
/** @typedef {{node: GraphNode, hosts: GraphNode[]}} At a node, and the subgraph nodes around it */

const ROUTERS = new Set(["CRAFTRouter", "CRAFTMethodSweep"]);
const MARKED = new Set([...ROUTERS, "CRAFTXYGrid", "CRAFTFindBest"]);
const LIMIT = 2000; // nodes that are looked at before another

/** Whether a node routes LoRAs and draws whose words are whose. @param {GraphNode} node */
export const isRouter = (node) => ROUTERS.has(node.type);

/** Whether the prompt of a node has markers. @param {GraphNode} node */
export const isMarked = (node) => MARKED.has(node.type);

/**
 * The nodes with a marked prompt that take the branches of a node and run, in any graph, each with
 * the subgraph nodes around it.
 *
 * @param {any} root the outermost graph
 * @param {GraphNode} node
 * @returns {At[]}
 */
export const routersBehind = (root, node) =>
  nodesIn(root, []).filter(
    ({ node: one, hosts }) =>
      isMarked(one) && isActive(one) && chain(one, "extra_branches", "branches", hosts).includes(node),
  );

/** The nodes inside a subgraph node, also inside those in it; none for other nodes, and for one that
 * does not run. @param {GraphNode} node @param {GraphNode[]} hosts the subgraph nodes around it
 * @returns {At[]} */
export const inside = (node, hosts) =>
  node.subgraph && isActive(node) ? nodesIn({ nodes: [node] }, hosts) : [];

/** The only Router that runs inside a subgraph node; null for none, and for several.
 * @param {GraphNode} node @param {GraphNode[]} hosts @returns {At | null} */
export function onlyRouter(node, hosts) {
  const found = inside(node, hosts).filter(({ node: one }) => isRouter(one) && isActive(one));
  return found.length === 1 ? found[0] : null;
}

/**
 * The Routers that a node is fed by: of each way to it, the nearest.
 *
 * @param {At} at
 * @returns {At[]}
 */
export function routersBefore({ node, hosts }) {
  /** @type {At[]} */
  const found = [];
  const seen = new Set();
  const open = [{ node, hosts }];
  for (let at = open.pop(); at && seen.size < LIMIT; at = open.pop()) {
    for (let index = 0; index < inputs(at.node).length; index += 1) {
      const from = feedOf(at.node, index) && origin(at.node, index, at.hosts);
      const id = from && "slot" in from ? idInPrompt(from.node, from.hosts) : "";
      if (!from || !("slot" in from) || seen.has(id)) continue;
      seen.add(id);
      (isRouter(from.node) && isActive(from.node) ? found : open).push(from);
    }
  }
  return found;
}

/** Whether two are one node, in one use of its subgraph. @param {At} one @param {At} other */
export const isSame = (one, other) =>
  one.node === other.node &&
  idInPrompt(one.node, one.hosts) === idInPrompt(other.node, other.hosts);
