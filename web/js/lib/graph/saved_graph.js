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

const ROUNDING = 0.01; // of a place that a page reads off its own drawing, as older ones do

/** Write a node's size into its entry; its place if asked, or if it has not moved but for rounding.
 * @param {any} entry @param {any} node @param {boolean} [place] */
export function noteSize(entry, node, place = false) {
  if (!entry) return;
  entry.size = [...node.size];
  const near = [0, 1].every((axis) => Math.abs(entry.pos?.[axis] - node.pos[axis]) < ROUNDING);
  if (place || near) entry.pos = [...node.pos];
}
