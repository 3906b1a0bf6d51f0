// @ts-check
/**
 * The texts that the pack shows, in the page's language. The code has each text in English, which
 * is also its key in the locale files, and is shown where a language lacks it.
 */

let spoken = "en";
/** @type {Record<string, string>} */
let known = {};

/**
 * From now on, say texts in a language.
 *
 * @param {string} language as the page names it
 * @param {Record<string, string>} texts that language's, by the English ones
 */
export function speak(language, texts) {
  [spoken, known] = [language, texts];
}

/** The language in which texts are said. */
export const language = () => spoken;

/**
 * A text with its values, in the language spoken.
 *
 * @param {string} english written out where it is said, so that `python run.py locales` finds it;
 *   {name} stands for a value
 * @param {Record<string, string | number>} [values]
 */
export function say(english, values = {}) {
  const text = Object.hasOwn(known, english) ? known[english] : english;
  return text.replace(/\{(\w+)\}/g, (sign, name) =>
    Object.hasOwn(values, name) ? String(values[name]) : sign,
  );
}

/** What a role is called. @param {string} role */
export function sayRole(role) {
  return role === "content" ? say("content") : say("style");
}
