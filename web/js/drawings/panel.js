// @ts-check
/**
 * A drawing on a node: a widget that has no value, takes part in no prompt and is not saved.
 *
 * What a drawing shows may change in many ways (typing, undo, a subgraph's outer widget, a loader
 * ten nodes up), and the host has no event for all of them. So the drawings of the graph on screen
 * are read a few times a second, and drawn anew where what they read, or the language, has changed.
 */

// @ts-ignore: the host's own module
import { app } from "../../../../scripts/app.js";
import { hostsOf } from "../lib/graph/upstream.js";
import { language } from "../lib/texts.js";
import { growsWithoutAStep } from "../page/history.js";
import { make } from "./style.js";

const EVERY = 150; // milliseconds
const MARGIN = 4;

/**
 * @typedef {object} Drawing
 * @property {string} name of the widget
 * @property {string} [after] the widget it stands below; the last one if not given
 * @property {(node: any, hosts: any[] | null) => any} read what it shows, as plain data; null for
 *   nothing. hosts: the subgraph nodes around the node, null if there are several such places
 * @property {(content: HTMLElement, state: any) => void} draw fills the empty element
 * @property {number} [minimum] height of a drawing that grows with its node
 */

/** Keys that a drawing uses itself, without a modifier; all others are the page's. */
const OWN_KEYS = new Set(["Enter", " ", "Tab", "ArrowUp", "ArrowDown", "ArrowLeft", "ArrowRight"]);

/** @type {WeakMap<any, () => void>} by node; weak, as the host tells no node in a subgraph that its
 * graph was put away */
const looks = new WeakMap();

/** Start reading the drawings; once. */
export function keepDrawing() {
  setInterval(() => {
    if (document.hidden) return;
    for (const node of app.canvas?.graph?.nodes ?? []) looks.get(node)?.();
  }, EVERY);
}

/** @param {any} node @param {Drawing} drawing */
export function addDrawing(node, drawing) {
  const content = make("div", "");
  const element = make("div", "craft-panel", content);
  element.hidden = true;
  for (const kind of ["keydown", "keyup"])
    element.addEventListener(kind, keepOwnKeys);

  const height = () => {
    if (element.hidden) return 0;
    return Math.max(drawing.minimum ?? 0, drawing.minimum ? 0 : content.offsetHeight) + 2 * MARGIN;
  };
  const widget = node.addDOMWidget(drawing.name, "craft_drawing", element, {
    serialize: false,
    hideOnZoom: false,
    hideInPanel: true, // of the selected node's parameters, where it would be an empty one
    margin: MARGIN,
    getMinHeight: height,
    getMaxHeight: drawing.minimum ? undefined : height,
  });
  widget.serialize = false;
  place(node, widget, drawing.after);
  saveWithoutGaps(node);

  let seen = "";
  const look = () => {
    if (!element.isConnected) takePlace(node, element);
    const state = drawing.read(node, hostsOf(app.rootGraph ?? app.graph, node.graph));
    const text = JSON.stringify([language(), state]);
    if (text === seen) return;
    seen = text;
    element.hidden = state === null;
    content.replaceChildren();
    if (state !== null) drawing.draw(content, state);
    node.setDirtyCanvas?.(true, true);
  };
  looks.set(node, look);
  const observer = new ResizeObserver(() => node.setDirtyCanvas?.(true, true));
  growsWithoutAStep(node);
  // The host gives up the saved height when the values bring the inputs of a menu's entry.
  chainTo(node, "onConfigure", (/** @type {any} */ saved) => {
    if (saved?.size) node.size = [...saved.size];
  });
  chainTo(node, "onAdded", () => observer.observe(content));
  chainTo(node, "onRemoved", () => observer.disconnect());
}

/** @param {any} event */
function keepOwnKeys(event) {
  const modified = event.ctrlKey || event.metaKey || event.altKey;
  if (OWN_KEYS.has(event.key) && !modified) event.stopPropagation();
}

/** Undo makes a node anew, and a Vue node goes on showing the drawing of the one before.
 * @param {any} node @param {HTMLElement} element */
function takePlace(node, element) {
  const own = `[data-node-id="${CSS.escape(String(node.id))}"] .craft-panel`;
  document.querySelector(own)?.replaceWith(element);
}

/** @param {any} node @param {any} widget @param {string | undefined} after */
function place(node, widget, after) {
  const above = node.widgets.findIndex((/** @type {any} */ one) => one.name === after);
  if (above < 0) return;
  node.widgets.splice(node.widgets.indexOf(widget), 1);
  node.widgets.splice(above + 1, 0, widget);
}

/** The host saves values by position and reads them one after another, passing over widgets that
 * are not saved; where such a widget stands between others, that leaves a gap to close.
 * @param {any} node */
function saveWithoutGaps(node) {
  chainTo(node, "onSerialize", (/** @type {any} */ saved) => {
    if (Array.isArray(saved.widgets_values))
      saved.widgets_values = saved.widgets_values.filter(() => true); // skips what is not there
  });
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
