/** A graph of the page, as far as links are followed in it: every link comes from the first output
 * of node 1. */
export function linked(nodes) {
  const graph = {
    nodes,
    getNodeById: (id) => nodes.find((node) => node.id === id),
    getLink: () => ({ origin_id: 1, origin_slot: 0 }),
  };
  for (const node of nodes) node.graph = graph;
  return graph;
}
