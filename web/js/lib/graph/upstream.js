// @ts-check
/**
 * Where a node's inputs come from, through reroutes, bypassed nodes and into or out of subgraphs.
 * Reads the host's graph as plain data: nodes with inputs and widgets, links by id.
 */

/** @typedef {any} GraphNode */
/** @typedef {{node: GraphNode, slot: number, hosts: GraphNode[]}} Origin */
/** @typedef {{kind: string, name: string}} ModelFile kind: its folder */

const OUTSIDE = -10; // the host's id of a subgraph's own inputs
const NEVER = 2; // mode of a muted node
const BYPASSED = 4;
const LIMIT = 500; // nodes followed; a loop ends here
const KINDS = { ckpt_name: "checkpoints", unet_name: "diffusion_models" };
const TEXT_NODES = new Set(["PrimitiveNode", "PrimitiveString", "PrimitiveStringMultiline"]);
const NUMBER_NODES = new Set(["PrimitiveNode", "PrimitiveFloat", "PrimitiveInt"]);
const SWITCH_NODES = new Set(["PrimitiveNode", "PrimitiveBoolean"]);
const VALUE_NODES = new Set([...TEXT_NODES, ...NUMBER_NODES, ...SWITCH_NODES]);

/**
 * The node and output behind an input, null where nothing is linked.
 *
 * @param {GraphNode} node
 * @param {number} index of the input
 * @param {GraphNode[]} hosts the subgraph nodes around it, outermost first
 * @returns {Origin | {node: GraphNode, input: any, hosts: GraphNode[]} | null} `input`: an input of
 *   a subgraph node that nothing is linked to
 */
export function origin(node, index, hosts) {
  let graph = node.graph;
  let link = linkOf(graph, node.inputs?.[index]?.link);
  let around = hosts;
  for (let left = LIMIT; link && left > 0; left -= 1) {
    if (Number(link.origin_id) === OUTSIDE) {
      const host = around[around.length - 1];
      if (!host) return null;
      around = around.slice(0, -1);
      const outer = linkOf(host.graph, host.inputs?.[link.origin_slot]?.link);
      if (!outer) return { node: host, input: host.inputs?.[link.origin_slot], hosts: around };
      [graph, link] = [host.graph, outer];
      continue;
    }
    const found = graph.getNodeById(link.origin_id);
    if (!found) return null;
    if (!found.subgraph) return { node: found, slot: link.origin_slot, hosts: around };
    around = [...around, found];
    graph = found.subgraph;
    const inner = graph.outputNode?.slots?.[link.origin_slot]?.linkIds?.[0];
    link = linkOf(graph, inner);
  }
  return null;
}

/** The same, past the reroutes that stand before it.
 * @param {GraphNode} node @param {number} index @param {GraphNode[]} hosts */
export function originPastReroutes(node, index, hosts) {
  let from = origin(node, index, hosts);
  for (let left = LIMIT; from && "slot" in from && from.node.type === "Reroute" && left; left -= 1)
    from = origin(from.node, 0, from.hosts);
  return from;
}

/**
 * The subgraph nodes around a node, outermost first; null if its subgraph is used more than once,
 * as it is then unknown which use is meant.
 *
 * @param {any} root the outermost graph
 * @param {any} graph the graph the node is in
 * @returns {GraphNode[] | null}
 */
export function hostsOf(root, graph) {
  /** @type {GraphNode[][]} */
  const found = [];
  /** @param {any} at @param {GraphNode[]} path */
  const search = (at, path) => {
    if (at === graph) found.push(path);
    if (path.length > 20) return;
    for (const node of at.nodes ?? []) if (node.subgraph) search(node.subgraph, [...path, node]);
  };
  search(root, []);
  return found.length === 1 ? found[0] : null;
}

/**
 * The widget that decides a value of a node, by its node and name: its own, or that of a primitive
 * or subgraph input linked to it. null where the value is known only after a run.
 *
 * @param {GraphNode} node
 * @param {string} name
 * @param {GraphNode[] | null} hosts as hostsOf gives them
 * @returns {{node: GraphNode, name: string} | null}
 */
export function decider(node, name, hosts) {
  const index = inputIndex(node, name);
  if (index < 0 || node.inputs[index].link == null) return { node, name };
  const from = hosts && origin(node, index, hosts);
  if (!from) return null;
  if ("input" in from)
    return { node: from.node, name: from.input?.widget?.name ?? from.input?.name };
  const shown = VALUE_NODES.has(from.node.type) ? from.node.widgets?.[0] : null;
  return shown ? { node: from.node, name: shown.name } : null;
}

/**
 * The value that a run will use for a widget. undefined where it is known only after a run.
 *
 * @param {GraphNode} node
 * @param {string} name
 * @param {GraphNode[] | null} hosts as hostsOf gives them
 */
export function valueOf(node, name, hosts) {
  return sourceWidget(node, name, hosts)?.value;
}

/** That widget itself; undefined where only a run can tell.
 * @param {GraphNode} node @param {string} name @param {GraphNode[] | null} hosts */
export function sourceWidget(node, name, hosts) {
  const at = decider(node, name, hosts);
  return at ? widget(at.node, at.name) : undefined;
}

/** The settings that the entry of a menu brings, by their names without the menu's.
 * @param {GraphNode} node @param {string} menu @param {GraphNode[] | null} hosts
 * @returns {Record<string, any>} */
export function settingsOf(node, menu, hosts) {
  const names = [...(node.widgets ?? []), ...(node.inputs ?? [])].map((one) => one.name);
  const own = new Set(names.filter((name) => name.startsWith(`${menu}.`)));
  return Object.fromEntries(
    [...own].map((name) => [name.slice(menu.length + 1), valueOf(node, name, hosts)]),
  );
}

/** Whether a node only hands a value on. @param {GraphNode} node */
export const isPrimitive = (node) => VALUE_NODES.has(node.type);

/**
 * The model file behind an input, and the nodes on the way to it.
 *
 * @param {GraphNode} node
 * @param {string} name of its MODEL input
 * @param {GraphNode[] | null} hosts
 * @returns {{file: ModelFile | null, passed: GraphNode[], places: Origin[], linked: boolean}}
 *   file: null where the page cannot know. places: of the nodes on the way
 */
export function modelSource(node, name, hosts) {
  const index = inputIndex(node, name);
  const linked = index >= 0 && node.inputs[index].link != null;
  /** @type {Origin[]} */
  const places = [];
  const found = (/** @type {ModelFile | null} */ file) =>
    ({ file, passed: places.map((place) => place.node), places, linked });
  let at = linked && hosts ? origin(node, index, hosts) : null;
  while (at && "slot" in at && places.length < LIMIT) {
    places.push(at);
    if (at.node.mode === NEVER) break;
    const next = modelInput(at.node, at.slot);
    if (next < 0) return found(fileOf(at.node, at.hosts));
    at = origin(at.node, next, at.hosts);
  }
  return found(null);
}

/**
 * The nodes of a chain that is linked through inputs of one name, nearest first.
 *
 * @param {GraphNode} node
 * @param {string} first the node's input
 * @param {string} further the same input of the nodes behind it
 * @param {GraphNode[] | null} hosts
 */
export function chain(node, first, further, hosts) {
  /** @type {GraphNode[]} */
  const found = [];
  let index = inputIndex(node, first);
  let at = index >= 0 && hosts ? origin(node, index, hosts) : null;
  while (at && "slot" in at && found.length < LIMIT) {
    if (isActive(at.node)) found.push(at.node);
    index = at.node.type === "Reroute" ? 0 : inputIndex(at.node, further);
    at = index >= 0 ? origin(at.node, index, at.hosts) : null;
  }
  return found;
}

/** @param {GraphNode} node */
export function isActive(node) {
  return node.mode !== NEVER && node.mode !== BYPASSED;
}

/** @param {GraphNode} node @param {string} name */
export function widget(node, name) {
  return node.widgets?.find((/** @type {any} */ one) => one.name === name);
}

/** @param {GraphNode} node @param {string} name */
function inputIndex(node, name) {
  return (node.inputs ?? []).findIndex((/** @type {any} */ input) => input.name === name);
}

/** The input through which a node passes a MODEL on to an output: the one of the output's name, as
 * a node with several has, else the first that is linked; -1 for a node that loads it.
 * @param {GraphNode} node @param {number} slot of the output */
function modelInput(node, slot) {
  if (node.type === "Reroute") return 0;
  /** @type {any[]} */
  const inputs = node.inputs ?? [];
  const models = inputs.filter((input) => input.type === "MODEL" && input.link != null);
  const named = models.find((input) => input.name === node.outputs?.[slot]?.name);
  return inputs.indexOf(named ?? models[0]);
}

/** The model file that a node loads; null for none, and where the page cannot know.
 * @param {GraphNode} node @param {GraphNode[] | null} hosts
 * @returns {ModelFile | null} */
export function fileOf(node, hosts) {
  for (const one of node.widgets ?? []) {
    const part = one.name.split(".").at(-1);
    const kind = KINDS[/** @type {keyof typeof KINDS} */ (part)];
    const name = kind && isActive(node) ? valueOf(node, one.name, hosts) : undefined;
    if (typeof name === "string" && name) return { kind, name };
  }
  return null;
}

/** @param {any} graph @param {any} id */
function linkOf(graph, id) {
  if (id == null || !graph) return null;
  return graph.getLink?.(id) ?? graph.links?.get?.(id) ?? graph.links?.[id] ?? null;
}
