// @ts-check
/** Free places for new nodes among the existing ones. */

/** @typedef {[number, number, number, number]} Box left, top, width, height, in graph units */

const GAP = 40; // between a new node and the one it is placed beside
const ROOM = 8; // least distance that counts as not overlapping

/**
 * The free place nearest to a wanted one.
 *
 * @param {Box} wanted
 * @param {Box[]} taken
 * @returns {[number, number]} left and top
 */
export function freePlace(wanted, taken) {
  const [left, top, width, height] = wanted;
  const lefts = [left, ...taken.flatMap(([x, , w]) => [x - GAP - width, x + w + GAP])];
  const tops = [top, ...taken.flatMap(([, y, , h]) => [y - GAP - height, y + h + GAP])];
  /** @type {[number, number][]} */
  const places = lefts.flatMap((x) => tops.map((y) => /** @type {[number, number]} */ ([x, y])));
  const far = (/** @type {[number, number]} */ [x, y]) => Math.abs(x - left) + Math.abs(y - top);
  places.sort((one, other) => far(one) - far(other));
  const free = places.find(([x, y]) => !taken.some((box) => overlap([x, y, width, height], box)));
  return free ?? [left, top];
}

/** Whether two boxes overlap, or nearly. @param {Box} one @param {Box} other */
export function overlap([x, y, width, height], [left, top, wide, high]) {
  const across = x < left + wide + ROOM && left < x + width + ROOM;
  return across && y < top + high + ROOM && top < y + height + ROOM;
}
