// @ts-check
/** Failures that show beside the node that failed: on the Router that feeds it, and on the subgraph
 * nodes around it. */

import { idInPrompt, titleOf } from "../graph/links.js";
import { isSame, onlyRouter, routersBefore } from "../graph/routers.js";
import { say } from "../texts.js";
import { sayOfServer } from "./server_texts.js";

/** @typedef {import("../graph/routers.js").At} At */
/** @typedef {{node: string, type: string, text: string}} Failure node: its id in the prompt */
/** @typedef {{text: string, failed: true}} Shown */

const OURS = "CRAFT";
const OWN_ERROR = /(^|\.)craft_core\.errors\.CraftError$/; // of whatever the pack is installed as

/** Whether an error is the pack's: raised in one of its nodes, or by its own code in another.
 * @param {string | undefined} type of the node @param {string | undefined} error its type */
export const isOurs = (type, error) =>
  Boolean(type?.startsWith(OURS)) || OWN_ERROR.test(error ?? "");

/**
 * Why a node fails that a Router feeds, where that node does not say it itself. null for none.
 *
 * @param {Failure[]} failures of the workflow
 * @param {any} root its outermost graph
 * @param {At} router
 * @returns {Shown | null}
 */
export function failureBehind(failures, root, router) {
  for (const { node: id, type, text } of failures) {
    const at = type.startsWith(OURS) ? null : nodeAt(root, id);
    if (at && routersBefore(at).some((one) => isSame(one, router))) return named(at, text);
  }
  return null;
}

/**
 * Why a node inside a subgraph node fails, or one that its only Router feeds. null for none.
 *
 * @param {Failure[]} failures of the workflow
 * @param {any} root its outermost graph
 * @param {At} host the subgraph node
 * @returns {Shown | null}
 */
export function failureInside(failures, root, { node: host, hosts }) {
  const inner = [idInPrompt(host, hosts), ""].join(":"); // with which the ids inside it begin
  const router = onlyRouter(host, hosts);
  for (const { node: id, text } of failures) {
    const at = id.startsWith(inner) ? nodeAt(root, id) : null;
    if (at && router && isSame(at, router)) return { text: sayOfServer(text), failed: true };
    if (at) return named(at, text);
  }
  return router && failureBehind(failures, root, router);
}

/** @param {At} at @param {string} text @returns {Shown} */
const named = ({ node }, text) => ({
  text: say("{node}: {why}", { node: titleOf(node), why: sayOfServer(text) }),
  failed: true,
});

/** The node of an id in a prompt; null where it is gone.
 * @param {any} root the outermost graph @param {string} id @returns {At | null} */
function nodeAt(root, id) {
  const path = id.split(":");
  /** @type {any[]} */
  const hosts = [];
  let graph = root;
  for (const [at, own] of path.entries()) {
    const node = graph?.nodes?.find((/** @type {any} */ one) => String(one.id) === own);
    if (!node) return null;
    if (at === path.length - 1) return { node, hosts: [...hosts] };
    hosts.push(node);
    graph = node.subgraph;
  }
  return null;
}
