// @ts-check
/** What tells the training that a node would do, as the server is asked whether it can go on. */

import { valueOf, widget } from "../graph/upstream.js";

/** Inputs, and what the server calls them; of a menu's entry, too. */
const INPUTS = { save_name: "save_name", role: "role", method: "method", steps: "steps",
  "method.steps": "steps", effort: "effort" };

/** Nodes that go on, after a run that was stopped, with what it had done. */
const SEARCHES = new Set(["CRAFTFindBest", "CRAFTXYGrid"]);

/** Whether a node trains, under a name that can be resumed. @param {any} node */
const trains = (node) => Boolean(widget(node, "save_name") && widget(node, "resume"));

/** Whether what a node has done is kept where its run is stopped. @param {any} node */
export const keepsWhatIsDone = (node) => trains(node) || SEARCHES.has(node.comfyClass);

/**
 * null for a node that trains nothing, and where only a run can tell what it trains.
 *
 * @param {any} node
 * @param {any[] | null} hosts the subgraph nodes around it
 * @returns {Record<string, string> | null}
 */
export function trainingOf(node, hosts) {
  if (!trains(node)) return null;
  const own = Object.entries(INPUTS).filter(([input]) => widget(node, input));
  const values = own.map(([input, name]) => [name, valueOf(node, input, hosts)]);
  if (values.some(([, value]) => value === undefined || value === null)) return null;
  return { node: node.comfyClass, ...Object.fromEntries(values) };
}
