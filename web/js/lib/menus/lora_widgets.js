// @ts-check
/** The LoRA files that are chosen on nodes of ours, and the prompts that their words belong in. */

import { outputs, titleOf } from "../graph/links.js";
import { inside, isMarked, routersBehind } from "../graph/routers.js";
import { valueOf } from "../graph/upstream.js";

/** @typedef {import("../drawings/markers.js").Role} Role */
/** @typedef {{node: any, hosts: any[] | null}} At a node, and the subgraph nodes around it */
/** @typedef {{at: At, input: string, file: string, role: Role | null}} ChosenLora input: as the page
 * names it. role: null where no prompt takes its words */

const OURS = "CRAFT";
const BRANCHES = "CRAFT_BRANCHES"; // type of an output
const INPUT = /(^|[._])lora$/; // how the inputs are named that take a LoRA file
const NO_FILE = new Set(["none", "same", ""]);

/** The LoRAs chosen on a node, or inside a subgraph node.
 * @param {any} node @param {any[] | null} hosts the subgraph nodes around it
 * @returns {ChosenLora[]} */
export function lorasOn(node, hosts) {
  const within = hosts ? inside(node, hosts).filter((at) => at.node !== node) : [];
  return [
    ...ownLoras({ node, hosts }, ""),
    ...within.flatMap((at) => ownLoras(at, `${titleOf(at.node)}: `)),
  ];
}

/** The nodes whose prompts take the words of a node's LoRAs: the node itself, or the Routers behind
 * it. @param {any} root the outermost graph @param {At} at @returns {At[]} */
export const promptsOf = (root, at) =>
  isMarked(at.node) ? [at] : routersBehind(root, at.node);

/** @param {At} at @param {string} before the names of the inputs @returns {ChosenLora[]} */
function ownLoras(at, before) {
  const { node, hosts } = at;
  if (!node.type?.startsWith(OURS)) return [];
  return (node.widgets ?? [])
    .filter((/** @type {any} */ { name }) => INPUT.test(name))
    .map((/** @type {any} */ { name, label }) => ({
      at, input: before + (label ?? name), file: valueOf(node, name, hosts), role: roleOf(at, name),
    }))
    .filter((/** @type {any} */ { file }) => typeof file === "string" && !NO_FILE.has(file));
}

/** @param {At} at @param {string} name of the input @returns {Role | null} */
function roleOf({ node, hosts }, name) {
  if (!isMarked(node) && !outputs(node).some(({ type }) => type === BRANCHES)) return null;
  const role = name.match(/content|style/)?.[0] ?? valueOf(node, "role", hosts);
  return role === "content" || role === "style" ? role : null;
}
