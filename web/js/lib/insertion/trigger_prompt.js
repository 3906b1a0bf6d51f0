// @ts-check
/** Prompts with the words that LoRAs were trained with. */

import { parse } from "../drawings/markers.js";

/** @typedef {import("../drawings/markers.js").Role} Role */

const MOST_WORDS = 3; // of a LoRA

/**
 * A prompt with the words of each role in place of its marked phrase; a role without words keeps
 * its phrase.
 *
 * @param {string} prompt with a pair of markers for each role
 * @param {Record<Role, string[]>} words
 */
export function promptWith(prompt, words) {
  return Object.entries(words).reduce((text, [role, own]) => {
    if (!own.length) return text;
    const sign = role[0];
    const phrase = own.slice(0, MOST_WORDS).map(plain).join(", ");
    const marked = new RegExp(`<${sign}>.*?</${sign}>`, "s");
    return text.replace(marked, () => `<${sign}>${phrase}</${sign}>`);
  }, prompt);
}

/**
 * A prompt with words in the marked phrase of a role: those that its phrases lack are added to the
 * first. Without such a phrase, a word that the prompt has already is marked, or a phrase is added.
 *
 * @param {string} prompt
 * @param {Role} role
 * @param {string[]} words
 * @throws {CraftError} where the markers of the prompt cannot be read
 */
export function withWords(prompt, role, words) {
  const { phrases, marks } = parse(prompt);
  const own = phrases.filter((phrase) => phrase.role === role);
  const said = own.map(({ text }) => text.toLowerCase());
  const lacking = words.filter((word) => !said.some((text) => text.includes(word.toLowerCase())));
  const added = lacking.map(plain).join(", ");
  if (!added) return prompt;
  if (own.length) return spliced(prompt, own[0].end, own[0].end, `, ${added}`);
  const marked = (/** @type {string} */ text) => `<${role[0]}>${text}</${role[0]}>`;
  const found = unmarkedPlace(prompt, [...phrases, ...marks], lacking[0]);
  if (found < 0) return [prompt.trimEnd(), marked(added)].filter(Boolean).join(", ");
  const end = found + lacking[0].length;
  const others = lacking.slice(1).map(plain);
  return spliced(prompt, found, end, marked([prompt.slice(found, end), ...others].join(", ")));
}

/** Where a word stands by itself outside of all phrases and markers; -1 for nowhere.
 * @param {string} prompt @param {{start: number, end: number}[]} taken @param {string} word */
function unmarkedPlace(prompt, taken, word) {
  const masked = taken.reduce(
    (text, { start, end }) => spliced(text, start, end, "\0".repeat(end - start)), prompt,
  );
  const letters = word.replace(/[.*+?^${}()|[\]\\]/g, "\\$&");
  return masked.search(new RegExp(`(?<![\\p{L}\\p{N}])${letters}(?![\\p{L}\\p{N}])`, "iu"));
}

/** @param {string} text @param {number} start @param {number} end @param {string} put */
const spliced = (text, start, end, put) => text.slice(0, start) + put + text.slice(end);

/** A word that is no marker. @param {string} word */
const plain = (word) => word.replace(/[<>]/g, "");
