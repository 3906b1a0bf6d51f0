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
  const lefts = nearest(left, taken.flatMap(([x, , w]) => [x - GAP - width, x + w + GAP]));
  const tops = nearest(top, taken.flatMap(([, y, , h]) => [y - GAP - height, y + h + GAP]));
  /** @type {[number, number]} */
  let best = [left, top];
  let least = Infinity;
  for (const x of lefts) {
    const across = Math.abs(x - left);
    if (across >= least) break; // all others are farther
    const beside = taken.filter((box) => overlap([x, box[1], width, height], box));
    const barred = joined(beside.map(([, y, , h]) =>
      /** @type {[number, number]} */ ([y - ROOM - height, y + h + ROOM])));
    const y = tops.find((at) => !barred.some(([from, to]) => from < at && at < to));
    if (y === undefined || across + Math.abs(y - top) >= least) continue;
    [best, least] = [[x, y], across + Math.abs(y - top)];
  }
  return best;
}

/** A coordinate and others, the nearest first. @param {number} to @param {number[]} others */
function nearest(to, others) {
  return [...new Set([to, ...others])].sort((a, b) => Math.abs(a - to) - Math.abs(b - to));
}

/** Spans from one coordinate to another, those that overlap as one.
 * @param {[number, number][]} spans */
function joined(spans) {
  /** @type {[number, number][]} */
  const made = [];
  for (const [from, to] of spans.sort(([a], [b]) => a - b)) {
    const last = made.at(-1);
    if (last && from < last[1]) last[1] = Math.max(last[1], to);
    else made.push([from, to]);
  }
  return made;
}

/** Whether two boxes overlap, or nearly. @param {Box} one @param {Box} other */
export function overlap([x, y, width, height], [left, top, wide, high]) {
  const across = x < left + wide + ROOM && left < x + width + ROOM;
  return across && y < top + high + ROOM && top < y + height + ROOM;
}
