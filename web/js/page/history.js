// @ts-check
/**
 * Our changes of the graph in the page's own undo history.
 *
 * After a key, a click or a run the page compares the graph with the state it last saved, and makes
 * one undo step of the difference. So we change the graph and have the state saved at once, before
 * the user can do anything else. A node's size that the page computes only later, when it draws the
 * node, must not become an undo step of its own: it is written into the last saved state.
 */

// @ts-ignore: the host's own modules
import { api } from "../../../../scripts/api.js";
// @ts-ignore
import { app } from "../../../../scripts/app.js";
import { entryOf, noteSize } from "../lib/graph/saved_graph.js";

/** How often the user has pressed a key or a mouse button. */
let presses = 0;
/** Whether the last mouse press was on an edge or corner that resizes a node. */
let resizing = false;

addEventListener("keydown", () => (presses += 1), true);
addEventListener(
  "pointerdown",
  ({ target }) => {
    presses += 1;
    resizing = target instanceof Element && getComputedStyle(target).cursor.endsWith("-resize");
  },
  true,
);

const trackerNow = () => app.extensionManager.workflow.activeWorkflow?.changeTracker;
const rootNow = () => app.rootGraph ?? app.graph;

/**
 * Change the graph as one step: one undo takes back the whole change, and nothing else.
 *
 * @template T
 * @param {() => T} change
 * @returns {T}
 */
export function asOneStep(change) {
  const tracker = trackerNow();
  capture(tracker); // what the user did before becomes a step of its own
  tracker?.beforeChange();
  try {
    return change();
  } finally {
    tracker?.afterChange();
    app.canvas.setDirty(true, true);
  }
}

/** @param {any} tracker */
function capture(tracker) {
  (tracker?.captureCanvasState ?? tracker?.checkState)?.call(tracker);
}

/**
 * Place new nodes again whenever the page has computed the size of one, as part of the step just
 * made, until the user presses something.
 *
 * @param {any[]} nodes
 * @param {() => void} place
 */
export function placeAsTheyGrow(nodes, place) {
  const tracker = trackerNow();
  const [step, before, root] = [tracker?.activeState, presses, rootNow()];
  let due = false;
  const again = () => {
    due = false;
    if (tracker?.activeState !== step) return;
    const free = presses === before;
    if (free) place();
    for (const node of nodes) noteSize(entryOf(step, node, root), node, free);
  };
  for (const node of nodes) {
    onResize(node, () => {
      if (!due) queueMicrotask(again); // once, after the page has set all sizes
      due = true;
    });
  }
}

/** Keep the growth of a node by its drawing from becoming an undo step. @param {any} node */
export function growsWithoutAStep(node) {
  const note = () => {
    const tracker = trackerNow();
    if (!tracker?.activeState || !node.graph) return;
    if (isLoading(tracker)) requestAnimationFrame(note); // until the loaded state is saved
    else noteSize(entryOf(tracker.activeState, node, rootNow()), node);
  };
  onResize(node, note);
}

/**
 * Run a function after every step that the page saves; what it changes becomes part of the step.
 *
 * @param {() => any[]} act returns the nodes that it changed
 */
export function completeSteps(act) {
  api.addEventListener("graphChanged", () => {
    for (const node of act()) {
      const entry = entryOf(trackerNow()?.activeState, node, rootNow());
      if (entry) Object.assign(entry, JSON.parse(JSON.stringify(node.serialize())));
    }
  });
}

/** @param {any} tracker */
const isLoading = (tracker) => tracker._restoringState || tracker.constructor.isLoadingGraph;

/** Run a function when the page, not the user, has changed a node's size.
 * @param {any} node @param {() => void} then */
function onResize(node, then) {
  const before = node.onResize;
  node.onResize = function (/** @type {any[]} */ ...values) {
    before?.apply(this, values);
    if (!resizing && !(globalThis.event instanceof UIEvent)) then();
  };
}
