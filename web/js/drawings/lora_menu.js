// @ts-check
/** The host's menu, with its filter, of the LoRA files that the server has. */

import { say } from "../lib/texts.js";
import { modelFiles } from "../page/server.js";

const LORAS = "loras"; // folder of the models

/** @type {string[] | null} null until they are known */
let known = null;
let asked = false;

/** The names that were last asked for; null until then. */
export function knownLoras() {
  if (!asked) refresh();
  return known;
}

async function refresh() {
  asked = true;
  known = await modelFiles(LORAS);
  return known;
}

/** The name that the user chooses from a menu below an element; null for none.
 * @param {HTMLElement} element @returns {Promise<string | null>} */
export async function chooseLora(element) {
  const names = await refresh();
  const { left, bottom } = element.getBoundingClientRect();
  const event = new MouseEvent("click", { clientX: left, clientY: bottom });
  const lack = { content: say("There are no LoRAs in models/loras."), disabled: true };
  return new Promise((resolve) => {
    const { ContextMenu } = /** @type {any} */ (globalThis).LiteGraph;
    new ContextMenu(names.length ? names : [lack], {
      event,
      className: "dark", // the host adds its filter to menus of this class
      callback: (/** @type {any} */ name) => resolve(typeof name === "string" ? name : null),
    });
  });
}
