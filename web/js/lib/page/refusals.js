// @ts-check
/** What our nodes say of inputs with which the server does not take a prompt. */

import { sayOfServer } from "./server_texts.js";

const OURS = "CRAFT";
const OWN_CHECK = "custom_validation_failed"; // the host's name for what a node's own check finds

/** @typedef {{type: string, details?: string, extra_info?: {input_name?: string}}} Found */
/** @typedef {Record<string, {class_type?: string, errors?: Found[]}>} NodeErrors by node id */
/** @typedef {{node: string, type: string, text: string}} Refusal node: its id in the prompt */

/**
 * What nodes of ours have found, and the host's own messages put in the page's language.
 *
 * @param {NodeErrors | null | undefined} found as the server answers; its details are changed
 * @returns {Refusal[]} one a node, in the server's English
 */
export function refusalsOf(found) {
  return Object.entries(found ?? {}).flatMap(([node, { class_type: type = "", errors = [] }]) => {
    if (!type.startsWith(OURS)) return [];
    const texts = new Set(); // the host repeats what is found for each input
    for (const error of errors) {
      const text = foundBy(error);
      if (!text) continue;
      texts.add(text);
      error.details = `${error.extra_info?.input_name} - ${sayOfServer(text)}`;
    }
    return texts.size ? [{ node, type, text: [...texts].join("\n") }] : [];
  });
}

/** What a node's own check says; "" where the host has found something else. @param {Found} error */
function foundBy({ type, details = "", extra_info: { input_name: input } = {} }) {
  const before = `${input} - `;
  return type === OWN_CHECK && details.startsWith(before) ? details.slice(before.length) : "";
}
