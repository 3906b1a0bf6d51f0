// @ts-check
/** Finds the server's LoRAs by names that a user gives. */

import { CraftError } from "../craft_error.js";
import { say } from "../texts.js";

const WEIGHTS = /\.(safetensors|sft|ckpt|pt|pt2|bin|pth|pkl)$/i;

/** The names in a text: one a line, or separated by commas. @param {string} text */
export function namesIn(text) {
  const lines = text.split(/[\r\n]+/).filter((line) => line.trim());
  return (lines.length > 1 ? lines : text.split(","))
    .map((name) => name.trim().replace(/^["']|["']$/g, ""))
    .filter(Boolean);
}

/**
 * Whether names are meant as a pair of LoRAs: two, each ending as weights files do or known to the
 * server.
 *
 * @param {string[]} names
 * @param {string[]} loras the server's
 */
export function isPair(names, loras) {
  const isOne = (/** @type {string} */ name) => WEIGHTS.test(name) || matches(name, loras).length;
  return names.length === 2 && names.every(isOne);
}

/**
 * The server's own names of LoRAs.
 *
 * @param {string[]} names with or without folder and extension
 * @param {string[]} loras the server's
 * @returns {string[]}
 * @throws {CraftError} for a name that fits no LoRA, or several
 */
export function findLoras(names, loras) {
  const found = names.map((name) => matches(name, loras));
  const absent = names.filter((_, index) => !found[index].length);
  if (absent.length) throw unknown(absent);
  const [several] = found.filter((each) => each.length > 1);
  if (several) throw ambiguous(several);
  return found.map(([one]) => one);
}

/** The LoRAs that a name fits: the one of that name, else those of the same path, else those of the
 * same file name.
 * @param {string} name @param {string[]} loras */
function matches(name, loras) {
  if (loras.includes(name)) return [name];
  const same = loras.filter((lora) => plain(lora) === plain(name));
  return same.length ? same : loras.filter((lora) => stem(lora) === stem(name));
}

/** Macs may take a letter's accent for a letter of its own. @param {string} name */
const plain = (name) =>
  name.normalize("NFC").replaceAll("\\", "/").replace(WEIGHTS, "").toLowerCase();
/** @param {string} name */
const stem = (name) => plain(name).split("/").at(-1);

/** @param {string[]} absent */
const unknown = (absent) =>
  new CraftError(
    say("The server has no LoRA {names}", { names: absent.join(", ") }),
    say("It knows the files in models/loras"),
    say("Put the files there, press R to refresh the lists, and try again"),
  );

/** @param {string[]} several */
const ambiguous = (several) =>
  new CraftError(
    say("One of the names fits several LoRAs: {names}", { names: several.join(", ") }),
    say("A name with its folder fits one"),
    say("Write the folder too"),
  );
