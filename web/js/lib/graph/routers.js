// @ts-check
/** Nodes that take a marked prompt, and the LoRAs that reach them. */

import { nodesIn } from "./samplers.js";
import { chain, isActive } from "./upstream.js";

/** @typedef {any} GraphNode */

const ROUTERS = new Set(["CRAFTRouter", "CRAFTMethodSweep"]);

/** @param {GraphNode} node */
export const isRouter = (node) => ROUTERS.has(node.type);

/**
 * The Routers that take the branches of a node and run, in any graph, each with the subgraph nodes
 * around it.
 *
 * @param {any} root the outermost graph
 * @param {GraphNode} node
 * @returns {{node: GraphNode, hosts: GraphNode[]}[]}
 */
export const routersBehind = (root, node) =>
  nodesIn(root, []).filter(
    ({ node: one, hosts }) =>
      isRouter(one) && isActive(one) && chain(one, "extra_branches", "branches", hosts).includes(node),
  );
