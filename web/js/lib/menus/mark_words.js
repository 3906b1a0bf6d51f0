// @ts-check
/** What marking selected words of a prompt changes. */

import { parse } from "../drawings/markers.js";

/** @typedef {import("../drawings/markers.js").Role} Role */
/** @typedef {{start: number, end: number, put: string, selected: [number, number]}} Edit the part of
 * the prompt that is replaced, by what, and what is selected then */

/**
 * Mark the words between two places as content or style, or take their markers away. Phrases never
 * lie in one another: one that the words touch is unmarked first. A phrase that a lone marker ends
 * keeps its words: where the marker before it goes, it becomes a pair.
 *
 * @param {string} prompt
 * @param {number} from
 * @param {number} to
 * @param {Role | null} role null to take markers away
 * @returns {Edit | null} null where no word is selected
 * @throws {CraftError} where the markers of the prompt cannot be read
 */
export function markWords(prompt, from, to, role) {
  const { marks, phrases } = parse(prompt);
  const touched = phrases.filter(({ start, end }) => start < to && from < end);
  const unmarked = marks.filter(
    (mark) =>
      (mark.start < to && from < mark.end) || touched.some((phrase) => isOf(mark, phrase, marks)),
  );
  /** @type {Map<number, string>} by place, the markers that are written there */
  const written = new Map();
  const replaced = marks.filter((mark, at) => {
    const own = phrases.find((phrase) => markAfter(phrase, marks) === mark);
    if (!own || mark.close || unmarked.includes(mark)) return false;
    if (!unmarked.includes(marks[at - 1])) return false;
    written.set(own.start, mark.text).set(own.end, `</${mark.text.slice(1)}`);
    return true;
  });
  const gone = [...unmarked, ...replaced];
  const start = Math.min(from, ...gone.map((mark) => mark.start));
  const end = Math.max(to, ...gone.map((mark) => mark.end));
  /** @param {number} left @param {number} right */
  const kept = (left, right) => {
    let text = "";
    for (let at = left; at < right; at += 1) {
      text += written.get(at) ?? "";
      if (!gone.some((mark) => mark.start <= at && at < mark.end)) text += prompt[at];
    }
    return text;
  };
  const [before, words, after] = [kept(start, from), kept(from, to), kept(to, end)];
  const text = words.trim();
  if (!text) return null;
  const [lead, trail] = words.split(text, 2);
  const sign = role?.[0];
  const marked = sign ? `<${sign}>${text}</${sign}>` : text;
  const at = start + before.length + lead.length;
  return {
    start, end, put: before + lead + marked + (trail ?? "") + after,
    selected: [at, at + marked.length],
  };
}

/** Whether a marker is one of a phrase's: the one after it, or the one that opens a pair.
 * @param {import("../drawings/markers.js").Mark} mark @param {{start: number, end: number}} phrase
 * @param {import("../drawings/markers.js").Mark[]} marks */
function isOf(mark, phrase, marks) {
  const after = markAfter(phrase, marks);
  if (mark === after) return true;
  return after?.close === true && mark === marks[marks.indexOf(after) - 1];
}

/** The marker that ends a phrase. @param {{end: number}} phrase
 * @param {import("../drawings/markers.js").Mark[]} marks */
const markAfter = (phrase, marks) => marks.find(({ start }) => start >= phrase.end);
