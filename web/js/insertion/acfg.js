// @ts-check
/** Puts our nodes with ACFG in the place of the host's KSampler and CFGGuider. */

import { REPLACED } from "../lib/graph/samplers.js";
import { addAsOneStep, putFree, replaceNode } from "./graph_edit.js";

/** Replace them as one step; each stays where it was if the new one fits there.
 * @param {any[]} samplers */
export function useAcfg(samplers) {
  addAsOneStep(
    () => samplers.map((node) => replaceNode(node, REPLACED[node.type])),
    (made) => made,
    (made) => made.forEach((node) => putFree(node, node.pos)),
  );
}
