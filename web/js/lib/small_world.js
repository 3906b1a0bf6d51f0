// @ts-check
/** Which files of the demo's model a graph names that the server does not have. */

const OURS = "craft_small_world";
const DEEP = 20; // levels of subgraphs that are searched

/**
 * @param {any} graph the host's, or any with nodes
 * @returns {string[]} names of files of the small world, each once, in the order met
 */
export function absentFiles(graph, depth = 0) {
  /** @type {string[]} */
  const found = [];
  for (const node of graph?.nodes ?? []) {
    if (node.subgraph && depth < DEEP) found.push(...absentFiles(node.subgraph, depth + 1));
    for (const widget of node.widgets ?? []) if (isAbsent(widget, node)) found.push(widget.value);
  }
  return [...new Set(found)];
}

/** @param {any} widget @param {any} node */
function isAbsent(widget, node) {
  if (typeof widget.value !== "string" || !widget.value.startsWith(OURS)) return false;
  const values = widget.options?.values;
  const offered = typeof values === "function" ? values(widget, node) : values;
  return Array.isArray(offered) && !offered.includes(widget.value);
}
