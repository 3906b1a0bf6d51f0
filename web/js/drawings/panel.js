// @ts-check
/**
 * A drawing on a node: a widget without a value, which is neither sent with a prompt nor saved.
 *
 * What a drawing shows can change in many ways (typing, undo, a widget of the subgraph node around
 * it, a loader ten nodes before it), and the host has no event for all of them. So a few times a
 * second each drawing of the open graph reads its state, and is drawn again if the state or the
 * page's language has changed.
 */

// @ts-ignore: the host's own module
import { app } from "../../../../scripts/app.js";
import { withoutUnsaved } from "../lib/graph/saved_values.js";
import { hostsOf } from "../lib/graph/upstream.js";
import { language } from "../lib/texts.js";
import { growsWithoutAStep } from "../page/history.js";
import { make } from "./style.js";

const EVERY = 150; // milliseconds
const MARGIN = 4;
const TYPE = "craft_drawing"; // of the widgets

/**
 * @typedef {object} Drawing
 * @property {string} name of the widget
 * @property {string} [after] name of the widget above it; the last one if not given
 * @property {(node: any, hosts: any[] | null) => any} read gives its state as plain data, null to
 *   hide it. hosts: the subgraph nodes around the node, null if its subgraph is used several times
 * @property {(content: HTMLElement, state: any, look: () => void) => void} draw shows the state in
 *   the empty element; look: to be called after the drawing itself has changed the state
 * @property {(content: HTMLElement, state: any) => boolean} [update] brings what is drawn up to
 *   date, if it can: so that a click or a word being typed is not cut off by a new element
 * @property {() => void} [end] the node was taken out of its graph
 * @property {number} [minimum] lowest height of a drawing that grows with its node
 */

/** Keys that a drawing handles itself if no modifier is held; the page handles all others. */
const OWN_KEYS = new Set(["Enter", " ", "Tab", "ArrowUp", "ArrowDown", "ArrowLeft", "ArrowRight"]);

/** @type {WeakMap<any, (() => void)[]>} by node, the functions that read its drawings. Weak, because
 * the host does not notify the nodes of a subgraph when their graph is closed */
const looks = new WeakMap();

/** Start reading the drawings; called once.
 * @param {(node: any) => void} dress may add drawings to a subgraph node that has none */
export function keepDrawings(dress) {
  setInterval(() => {
    if (document.hidden) return;
    for (const node of app.canvas?.graph?.nodes ?? []) {
      if (node.subgraph && !looks.has(node)) dress(node);
      for (const look of looks.get(node) ?? []) look();
    }
  }, EVERY);
}

/** @param {any} node @param {Drawing} drawing */
export function addDrawing(node, drawing) {
  const content = make("div", "");
  const element = make("div", `craft-panel ${drawing.name}`, content);
  element.hidden = true;
  for (const kind of ["keydown", "keyup"])
    element.addEventListener(kind, keepOwnKeys);
  if (node.subgraph) for (const kind of ["pointerdown", "pointermove", "pointerup"])
    element.addEventListener(kind, (event) => event.stopPropagation()); // as on the page's widgets

  let tall = 0; // as it was last shown: before that the page may give it no width, and its lines break
  const height = () => {
    if (element.hidden) return 0;
    if (element.offsetWidth) tall = content.offsetHeight;
    return Math.max(drawing.minimum ?? 0, drawing.minimum ? 0 : tall) + 2 * MARGIN;
  };
  const own = node.subgraph ? heldBy(node) : null;
  const widget = node.addDOMWidget(drawing.name, TYPE, element, {
    serialize: false,
    hideOnZoom: false,
    hideInPanel: true, // the list of the selected node's parameters would show an empty entry
    margin: MARGIN,
    getMinHeight: height,
    getMaxHeight: drawing.minimum ? undefined : height,
  });
  widget.serialize = false;
  if (own) own.push(widget);
  else {
    place(node, widget, drawing.after);
    saveWithoutGaps(node);
    loadWithoutGaps(node);
  }

  let seen = "";
  const look = () => {
    if (!element.isConnected) takePlace(node, element, drawing.name);
    const state = drawing.read(node, hostsOf(app.rootGraph ?? app.graph, node.graph));
    const text = JSON.stringify([language(), state]);
    if (text === seen) return;
    seen = text;
    element.hidden = state === null;
    if (state === null || !drawing.update?.(content, state)) {
      content.replaceChildren();
      if (state !== null) drawing.draw(content, state, look);
    }
    node.setDirtyCanvas?.(true, true);
  };
  looks.set(node, [...(looks.get(node) ?? []), look]);
  const observer = new ResizeObserver(() => node.setDirtyCanvas?.(true, true));
  growsWithoutAStep(node);
  // When a loaded menu value adds its inputs, the host discards the saved height: set it again.
  chainTo(node, "onConfigure", (/** @type {any} */ saved) => {
    if (saved?.size) node.size = [...saved.size];
  });
  if (node.graph) observer.observe(content);
  chainTo(node, "onAdded", () => observer.observe(content));
  chainTo(node, "onRemoved", () => {
    observer.disconnect();
    drawing.end?.();
  });
}

/** @param {any} event */
function keepOwnKeys(event) {
  const modified = event.ctrlKey || event.metaKey || event.altKey;
  const chooses = event.target.localName === "select"; // by letters, too
  if ((chooses || OWN_KEYS.has(event.key)) && !modified) event.stopPropagation();
}

/** Undo makes a new node with the same id, whose Vue element still shows the drawing of the old
 * node: replace that. The page shows none itself on a subgraph node that is drawn so.
 * @param {any} node @param {HTMLElement} element @param {string} name */
function takePlace(node, element, name) {
  const shown = `[data-node-id="${CSS.escape(String(node.id))}"]`;
  const former = document.querySelector(`${shown} .craft-panel.${name}`);
  if (former) former.replaceWith(element);
  else if (held.has(node)) document.querySelector(`${shown} .lg-node-widgets`)?.append(element);
}

/** @type {WeakMap<any, any[]>} the widgets of our drawings on subgraph nodes */
const held = new WeakMap();

/** The list of our widgets on a subgraph node, which the page draws on the classic canvas after those
 * that it makes of the subgraph's inputs. Where it draws nodes as elements, it takes only its own.
 * null where its nodes have a list to which widgets can be added.
 * @param {any} node @returns {any[] | null} */
function heldBy(node) {
  const known = held.get(node);
  if (known) return known;
  const own = Object.getOwnPropertyDescriptor(node, "widgets");
  const { get } = own ?? {};
  if (!get) return null;
  /** @type {any[]} */
  const widgets = [];
  const isClassic = () => !(/** @type {any} */ (globalThis).LiteGraph.vueNodesMode);
  Object.defineProperty(node, "widgets", {
    ...own,
    get: () => [...get.call(node), ...(isClassic() ? widgets : [])],
  });
  held.set(node, widgets);
  return widgets;
}

/** @param {any} node @param {any} widget @param {string | undefined} after */
function place(node, widget, after) {
  const above = node.widgets.findIndex((/** @type {any} */ one) => one.name === after);
  if (above < 0) return;
  node.widgets.splice(node.widgets.indexOf(widget), 1);
  node.widgets.splice(above + 1, 0, widget);
}

/** The host saves a value at its widget's index, but on loading counts only the widgets that are
 * saved. So a widget that is not saved must leave no gap. @param {any} node */
function saveWithoutGaps(node) {
  chainTo(node, "onSerialize", (/** @type {any} */ saved) => {
    if (Array.isArray(saved.widgets_values))
      saved.widgets_values = saved.widgets_values.filter(() => true); // filter skips gaps
  });
}

/** @type {WeakSet<any>} nodes that load without gaps */
const loading = new WeakSet();

/** Newer front ends take out values where unsaved widgets stand, if a node is saved with more values
 * than a new one has, as under a menu's entry. So our drawings are away while it loads.
 * @param {any} node */
function loadWithoutGaps(node) {
  if (loading.has(node)) return;
  loading.add(node);
  const { configure } = node;
  node.configure = function (/** @type {any} */ saved) {
    return withoutUnsaved(this, saved, TYPE, () => configure.call(this, saved));
  };
}

/** @param {any} node @param {string} name @param {(...values: any[]) => void} then */
function chainTo(node, name, then) {
  const before = node[name];
  node[name] = function (/** @type {any[]} */ ...values) {
    const result = before?.apply(this, values);
    then(...values);
    return result;
  };
}
