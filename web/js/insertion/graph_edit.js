// @ts-check
/** Changes of the graph by our commands: new nodes in free places, undone in one step. */

// @ts-ignore: the host's own module
import { app } from "../../../../scripts/app.js";
import { CraftError } from "../lib/craft_error.js";
import { linkOf, OUTSIDE } from "../lib/graph/links.js";
import { freePlace } from "../lib/graph/placing.js";
import { say } from "../lib/texts.js";
import { asOneStep, placeAsTheyGrow } from "../page/history.js";

/** @typedef {import("../lib/graph/links.js").Feed} Feed */
/** @typedef {import("../lib/graph/placing.js").Box} Box */

const KEPT = ["color", "bgcolor", "mode"]; // what a node keeps when its type is replaced
const OF_PACK = ["cnr_id", "aux_id", "ver"]; // properties that say which pack a node is of
const TITLE = 30; // height of a node's title, which lies above its place
/** @type {Record<string, number>} height of our nodes once their drawings are shown */
const GROWN = { CRAFTRouter: 690, CRAFTTimestepSchedule: 320 };

/** Run an action; show a CraftError that it throws as a message.
 * @param {() => Promise<void>} action */
export async function attempt(action) {
  try {
    await action();
  } catch (error) {
    if (!(error instanceof CraftError)) throw error;
    notify("warn", say("Nothing was changed"), error.message);
  }
}

/** @param {"info" | "success" | "warn"} severity @param {string} summary @param {string} detail */
export function notify(severity, summary, detail) {
  app.extensionManager.toast.add({ severity, summary, detail, life: 12_000 });
}

/** A new node in a graph. @param {any} graph @param {string} type
 * @param {[number, number]} place */
export function addNode(graph, type, place) {
  const node = /** @type {any} */ (globalThis).LiteGraph.createNode(type);
  node.pos = [...place];
  graph.add(node);
  return node;
}

/**
 * Link an output to an input.
 *
 * @param {any} graph
 * @param {Feed} feed the output
 * @param {any} node
 * @param {string | number} input its name or index
 */
export function connectFeed(graph, feed, node, input) {
  const index = typeof input === "number" ? input : node.findInputSlot(input);
  if (Number(feed.id) === OUTSIDE) {
    return graph.inputNode.slots[feed.slot].connect(node.inputs[index], node, feed.parentId);
  }
  return graph.getNodeById(feed.id).connect(feed.slot, node, index, feed.parentId);
}

/** @param {any} node @param {string} name @param {any} value */
export function setWidget(node, name, value) {
  const widget = node.widgets?.find((/** @type {any} */ one) => one.name === name);
  if (!widget) return;
  widget.value = value;
  widget.callback?.(value);
}

/**
 * Replace a node by one of another type. The new node takes over values, links, title, colours,
 * mode, flags and properties, among them the name by which file name patterns refer to the node.
 *
 * @param {any} old
 * @param {string} type of the new node; its inputs have the names of the old node's
 */
export function replaceNode(old, type) {
  const { graph } = old;
  const made = addNode(graph, type, old.pos);
  if (old.title !== old.constructor.title) made.title = old.title;
  for (const name of KEPT) if (old[name] !== undefined) made[name] = old[name];
  Object.assign(made.flags, old.flags);
  const properties = Object.entries(old.properties ?? {});
  Object.assign(
    made.properties, Object.fromEntries(properties.filter(([name]) => !OF_PACK.includes(name))),
  );
  for (const widget of old.widgets ?? []) setWidget(made, widget.name, widget.value);
  old.inputs.forEach((/** @type {any} */ input, /** @type {number} */ index) => {
    const link = linkOf(graph, input.link);
    const feed = link && { id: link.origin_id, slot: link.origin_slot, parentId: link.parentId };
    if (feed) connectFeed(graph, feed, made, input.name || index);
  });
  old.outputs.forEach((/** @type {any} */ output, /** @type {number} */ slot) => {
    for (const id of [...(output.links ?? [])]) moveLink(graph, linkOf(graph, id), made, slot);
  });
  graph.remove(old);
  made.size = [Math.max(old.size[0], made.size[0]), made.size[1]];
  return made;
}

/** @param {any} graph @param {any} link @param {any} node @param {number} slot */
function moveLink(graph, link, node, slot) {
  const target = graph.getNodeById(link.target_id);
  if (target) node.connect(slot, target, link.target_slot, link.parentId);
  else graph.outputNode.slots[link.target_slot].connect(node.outputs[slot], node, link.parentId);
}

/**
 * Add nodes and place them, so that one undo removes them all.
 *
 * @template T
 * @param {() => T} add
 * @param {(added: T) => any[]} nodesOf the added nodes
 * @param {(added: T) => void} place the nodes, by their sizes
 */
export function addAsOneStep(add, nodesOf, place) {
  const added = asOneStep(() => {
    const made = add();
    place(made);
    return made;
  });
  placeAsTheyGrow(nodesOf(added), () => place(added));
  return added;
}

/**
 * Put a node where nothing else is, near a place.
 *
 * @param {any} node
 * @param {[number, number]} near its left and top, without the title
 * @param {Set<any>} [pending] nodes that are yet to be placed, so nothing keeps clear of them
 */
export function putFree(node, near, pending = new Set()) {
  const { graph } = node;
  const others = graph.nodes.filter((/** @type {any} */ one) => one !== node && !pending.has(one));
  const ends = [graph.inputNode, graph.outputNode].filter(Boolean);
  const taken = [...others.map(boxOf), ...ends.map(({ boundingRect }) => [...boundingRect])];
  const height = Math.max(node.size[1], GROWN[node.type] ?? 0) + TITLE;
  const [left, top] = freePlace([near[0], near[1] - TITLE, node.size[0], height], taken);
  node.pos = [left, top + TITLE];
}

/** @param {any} node @returns {Box} */
const boxOf = ({ type, pos, size, flags }) => {
  const height = flags?.collapsed ? 0 : Math.max(size[1], GROWN[type] ?? 0);
  return [pos[0], pos[1] - TITLE, size[0], height + TITLE];
};

/** Select nodes, and scroll to them if the first is out of sight. @param {any[]} nodes */
export function showNodes(nodes) {
  const { canvas } = app;
  const [first] = nodes;
  if (canvas.graph !== first?.graph) return;
  canvas.selectItems(nodes);
  const [left, top, width, height] = canvas.ds.visible_area;
  const [right, bottom] = [left + width, top + height];
  const [x, y] = first.pos;
  const seen = x > left && y > top && x + first.size[0] < right && y + first.size[1] < bottom;
  if (!seen) canvas.animateToBounds(first.boundingRect);
}
