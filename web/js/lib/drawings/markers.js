// @ts-check
/**
 * Markers in a prompt: which words are content, which are style, and what the text encoder sees.
 * The rules are those of craft_core/routing/markers.py, which says where they come from.
 */

import {
  emptyPhrase, markerInside, markerLeft, notClosed, nothingToClose, tooManyMarkers, unclosed,
} from "../core.js";

/** @typedef {"content" | "style"} Role */
/** @typedef {{text: string, start: number, end: number, role: Role}} Phrase */
/** @typedef {{start: number, end: number, text: string, close: boolean, role: Role}} Mark */
/**
 * @typedef {object} MarkedPrompt
 * @property {string} clean what the text encoder sees
 * @property {Phrase[]} phrases in the order of the prompt; offsets as JavaScript counts
 * @property {Mark[]} marks
 * @property {string[]} unclosed what to say of lone markers that stand like opening ones
 */

const WIDE = "\\x1c-\\x20\\x85\\xa0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000";
const SPACE = `\\t-\\r${WIDE}`; // what Python's str.isspace takes for whitespace
const BLANK = `[\\t\\v\\f${WIDE}]*`; // within a line
const IS_SPACE = new RegExp(`[${SPACE}]`);
const IS_WORD = /[\p{L}\p{N}]/u;
const MARKER = /<(\/?)([cs])>/gi;
const GAP = new RegExp(`(?<![\\t\\v\\f${WIDE}])${BLANK}(?:</?[cs]>${BLANK})+`, "gi");
const MOST_MARKERS = 1000;
const WEAK = ",;.，；。、．､｡"; // not part of the phrase that a lone marker ends
const OPENING = "([{（［｛「『【《〈〔";
const AFTER_WORDS = `${WEAK}:!?)]}：！？）］｝」』】》〉〕`; // no space stays before these

/**
 * Read the markers of a prompt; without any, `clean` is the prompt itself.
 *
 * @param {string} prompt
 * @returns {MarkedPrompt}
 * @throws {CraftError} for a closing marker without its opening one, phrases inside one another
 *   and empty phrases
 */
export function parse(prompt) {
  const marks = find(prompt, MOST_MARKERS + 1);
  if (marks.length > MOST_MARKERS) throw tooManyMarkers({ most: MOST_MARKERS });
  /** @type {Phrase[]} */
  const phrases = [];
  const endsPhrase = new Set();
  const lone = new Set();
  let freeFrom = 0; // end of the previous marker
  for (let index = 0; index < marks.length; index += 1) {
    const mark = marks[index];
    const closing = closingIndex(prompt, marks, index);
    if (closing === null) {
      lone.add(mark.start);
      endsPhrase.add(mark.start);
      phrases.push(phrase(prompt, freeFrom, mark.start, WEAK, mark, true));
    } else {
      endsPhrase.add(marks[closing].start);
      phrases.push(phrase(prompt, mark.end, marks[closing].start, "", mark));
      index = closing;
    }
    freeFrom = marks[index].end;
  }
  const clean = marks.length ? cleaned(prompt, lone, endsPhrase) : prompt;
  const open = marks.filter((mark) => lone.has(mark.start) && standsOpen(prompt, mark));
  return { clean, phrases, marks, unclosed: open.map((mark) => unclosed(named(prompt, mark))) };
}

/**
 * The prompt in pieces for the drawing, each with what it is.
 *
 * @param {string} prompt
 * @param {MarkedPrompt} marked
 * @returns {{text: string, kind: Role | "marker" | "plain"}[]}
 */
export function pieces(prompt, { phrases, marks }) {
  const named = [
    ...phrases.map(({ start, end, role }) => ({ start, end, kind: role })),
    ...marks.map(({ start, end }) => ({ start, end, kind: /** @type {const} */ ("marker") })),
  ].sort((one, other) => one.start - other.start);
  /** @type {{text: string, kind: Role | "marker" | "plain"}[]} */
  const found = [];
  let at = 0;
  for (const { start, end, kind } of named) {
    if (start > at) found.push({ text: prompt.slice(at, start), kind: "plain" });
    found.push({ text: prompt.slice(start, end), kind });
    at = end;
  }
  if (at < prompt.length) found.push({ text: prompt.slice(at), kind: "plain" });
  return found;
}

/** @param {string} prompt @param {number} most how many at most @returns {Mark[]} */
function find(prompt, most = Infinity) {
  /** @type {Mark[]} */
  const marks = [];
  for (const match of prompt.matchAll(MARKER)) {
    if (marks.length === most) break;
    marks.push({
      start: match.index,
      end: match.index + match[0].length,
      text: match[0],
      close: match[1] !== "",
      role: match[2].toLowerCase() === "c" ? "content" : "style",
    });
  }
  return marks;
}

/** Index of the marker that closes this one, null for a lone marker.
 * @param {string} prompt @param {Mark[]} marks @param {number} index */
function closingIndex(prompt, marks, index) {
  const mark = marks[index];
  if (mark.close)
    throw nothingToClose({ marker: mark.text, place: place(prompt, mark) });
  let later = index + 1;
  while (later < marks.length && marks[later].role !== mark.role) later += 1;
  if (later === marks.length || !marks[later].close) return null;
  if (later === index + 1) return later;
  const inner = marks[index + 1];
  throw markerInside({
    inner: inner.text, opening: mark.text, closing: marks[later].text,
    place: place(prompt, inner),
  });
}

/** Whether a lone marker stands right before a word and apart from the one before it.
 * @param {string} prompt @param {Mark} mark */
function standsOpen(prompt, { start, end }) {
  const before = [...prompt.slice(Math.max(0, start - 2), start)].at(-1) ?? "";
  const after = [...prompt.slice(end, end + 2)][0] ?? "";
  return !IS_WORD.test(before) && IS_WORD.test(after);
}

/** A marker that is not closed, for a message. @param {string} prompt @param {Mark} mark */
const named = (prompt, mark) => ({
  marker: mark.text, place: place(prompt, mark), closing: `</${mark.text.slice(1)}`,
});

/** The character at which a marker starts, counted from 1 as people count.
 * @param {string} prompt @param {Mark} mark */
function place(prompt, mark) {
  return [...prompt.slice(0, mark.start)].length + 1;
}

/** Without surrounding whitespace and, for a lone marker, punctuation.
 * @param {string} prompt @param {number} start @param {number} end @param {string} trimmed
 * @param {Mark} mark @param {boolean} [lone] @returns {Phrase} */
function phrase(prompt, start, end, trimmed, mark, lone = false) {
  /** @param {number} at */
  const outside = (at) => IS_SPACE.test(prompt[at]) || trimmed.includes(prompt[at]);
  while (start < end && outside(start)) start += 1;
  while (start < end && outside(end - 1)) end -= 1;
  const text = prompt.slice(start, end);
  const isEmpty = [...text].every((character) => WEAK.includes(character));
  if (isEmpty && lone) throw notClosed(named(prompt, mark));
  if (isEmpty) throw emptyPhrase({ marker: mark.text, place: place(prompt, mark) });
  return { text, start, end, role: mark.role };
}

/** The prompt without its markers.
 * @param {string} prompt @param {Set<number>} lone @param {Set<number>} endsPhrase */
function cleaned(prompt, lone, endsPhrase) {
  const clean = prompt.replace(GAP, (gap, /** @type {number} */ offset) => {
    const starts = find(gap).map((mark) => offset + mark.start);
    const end = offset + gap.length;
    const before = [...prompt.slice(Math.max(0, offset - 2), offset)].at(-1) ?? "";
    const after = [...prompt.slice(end, end + 2)][0] ?? "";
    if (["", "\n", "\r", ...OPENING].includes(before)) return "";
    if (["", "\n", "\r"].includes(after)) return "";
    const last = starts[starts.length - 1];
    if (AFTER_WORDS.includes(after) && endsPhrase.has(last)) return "";
    if (IS_SPACE.test(gap)) return " ";
    const wordsMeet = IS_WORD.test(before) && IS_WORD.test(after);
    return wordsMeet && starts.some((start) => lone.has(start)) ? " " : "";
  });
  if (find(clean).length) throw markerLeft();
  return clean;
}
