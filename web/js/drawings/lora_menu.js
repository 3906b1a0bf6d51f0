// @ts-check
/** The host's menu, with its filter, of the LoRA files that the server has. */

import { say } from "../lib/texts.js";
import { AGAIN, modelFiles } from "../page/server.js";

const LORAS = "loras"; // folder of the models

/** @type {string[] | null} null until they are known */
let known = null;
let due = 0; // when they are asked for, while they are not known

/** The names that the server last gave; null until then. */
export function knownLoras() {
  if (!known && performance.now() >= due) refresh();
  return known;
}

async function refresh() {
  due = performance.now() + AGAIN;
  known = (await modelFiles(LORAS)) ?? known;
  return known;
}

/** The name that the user chooses from a menu below an element; null for none.
 * @param {HTMLElement} element @returns {Promise<string | null>} */
export async function chooseLora(element) {
  const names = await refresh();
  const { left, bottom } = element.getBoundingClientRect();
  const event = new MouseEvent("click", { clientX: left, clientY: bottom });
  const why = names ? say("There are no LoRAs in models/loras.") : say("the server did not answer");
  return new Promise((resolve) => {
    const { ContextMenu } = /** @type {any} */ (globalThis).LiteGraph;
    new ContextMenu(names?.length ? names : [{ content: why, disabled: true }], {
      event,
      className: "dark", // the host adds its filter to menus of this class
      callback: (/** @type {any} */ name) => resolve(typeof name === "string" ? name : null),
    });
  });
}
