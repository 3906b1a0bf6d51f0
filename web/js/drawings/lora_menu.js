// @ts-check
/** The host's menu, with its filter, of the LoRA files that the server has. */

import { say } from "../lib/texts.js";
import { chooseEntry } from "../menus/file_menu.js";
import { AGAIN, forgetAnswers, modelFiles } from "../page/server.js";

const LORAS = "loras"; // folder of the models

/** @type {string[] | null} null until they are known */
let known = null;
let due = 0; // when they are asked for; never again where they are known, until the page is refreshed

/** The names that the server last gave; null until then. */
export function knownLoras() {
  if (performance.now() >= due) refresh();
  return known;
}

/** The user has the page look again what files there are. */
export function lookAgain() {
  due = 0;
  forgetAnswers();
}

async function refresh() {
  due = performance.now() + AGAIN;
  const found = await modelFiles(LORAS);
  if (found) [known, due] = [found, Infinity];
  return known;
}

/** The name that the user chooses from a menu below an element; null for none.
 * @param {HTMLElement} element @returns {Promise<string | null>} */
export async function chooseLora(element) {
  const names = await refresh();
  const { left, bottom } = element.getBoundingClientRect();
  const why = names ? say("There are no LoRAs in models/loras.") : say("the server did not answer");
  const disabled = { content: why, disabled: true };
  const isAny = Boolean(names?.length);
  const place = await chooseEntry(names && isAny ? names : [disabled], [left, bottom]);
  return isAny ? names?.[place] ?? null : null;
}
