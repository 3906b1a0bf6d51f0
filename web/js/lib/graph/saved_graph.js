// @ts-check
/** A graph as the page saves it: the entries of its nodes. */

/**
 * A node's entry; undefined if the graph was saved without it.
 *
 * @param {any} saved
 * @param {any} node
 * @param {any} root the graph that all subgraphs lie in
 */
export function entryOf(saved, node, root) {
  const graph =
    node.graph === root
      ? saved
      : saved?.definitions?.subgraphs?.find((/** @type {any} */ one) => one.id === node.graph?.id);
  return graph?.nodes?.find((/** @type {any} */ one) => String(one.id) === String(node.id));
}

/** Write a node's size into its entry, and its place if asked.
 * @param {any} entry @param {any} node @param {boolean} [place] */
export function noteSize(entry, node, place = false) {
  if (!entry) return;
  entry.size = [...node.size];
  if (place) entry.pos = [...node.pos];
}
