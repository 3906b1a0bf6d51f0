// @ts-check
/** A template's notes and titles in another language than the English of its file. */

const NOTES = ["Note", "MarkdownNote"];
const OURS = "CRAFT"; // what the types of the pack's nodes begin with

/** Whether a workflow has nodes of the pack. @param {any} workflow in the page's format
 * @returns {boolean} */
export const isWithOurs = (workflow) =>
  (workflow?.nodes ?? []).some((/** @type {any} */ { type }) => String(type).startsWith(OURS));

/**
 * A copy of a workflow with its notes, and the titles of its nodes and groups, translated line by
 * line. A line without a translation stays; nothing else changes.
 *
 * @param {any} workflow in the page's format
 * @param {Record<string, string>} lines by the English ones
 * @returns {any}
 */
export function translated(workflow, lines) {
  const copy = structuredClone(workflow);
  for (const graph of [copy, ...(copy.definitions?.subgraphs ?? [])]) {
    for (const node of graph.nodes) {
      if (node.title) node.title = translate(node.title, lines);
      if (NOTES.includes(node.type))
        node.widgets_values = node.widgets_values.map((/** @type {string} */ text) =>
          translate(text, lines),
        );
    }
    for (const group of graph.groups ?? []) group.title = translate(group.title, lines);
  }
  return copy;
}

/** @param {string} text @param {Record<string, string>} lines */
function translate(text, lines) {
  const inLines = text.split("\n");
  return inLines.map((line) => (Object.hasOwn(lines, line) ? lines[line] : line)).join("\n");
}
