// @ts-check
/** A dialog in which a content LoRA and a style LoRA are chosen. */

import { make } from "../drawings/style.js";
import { say } from "../lib/texts.js";

const ROWS = 8;

/** @typedef {import("../lib/insertion/wiring.js").ModelFile} ModelFile */
/** @typedef {{pair: string[], model: ModelFile | null}} Chosen pair: content and style. model: null
 * where the user left it open */

/**
 * Ask for a pair, and for the model where there are several.
 *
 * @param {string[]} loras
 * @param {ModelFile[]} models
 * @param {(pair: string[]) => Promise<ModelFile | null>} bestOf the model that they fit
 * @returns {Promise<Chosen | null>} null if the user cancelled
 */
export function choosePair(loras, models, bestOf) {
  const dialog = /** @type {HTMLDialogElement} */ (make("dialog", "craft-dialog"));
  const content = list(say("Content LoRA: what is shown"), loras);
  const style = list(say("Style LoRA: how it is shown"), loras);
  const add = button("submit", say("Add to the graph"));
  const cancel = button("button", say("Cancel"));
  const note = make("p", "craft-warning", say("There are no LoRAs in models/loras."));
  note.hidden = loras.length > 0;
  const lists = make("div", "craft-lists", content.element, style.element);
  const model = modelMenu(models, bestOf);
  if (models.length > 1) lists.append(model.element);
  const buttons = make("div", "craft-buttons", cancel, add);
  const form = make("form", "", make("h3", "", label()), lists, note, buttons);
  dialog.append(form);
  const check = () => {
    const pair = [content.value(), style.value()];
    add.disabled = !pair.every(Boolean);
    if (!add.disabled) model.fit(pair);
  };
  dialog.addEventListener("input", check);
  dialog.addEventListener("keydown", (event) => event.stopPropagation()); // no page shortcuts
  check();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => {
      dialog.remove();
      const pair = [content.value(), style.value()];
      resolve(dialog.returnValue ? { pair, model: model.value() } : null);
    });
    cancel.addEventListener("click", () => dialog.close(""));
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      dialog.close(add.type);
    });
    document.body.append(dialog);
    dialog.showModal();
  });
}

const label = () => say("Content and style from two LoRAs");

/** A menu of models, which shows the one that the LoRAs fit until the user chooses another.
 * @param {ModelFile[]} models @param {(pair: string[]) => Promise<ModelFile | null>} bestOf */
function modelMenu(models, bestOf) {
  const select = /** @type {HTMLSelectElement} */ (make("select", ""));
  select.append(...models.map(({ name }, at) => new Option(name, String(at))));
  let isChosen = false;
  let asked = "";
  select.addEventListener("change", () => (isChosen = true));
  return {
    element: make("label", "craft-model", say("Model"), select),
    value: () => (isChosen ? models[select.selectedIndex] : null),
    fit: async (/** @type {string[]} */ pair) => {
      const now = pair.join("\n");
      if (models.length < 2 || now === asked) return;
      asked = now;
      const best = await bestOf(pair);
      if (now === asked && !isChosen) select.selectedIndex = best ? models.indexOf(best) : 0;
    },
  };
}

/** A search field over a list. @param {string} title @param {string[]} loras */
function list(title, loras) {
  const search = /** @type {HTMLInputElement} */ (make("input", ""));
  search.type = "search";
  search.placeholder = say("Search");
  const select = /** @type {HTMLSelectElement} */ (make("select", ""));
  select.size = ROWS;
  select.required = true;
  const fill = () => {
    const words = search.value.toLowerCase().split(/\s+/);
    const fits = (/** @type {string} */ name) => words.every((word) => name.includes(word));
    const fitting = loras.filter((name) => fits(name.toLowerCase()));
    const kept = fitting.includes(select.value) ? select.value : fitting[0];
    select.replaceChildren(...fitting.map((name) => new Option(name, name, false, name === kept)));
  };
  search.addEventListener("input", fill);
  search.addEventListener("keydown", (event) => move(event, select));
  fill();
  select.selectedIndex = -1;
  const element = make("label", "", title, search);
  select.setAttribute("aria-label", title);
  return { element: make("div", "", element, select), value: () => select.value };
}

/** Arrow keys in the search field move the selection of the list. @param {KeyboardEvent} event
 * @param {HTMLSelectElement} select */
function move(event, select) {
  const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
  if (!step || !select.options.length) return;
  event.preventDefault();
  const last = select.options.length - 1;
  select.selectedIndex = Math.min(Math.max(select.selectedIndex + step, 0), last);
  select.dispatchEvent(new Event("input", { bubbles: true }));
}

/** @param {"submit" | "button"} type @param {string} text */
function button(type, text) {
  const made = /** @type {HTMLButtonElement} */ (make("button", "", text));
  made.type = type;
  return made;
}
