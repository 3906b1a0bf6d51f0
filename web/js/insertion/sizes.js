// @ts-check
/** The size of empty latents that were inserted, as their model asks for it. */

import { INSERTED } from "../lib/drawings/notices.js";
import { asOneStep } from "../page/history.js";
import { replaceNode, setWidget } from "./graph_edit.js";

/** @typedef {import("../lib/drawings/notices.js").Latent} Latent */

/** Note with what size a latent is inserted. @param {any} node @param {number[]} size */
export const noteSize = (node, size) => (node.properties[INSERTED] = size);

/** Make latents what a picture of a model starts from, as one step: another node where the family has
 * another kind. @param {any[]} latents @param {Latent} wanted */
export function setSizes(latents, [type, width, height]) {
  const isKnown = type in (/** @type {any} */ (globalThis).LiteGraph.registered_node_types);
  asOneStep(() => latents.forEach((node) => {
    const made = isKnown && node.type !== type ? replaceNode(node, type) : node;
    setWidget(made, "width", width);
    setWidget(made, "height", height);
    noteSize(made, [width, height]);
  }));
}
