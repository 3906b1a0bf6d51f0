// @ts-check
/**
 * The rows of a LoRA List as its widget keeps them: JSON, which craft_core/routing/lora_rows.py reads
 * and checks. Every change gives new rows, and names that are not known are kept.
 */

/** @typedef {import("./markers.js").Role} Role */
/** @typedef {{lora: string, role: Role, strength?: number, on?: boolean, layers?: string,
 *   second_lora?: string}} Row what is not given is neutral */

const SAME = "same"; // in place of a second file
const NEUTRAL = { on: true, layers: "", second_lora: SAME };

/** The rows of a text; null where it is none that can be shown as rows.
 * @param {any} text @returns {Row[] | null} */
export function readRows(text) {
  try {
    const rows = JSON.parse(String(text ?? "").trim() || "[]");
    return Array.isArray(rows) && rows.every(isRow) ? rows : null;
  } catch {
    return null;
  }
}

/** @param {any} row */
const isRow = (row) => typeof row?.lora === "string" && ["content", "style"].includes(row.role);

/** The text of rows, one a line; what is neutral is left out. @param {Row[]} rows */
export function writeRows(rows) {
  if (!rows.length) return "[]";
  return `[\n${rows.map((row) => `  ${JSON.stringify(row, withoutNeutral)}`).join(",\n")}\n]`;
}

/** @param {string} name @param {any} value */
const withoutNeutral = (name, value) =>
  /** @type {any} */ (NEUTRAL)[name] === value ? undefined : value;

/** A new row with a file, in the role that has fewer rows. @param {Row[]} rows
 * @param {string} lora @returns {Row[]} */
export function withRow(rows, lora) {
  const contents = rows.filter(({ role }) => role === "content").length;
  const role = contents * 2 > rows.length ? "style" : "content";
  return [...rows, { lora, role, strength: 1 }];
}

/** @param {Row[]} rows @param {number} at @param {Partial<Row>} changes @returns {Row[]} */
export const changed = (rows, at, changes) =>
  rows.map((row, index) => (index === at ? { ...row, ...changes } : row));

/** @param {Row[]} rows @param {number} at @returns {Row[]} */
export const without = (rows, at) => rows.filter((_, index) => index !== at);

/** The row at one place at another, all others in their order.
 * @param {Row[]} rows @param {number} from @param {number} to @returns {Row[]} */
export function moved(rows, from, to) {
  const left = without(rows, from);
  return [...left.slice(0, to), rows[from], ...left.slice(to)];
}

/** Where a row is after another one was moved. @param {number} at
 * @param {number} from @param {number} to */
export function placeAfterMove(at, from, to) {
  if (at === from) return to;
  if (from < at && at <= to) return at - 1;
  return to <= at && at < from ? at + 1 : at;
}

/** The place to which a row is dragged: how many of the others lie above the pointer.
 * @param {number} y @param {number[]} middles of all rows, from above @param {number} from */
export const dropPlace = (y, middles, from) =>
  middles.filter((middle, index) => index !== from && middle < y).length;

/** The rows that act. @param {any} text @returns {Row[]} */
export const actingRows = (text) => (readRows(text) ?? []).filter(({ on }) => on !== false);

/** A file's name without its ending. @param {string} file */
export const shortName = (file) => file.replace(/\.safetensors$/i, "");

/** Whether a file is among those that the server lists: on Windows with backslashes, where the list
 * may be from another system. @param {string[]} known @param {string} file */
export const isListed = (known, file) => known.some((one) => withSlashes(one) === withSlashes(file));

/** @param {string} name */
const withSlashes = (name) => name.replaceAll("\\", "/");
