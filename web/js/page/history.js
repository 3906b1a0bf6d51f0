// @ts-check
/**
 * The page's own history of the graph, which undo and redo go through.
 *
 * The page compares the graph with what it last noted after a key, a click or a run, and calls what
 * differs one step. So a change of ours is made at once and noted at once: nothing that the user
 * does can come between. A size that the page finds out later, when it has drawn a node, is no step
 * of anybody: it is written into what the page noted last.
 */

// @ts-ignore: the host's own modules
import { api } from "../../../../scripts/api.js";
// @ts-ignore
import { app } from "../../../../scripts/app.js";
import { entryOf, noteSize } from "../lib/graph/saved_graph.js";

/** How often the user has pressed a key or a button. */
let presses = 0;
/** Whether the last button was pressed on what changes a node's size by hand. */
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
 * Change the graph as one step: one undo takes back all of it, and nothing else.
 *
 * @template T
 * @param {() => T} change
 * @returns {T}
 */
export function asOneStep(change) {
  const tracker = trackerNow();
  capture(tracker); // what the user did before is a step of his
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
 * Place new nodes anew whenever the page has found out a size, as a part of the step just taken,
 * until the user does something.
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
      if (!due) queueMicrotask(again); // when the page is done with all that it found out
      due = true;
    });
  }
}

/** Have no size that a node grows to by what it draws counted as a step. @param {any} node */
export function growsWithoutAStep(node) {
  const note = () => {
    const tracker = trackerNow();
    if (!tracker?.activeState || !node.graph) return;
    if (isLoading(tracker)) requestAnimationFrame(note); // it has yet to say what it loaded
    else noteSize(entryOf(tracker.activeState, node, rootNow()), node);
  };
  onResize(node, note);
}

/**
 * Act whenever the page has noted a step: what is done to nodes at once becomes a part of it.
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

/** Act when the page, and not the user, has changed a node's size.
 * @param {any} node @param {() => void} then */
function onResize(node, then) {
  const before = node.onResize;
  node.onResize = function (/** @type {any[]} */ ...values) {
    before?.apply(this, values);
    if (!resizing && !(globalThis.event instanceof UIEvent)) then();
  };
}
