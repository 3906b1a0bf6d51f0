// @ts-check
/**
 * The texts that the pack shows, in the page's language. The code has each text in English, which
 * is also its key in the locale files, and is shown where a language lacks it.
 */

let spoken = "en";
/** @type {Record<string, string>} */
let known = {};
/** @typedef {{inputs?: Record<string, {options?: Record<string, string>}>}} Definition */
/** @typedef {Record<string, Definition>} Nodes */
/** @typedef {{templates: Record<string, Record<string, string>>, nodes: Nodes,
 *   server: Record<string, string>}} Around */
/** @type {Around} */
let around = { templates: {}, nodes: {}, server: {} };

/**
 * From now on, say texts in a language.
 *
 * @param {string} language as the page names it
 * @param {Record<string, string>} texts that language's, by the English ones
 * @param {Record<string, Record<string, string>>} [templates] the lines of each template, in the
 *   same way, by the template's name
 * @param {Nodes} [nodes] that language's nodeDefs, which have the words for values of menus
 * @param {Record<string, string>} [server] what the server says, by the English templates
 */
export function speak(language, texts, templates = {}, nodes = {}, server = {}) {
  [spoken, known, around] = [language, texts, { templates, nodes, server }];
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

/** The lines of a template in the language spoken, by the English ones; none where it has none.
 * @param {unknown} name the template's */
export const linesOf = (name) => own(around.templates, name) ?? {};

/** What the server says in the language spoken, by the English templates. */
export const serverTexts = () => around.server;

/** What the values of a node's menu are called, by value; undefined where none has a word.
 * @param {string} node its type @param {string} input such as method.gamma */
export const wordsOf = (node, input) =>
  own(own(around.nodes, node)?.inputs ?? {}, input.replaceAll(".", "_"))?.options;

/** What a value of a node's menu is called; the value itself where it has no word.
 * @param {string} node @param {string} input @param {string | null} value none: nothing chosen */
export const sayValue = (node, input, value) =>
  own(wordsOf(node, input) ?? {}, value) ?? value ?? "";

/** @template T @param {Record<string, T>} table @param {unknown} key @returns {T | undefined} */
const own = (table, key) =>
  typeof key === "string" && Object.hasOwn(table, key) ? table[key] : undefined;

/** What a role is called. @param {string} role */
export function sayRole(role) {
  return role === "content" ? say("content") : say("style");
}
