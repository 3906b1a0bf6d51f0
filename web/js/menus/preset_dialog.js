// @ts-check
/** The dialog of presets: those of the pack and the user's own, to apply, save, rename and delete. */

// @ts-ignore: the host's own module
import { api } from "../../../../scripts/api.js";
import { make } from "../drawings/style.js";
import { CraftError } from "../lib/craft_error.js";
import { fileName, SHIPPED } from "../lib/menus/presets.js";
import { jsonOf } from "../lib/page/answers.js";
import { say } from "../lib/texts.js";
import { deleteOwn, ownPresets, readOwn, renameOwn, saveOwn } from "../page/own_presets.js";

/** @typedef {{present: () => string, apply: (text: string) => Promise<void>}} Use present: the preset
 * of the present values, as JSON */

const ROWS = 9;
const OWN = "own"; // before the name of an own preset in the list
const SHIP = "shipped";

/** Show the presets until the user closes the dialog or applies one.
 * @param {Use} use */
export async function choosePreset(use) {
  const dialog = /** @type {HTMLDialogElement} */ (make("dialog", "craft-dialog"));
  const select = /** @type {HTMLSelectElement} */ (make("select", ""));
  const name = /** @type {HTMLInputElement} */ (make("input", ""));
  const [says, wrong] = [make("p", ""), make("p", "craft-warning")];
  const file = /** @type {HTMLInputElement} */ (make("input", ""));
  [select.size, name.type, file.type, file.accept] = [ROWS, "text", "file", ".json"];
  select.setAttribute("aria-label", say("Presets"));
  file.hidden = true;
  name.placeholder = say("Name");
  name.setAttribute("aria-label", say("Name"));

  const chosen = () => ({ kind: select.value.split(":")[0], name: select.value.replace(/^\w+:/, "") });
  let choices = 0; // of the user
  /** @param {() => string} value what is chosen in the list then, unless the user has chosen since
   * @param {number} before choices */
  const refresh = async (value, before) => {
    const own = await ownPresets();
    const wanted = choices === before ? value() : select.value;
    select.replaceChildren(...groups(own));
    select.value = wanted;
    check();
  };
  /** Do something; where it cannot be done, show why.
   * @param {(before: number) => Promise<void>} work before: how often the user had chosen */
  const trying = async (work) => {
    wrong.hidden = true;
    try {
      await work(choices);
    } catch (error) {
      if (!(error instanceof CraftError)) throw error;
      wrong.textContent = error.message;
      wrong.hidden = false;
    }
  };
  const save = button(say("Save the present settings"), () => trying(async (before) => {
    const own = named(name.value);
    await saveOwn(own, use.present());
    await refresh(() => `${OWN}:${own}`, before);
  }));
  const rename = button(say("Rename"), () => trying(async (before) => {
    const own = named(name.value);
    await renameOwn(chosen().name, own);
    await refresh(() => `${OWN}:${own}`, before);
  }));
  let doomed = ""; // the preset that the next press deletes
  const remove = button(say("Delete"), () => trying(async (before) => {
    if (doomed !== select.value) {
      doomed = select.value;
      check();
      return;
    }
    await deleteOwn(chosen().name);
    name.value = "";
    await refresh(() => "", before);
  }));
  const add = button(say("From a file..."), () => file.click());
  const apply = button(say("Apply"), () => trying(async () => {
    const text = await textOf(chosen());
    dialog.close();
    await use.apply(text);
  }));
  apply.type = "submit";
  const cancel = button(say("Close"), () => dialog.close());

  const check = () => {
    const { kind } = chosen();
    apply.disabled = !kind;
    rename.disabled = remove.disabled = kind !== OWN;
    if (doomed !== select.value) doomed = "";
    remove.textContent = doomed ? say("Delete for good") : say("Delete");
    says.textContent = kind === SHIP ? SHIPPED[chosen().name].use() : "";
  };
  select.addEventListener("input", () => {
    choices++;
    name.value = chosen().kind === OWN ? chosen().name : "";
    check();
  });
  select.addEventListener("dblclick", () => apply.click());
  name.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.isComposing) return;
    event.preventDefault(); // of the form, which applies
    save.click();
  });
  file.addEventListener("change", () => trying(async (before) => {
    const [given] = file.files ?? [];
    if (!given) return;
    const text = await given.text();
    file.value = ""; // the same file may be chosen again
    const own = named(given.name.replace(/\.json$/i, ""));
    await saveOwn(own, text);
    await refresh(() => `${OWN}:${own}`, before);
  }));
  dialog.addEventListener("keydown", (event) => event.stopPropagation()); // no page shortcuts
  dialog.addEventListener("close", () => dialog.remove());
  wrong.hidden = true;
  const form = make(
    "form", "", make("h3", "", say("CRAFT presets")), make("div", "craft-presets", select, says),
    make("div", "craft-buttons", name, save, rename, remove), wrong,
    make("div", "craft-buttons", add, cancel, apply), file,
  );
  form.addEventListener("submit", (event) => event.preventDefault());
  dialog.append(form);
  document.body.append(dialog);
  select.append(...groups([]));
  select.value = "";
  check();
  dialog.showModal();
  await trying((before) => refresh(() => select.value, before));
}

/** @param {string[]} own */
function groups(own) {
  const shipped = Object.entries(SHIPPED).map(([key, { name }]) => option(`${SHIP}:${key}`, name()));
  const ours = own.map((name) => option(`${OWN}:${name}`, name));
  return [group(say("Shipped"), shipped), group(say("Your own"), ours)];
}

/** @param {string} title @param {HTMLElement[]} options */
function group(title, options) {
  const made = /** @type {HTMLOptGroupElement} */ (make("optgroup", "", ...options));
  made.label = title;
  return made;
}

/** @param {string} value @param {string} text */
const option = (value, text) => new Option(text, value);

/** A preset's JSON. @param {{kind: string, name: string}} chosen */
async function textOf({ kind, name }) {
  if (kind === OWN) return readOwn(name);
  const shipped = await jsonOf(api.fetchApi("/craft_lora/presets"));
  return JSON.stringify(shipped[name]);
}

/** @param {string} text @returns {string} */
function named(text) {
  const name = fileName(text);
  if (name) return name;
  throw new CraftError(
    say("This is no name for a preset"),
    say("A preset is a file: up to 80 letters, without \\ / : * ? \" < > |, no dot at its ends, and " +
      "not con or another device of Windows"),
    say("Write another name"),
  );
}

/** @param {string} text @param {() => void} press */
function button(text, press) {
  const made = /** @type {HTMLButtonElement} */ (make("button", "", text));
  made.type = "button";
  made.addEventListener("click", press);
  return made;
}
