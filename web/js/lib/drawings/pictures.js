// @ts-check
/** Which of the lists of pictures that a node's outputs have loaded is its newest. */

/** @typedef {{src: string}} Picture as the page loads it */
/** @typedef {{filename: string, subfolder?: string, type?: string}} Saved as an output names it */

/**
 * Whether a list shows fewer of a node's pictures than another, and so is of an earlier output or
 * incomplete. Previews, which no output names, never are.
 *
 * @param {Picture[]} list
 * @param {Picture[]} other
 * @param {Saved[]} output what the node shows now
 */
export function isOlder(list, other, output) {
  if (list.some(({ src }) => !named(src))) return false;
  return count(list, output) < count(other, output);
}

/** Whether a list lacks pictures of the output that the node shows now; previews lack none.
 * @param {Picture[]} list @param {Saved[]} output */
export const isIncomplete = (list, output) =>
  list.every(({ src }) => named(src)) && count(list, output) < output.length;

/** @param {Picture[]} list @param {Saved[]} output */
function count(list, output) {
  const names = new Set(list.map(({ src }) => named(src)));
  return output.filter((saved) => names.has(key(saved))).length;
}

/** @param {string} src @returns {string | null} null for a preview */
function named(src) {
  if (!src.includes("/view?")) return null;
  const asked = new URLSearchParams(src.slice(src.indexOf("?")));
  const part = (/** @type {string} */ name) => asked.get(name) ?? "";
  return key({ filename: part("filename"), subfolder: part("subfolder"), type: part("type") });
}

/** @param {Saved} saved */
const key = ({ filename, subfolder = "", type = "" }) =>
  JSON.stringify([filename, subfolder, type]);
