// @ts-check
/** Shows a graph that opens without a view of its own, as templates do, so that it can be read. */

// @ts-ignore: the host's own module
import { app } from "../../../../scripts/app.js";

const READABLE = 0.7; // scale
const MARGIN = [80, 110]; // of the first node to the left and upper edge of the canvas
const OURS = "CRAFT";

/** Called by the host after it has loaded a graph, and fitted all of it into the page. */
export function showReadable() {
  const { ds } = app.canvas;
  const { nodes, extra } = app.rootGraph ?? app.graph;
  const isOurs = nodes.some((/** @type {any} */ node) => node.comfyClass?.startsWith(OURS));
  const tracker = app.extensionManager.workflow?.activeWorkflow?.changeTracker;
  if (!isOurs || extra?.ds || tracker?._restoringState || ds.scale >= READABLE) return;
  const corner = [0, 1].map((axis) =>
    Math.min(...nodes.map((/** @type {any} */ { pos }) => pos[axis])),
  );
  ds.scale = READABLE;
  ds.offset = corner.map((place, axis) => MARGIN[axis] / READABLE - place);
  app.canvas.setDirty(true, true);
}
