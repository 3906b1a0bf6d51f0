// @ts-check
/** A grid of pictures that fills while it is made: which cells there are, and what each is called. */

/** @typedef {{row: number, column: number, picture: string, scores: string, preset: string}} Cell
 * picture: an address. preset: its settings as JSON */
/** @typedef {{rows: string[], columns: string[], cells: Cell[]}} Grid labels, and what is made */

/**
 * What is made, with what is new; a cell that is made again takes the place of the old one. Cells of
 * other axes are left out.
 *
 * @param {Grid | undefined} before
 * @param {Grid | undefined} added
 * @returns {Grid | undefined}
 */
export function withCells(before, added) {
  if (!added) return before;
  const cells = new Map();
  const isSame = before && labelsOf(before) === labelsOf(added);
  for (const cell of [...(isSame ? before.cells : []), ...added.cells])
    cells.set(`${cell.row} ${cell.column}`, cell);
  return { ...added, cells: [...cells.values()] };
}

/** Row by row, the cell at each place; undefined where none is made.
 * @param {Grid} grid @returns {(Cell | undefined)[][]} */
export function tableOf({ rows, columns, cells }) {
  const at = new Map(cells.map((cell) => [`${cell.row} ${cell.column}`, cell]));
  return rows.map((_, row) => columns.map((__, column) => at.get(`${row} ${column}`)));
}

/** What a cell is called: its row and its column. @param {Grid} grid @param {Cell} cell */
export const nameOf = ({ rows, columns }, { row, column }) =>
  [rows[row], columns[column]].filter(Boolean).map(inALine).join("; ");

/** What tells whether a grid is drawn already: its cells are too long to compare, so each that
 * comes in has a number. @param {Grid} grid */
export const stateOf = (grid) => [labelsOf(grid), ...grid.cells.map(numberOf)];

/** @type {WeakMap<Cell, number>} */
const numbers = new WeakMap();
let last = 0;

/** @param {Cell} cell */
function numberOf(cell) {
  const number = numbers.get(cell) ?? ++last;
  numbers.set(cell, number);
  return number;
}

/** @param {string} label */
export const inALine = (label) => label.split("\n").join(", ");

/** @param {Grid} grid */
export const labelsOf = ({ rows, columns }) => JSON.stringify([rows, columns]);
