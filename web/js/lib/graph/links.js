// @ts-check
/** Direct links between nodes, read from the host's graph as plain data. */

/** @typedef {{id: any, slot: number, parentId?: any}} Feed the node and output behind an input; id
 * OUTSIDE for a subgraph's own input; parentId: the reroute that the link ends at */

export const OUTSIDE = -10; // the host's id of a subgraph's own inputs

/** Nodes linked to a node's outputs of a type; to any output where the node is a reroute.
 * @param {any} node @param {string} type @returns {any[]} */
export function linked(node, type) {
  return outputs(node)
    .filter((output) => output.type === type || node.type === "Reroute")
    .flatMap((output) => output.links ?? [])
    .map((id) => linkOf(node.graph, id))
    .map((link) => link && node.graph.getNodeById(link.target_id))
    .filter(Boolean);
}

/**
 * The output that is linked to an input; null for none.
 *
 * @param {any} node
 * @param {number} index
 * @returns {Feed | null}
 */
export function feedOf(node, index) {
  const link = linkOf(node.graph, node.inputs?.[index]?.link);
  return link && { id: link.origin_id, slot: link.origin_slot, parentId: link.parentId };
}

/** @param {any} graph @param {any} id */
export function linkOf(graph, id) {
  if (id == null || !graph) return null;
  return graph.getLink?.(id) ?? graph.links?.get?.(id) ?? graph.links?.[id] ?? null;
}

/** What a node is called in the page. @param {any} node @returns {string} */
export const titleOf = (node) => node.title || node.type;

/** A node's id as prompts have it: the ids of the subgraph nodes around it, then its own.
 * @param {any} node @param {any[]} hosts outermost first */
export const idInPrompt = (node, hosts) => [...hosts, node].map(({ id }) => id).join(":");

/** @param {any} node @returns {any[]} */
export const inputs = (node) => node.inputs ?? [];
/** @param {any} node @returns {any[]} */
export const outputs = (node) => node.outputs ?? [];
/** @param {any} node @param {string} type */
export const typed = (node, type) => inputs(node).findIndex((one) => one.type === type);
