// @ts-check
/** A first prompt for two LoRAs, of the words that they were trained with. */

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
    const phrase = own.slice(0, MOST_WORDS).join(", ").replace(/[<>]/g, "");
    const marked = new RegExp(`<${sign}>.*?</${sign}>`, "s");
    return text.replace(marked, () => `<${sign}>${phrase}</${sign}>`);
  }, prompt);
}
