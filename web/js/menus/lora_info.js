// @ts-check
/** What a LoRA file says of itself: in a row of LoRA List, and in a dialog for any other LoRA. */

import { make } from "../drawings/style.js";
import { sayOfServer } from "../lib/page/server_texts.js";
import { say } from "../lib/texts.js";
import { askLoraInfo, pictureAddress } from "../page/server.js";

/** @typedef {(words: string[]) => void} Put puts the file's trigger words into a prompt */

/** Its kinds, rank, base model, trigger words and picture.
 * @param {string} file @param {any} info as the server gives it; null until it has
 * @param {Put | null} put null where no prompt takes the words @returns {Node[]} */
export function infoParts(file, info, put) {
  if (!info) return [make("div", "craft-quiet", say("Reading the file …"))];
  if (info.error) return [make("div", "craft-warning", sayOfServer(info.error))];
  const lines = infoLines(info).map((text) => make("div", "craft-quiet", text));
  if (info.words.length) lines.push(wordsLine(info.words, put));
  return info.picture ? [...lines, preview(file, info.picture)] : lines;
}

/** Show them until the user closes the dialog or puts the words into the prompt.
 * @param {string} file @param {Put | null} put */
export async function showLoraInfo(file, put) {
  const dialog = /** @type {HTMLDialogElement} */ (make("dialog", "craft-dialog"));
  const told = make("div", "craft-info");
  const close = button("", say("Close"), () => dialog.close());
  dialog.append(make("h3", "", file), told, make("div", "craft-buttons", close));
  dialog.addEventListener("keydown", (event) => event.stopPropagation()); // no page shortcuts
  dialog.addEventListener("close", () => dialog.remove());
  document.body.append(dialog);
  dialog.showModal();
  const putAndClose = put && ((/** @type {string[]} */ words) => {
    dialog.close();
    put(words);
  });
  const draw = (/** @type {any} */ info) =>
    told.replaceChildren(...infoParts(file, info, putAndClose));
  draw(null);
  draw(await askLoraInfo(file));
}

/** Kinds, ranks and base model. @param {any} info @returns {string[]} */
function infoLines({ kinds, ranks, text_encoder, family, stated, basis }) {
  const parts = Object.entries(kinds).map(([kind, count]) =>
    say("{kind} in {count} layers", { kind, count: Number(count) }));
  if (ranks.length) {
    const [least, most] = [ranks[0], ranks[ranks.length - 1]];
    parts.push(say("rank {ranks}", { ranks: least === most ? least : `${least}-${most}` }));
  }
  if (text_encoder) parts.push(say("text encoder: {count} matrices", { count: text_encoder }));
  const names = [family, ...stated].filter(Boolean).join(", ");
  const lines = parts.length ? [parts.join(", ")] : [];
  if (names) lines.push(say("Base model: {names}", { names }));
  if (basis) lines.push(say("Trained on the rank-limited backbone of {basis}", { basis }));
  return lines;
}

/** @param {string[]} words @param {Put | null} put */
function wordsLine(words, put) {
  const line = make("div", "", say("Trained with: {words}", { words: words.join(", ") }));
  if (put) line.append(" ", button("craft-offer", say("Put into the prompt"), () => put(words)));
  return line;
}

/** @param {string} file @param {string} route of its picture */
function preview(file, route) {
  const picture = /** @type {HTMLImageElement} */ (make("img", "craft-preview"));
  picture.src = pictureAddress(route);
  picture.alt = say("Preview of {file}", { file });
  picture.addEventListener("error", () => picture.remove());
  return picture;
}

/** @param {string} className @param {string} text @param {() => void} press */
function button(className, text, press) {
  const made = /** @type {HTMLButtonElement} */ (make("button", className, text));
  made.type = "button";
  made.addEventListener("click", press);
  return made;
}
