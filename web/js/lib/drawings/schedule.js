// @ts-check
/**
 * Strengths of content and style over sampling: the shapes of craft_core/schedule, which the page
 * computes too, to draw them while the user changes them.
 * CRAFT-LoRA (2026), arXiv:2602.18936, Eq. 9 and App. C.
 *
 * A shape takes noise, 1 at the first step and 0 at the last, and its settings, and gives
 * [content, style], each in [0, 1].
 */

import { tooManyPoints, unknown, windowReversed, wrongPoints } from "../core.js";
import { say, sayRole } from "../texts.js";

/** @typedef {[number, number]} Pair */
/** @typedef {Record<string, any>} Settings */

const ROUNDING = 1e-6; // a step just outside a window's end still counts as on it
const MOST_POINTS = 1000;
const QUOTED = 200; // characters of wrong points in a message
const DENSE = 200; // straight pieces that stand for a curve that is not cubic

/** @type {Record<string, (noise: number, settings: Settings) => Pair>} */
export const SHAPES = {
  cosine: (noise) => opposite((1 - Math.cos(Math.PI * noise)) / 2),
  constant: (noise, { content = 1, style = 1 }) => [content, style],
  window: windowed,
  linear: (noise) => [noise, 1 - noise],
  sigmoid,
  curve,
};

/**
 * [progress, content, style] at `count` >= 2 even moments, floors included.
 *
 * @param {string} shape a key of SHAPES
 * @param {Settings} settings the shape's own; those left out keep their defaults
 * @param {number} contentFloor in [0, 1]
 * @param {number} styleFloor in [0, 1]
 * @param {number} count
 * @returns {[number, number, number][]}
 * @throws {CraftError} for an unknown shape and for settings that contradict each other
 */
export function sampleCurve(shape, settings, contentFloor, styleFloor, count) {
  if (!Object.hasOwn(SHAPES, shape)) {
    const known = Object.keys(SHAPES).join(", ");
    throw unknown({ key: `'${shape}'`, noun: say("schedule shape"), known });
  }
  return Array.from({ length: count }, (_, index) => {
    const progress = index / (count - 1);
    const [content, style] = SHAPES[shape](1 - progress, settings);
    return [progress, raised(content, contentFloor), raised(style, styleFloor)];
  });
}

/**
 * Points sorted by x, from pairs or from a value of the host's curve editor.
 *
 * @param {any} value
 * @param {string} role for the message
 * @returns {Pair[]}
 */
export function readPoints(value, role) {
  /** @type {Pair[]} */
  const points = Array.isArray(value) ? value : followed(value);
  if (points.length > MOST_POINTS)
    throw tooManyPoints({ role: sayRole(role), count: points.length, most: MOST_POINTS });
  /** @type {Pair[]} */
  const read = points.map(([x, y]) => [Number(x), Number(y)]);
  read.sort(([one], [other]) => one - other);
  const inside = read.flat().every((number) => number >= 0 && number <= 1);
  if (!read.length || !inside || new Set(read.map(([x]) => x)).size < read.length)
    throw wrongPoints({ role: sayRole(role), points: JSON.stringify(points).slice(0, QUOTED) });
  return read;
}

/**
 * The curve through sorted points at x, level before the first and after the last.
 *
 * @param {Pair[]} points
 * @param {number} x
 */
export function interpolate(points, x) {
  const last = points.length - 1;
  if (x <= points[0][0]) return points[0][1];
  if (x >= points[last][0]) return points[last][1];
  const right = points.findIndex(([at]) => at > x);
  const [x0, y0] = points[right - 1];
  const [x1, y1] = points[right];
  const t = (x - x0) / (x1 - x0);
  const tangents = slopes(points);
  const bend0 = (x1 - x0) * tangents[right - 1] - (y1 - y0);
  const bend1 = y1 - y0 - (x1 - x0) * tangents[right];
  const y = y0 + t * (y1 - y0) + t * (1 - t) * (bend0 * (1 - t) + bend1 * t);
  return Math.min(Math.max(y, Math.min(y0, y1)), Math.max(y0, y1));
}

/** @param {number} strength @param {number} floor */
const raised = (strength, floor) => strength + floor * (1 - strength);

/** @param {number} content @returns {Pair} */
const opposite = (content) => [content, 1 - content];

/** @param {number} noise @param {Settings} settings @returns {Pair} */
function windowed(noise, settings) {
  const { content_start = 0, content_end = 0.5, style_start = 0.5, style_end = 1 } = settings;
  const progress = 1 - noise;
  return [
    within(progress, content_start, content_end, "content"),
    within(progress, style_start, style_end, "style"),
  ];
}

/** @param {number} progress @param {number} start @param {number} end @param {string} role */
function within(progress, start, end, role) {
  if (start > end) throw windowReversed({ role, start, end });
  return start - ROUNDING <= progress && progress <= end + ROUNDING ? 1 : 0;
}

/** @param {number} noise @param {Settings} settings @returns {Pair} */
function sigmoid(noise, { steepness = 10, midpoint = 0.5 }) {
  /** @param {number} progress */
  const logistic = (progress) => Math.tanh((steepness * (midpoint - progress)) / 2);
  const [first, last] = [logistic(0), logistic(1)];
  return opposite((logistic(1 - noise) - last) / (first - last));
}

/** @param {number} noise @param {Settings} settings @returns {Pair} */
function curve(noise, { content = [[0, 1], [1, 0]], style = [[0, 0], [1, 1]] }) {
  const progress = 1 - noise;
  return [
    interpolate(readPoints(content, "content"), progress),
    interpolate(readPoints(style, "style"), progress),
  ];
}

/** Points of the host's curve. Its cubic is the core's own; a linear one becomes many points.
 * @param {any} value */
function followed(value) {
  const { points = [], interpolation } = value ?? {};
  if (interpolation !== "linear" || points.length < 2) return points;
  const sorted = [...points].sort(([one], [other]) => one - other);
  return Array.from({ length: DENSE + 1 }, (_, index) => {
    return [index / DENSE, straight(sorted, index / DENSE)];
  });
}

/** @param {Pair[]} points @param {number} x */
function straight(points, x) {
  const last = points.length - 1;
  if (x <= points[0][0]) return points[0][1];
  if (x >= points[last][0]) return points[last][1];
  const right = points.findIndex(([at]) => at > x);
  const [[x0, y0], [x1, y1]] = [points[right - 1], points[right]];
  return y0 + ((x - x0) / (x1 - x0)) * (y1 - y0);
}

/** Slopes at the points, limited as Fritsch and Carlson do. @param {Pair[]} points */
function slopes(points) {
  const secants = points.slice(1).map(([x1, y1], index) => {
    return (y1 - points[index][1]) / (x1 - points[index][0]);
  });
  const inner = secants.slice(1).map((right, index) => {
    return secants[index] * right > 0 ? (secants[index] + right) / 2 : 0;
  });
  const found = [secants[0], ...inner, secants[secants.length - 1]];
  secants.forEach((secant, index) => {
    if (secant === 0) {
      found[index] = found[index + 1] = 0;
      return;
    }
    const size = Math.hypot(found[index] / secant, found[index + 1] / secant);
    if (size > 3) {
      found[index] *= 3 / size;
      found[index + 1] *= 3 / size;
    }
  });
  return found;
}
