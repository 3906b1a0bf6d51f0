// @ts-check
/** Curves as SVG path data. */

import { say } from "../texts.js";

/**
 * @param {[number, number][]} points in [0, 1], y upwards
 * @param {{left: number, top: number, width: number, height: number}} box
 */
export function path(points, { left, top, width, height }) {
  return points
    .map(([x, y], index) => {
      const [px, py] = [left + x * width, top + (1 - y) * height];
      return `${index ? "L" : "M"}${round(px)} ${round(py)}`;
    })
    .join("");
}

/** A curve in words, for screen readers.
 * @param {string} name @param {number[]} values */
export function spoken(name, values) {
  const at = (/** @type {number} */ part) => values[Math.round(part * (values.length - 1))];
  const [first, middle, last] = [at(0), at(0.5), at(1)].map((value) => value.toFixed(2));
  return say("{name}: {first} at first, {middle} midway, {last} at last", {
    name, first, middle, last,
  });
}

/** @param {number} value */
const round = (value) => Math.round(value * 100) / 100;
