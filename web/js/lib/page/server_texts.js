// @ts-check
/**
 * What the server says, in the page's language. The server speaks English; the locale files have
 * templates of its sentences, in which {name} stands for a value.
 *
 * How a name begins says what its value is: `text` or `noun` another text of the server, `number` a
 * number, `file` the name of a file, `quoted` something in quotes, `role` content or style, `line`
 * all the rest of the line. Any other value stays as it is, and so does a sentence that no template
 * makes. A name and a colon may stand before a sentence. Of a table's row each cell is such a text.
 */

import { sayRole, serverTexts } from "../texts.js";

const LONGEST = 4000; // characters of a line that is translated
const MOST_SENTENCES = 24; // of a line; what follows counts to the last
const MOST_TOGETHER = 8; // sentences or other parts that one template makes, or all to the end
const MOST_TRIES = 1_000_000; // templates that are tried for a text; what is left of it then stays
const MOST_KEPT = 64; // texts whose translation is remembered
const LITTLE = 1 / LONGEST ** 2; // so that a character of a value weighs less than one that is left
const NAMED = { pieces: ["", ": ", ""], names: ["file", "text"], words: "{file}：{text}" };
const LEAD = /^ *(?:- )?/; // what stands before the text of a line
const GAP = / {2}/; // between the cells of a table's row, at the least
const CELL = /\S+(?: \S+)*/g;
const WIDE = /[\u3000-\u9fff\uff00-\uff60]/g;
const FULL_STOP = /(?<!\.)\.$/;

/** @typedef {{pieces: string[], names: string[], words: string}} Template words: in the language */
/** @typedef {{said: string, left: number}} Said left: characters of it that are not translated, and
 * LITTLE for each of a value */
/** @typedef {(text: string, isLast: boolean) => Said | null} Make null: no template makes the text */
/** @typedef {{templates: Template[], kept: Map<string, string>}} Language */

/** @type {WeakMap<Record<string, string>, Language>} by the table that it is made of */
const languages = new WeakMap();

/** A text of the server, line by line, in the language spoken. @param {string} text */
export function sayOfServer(text) {
  const table = serverTexts();
  if (!Object.keys(table).length) return text;
  const { templates, kept } = languageOf(table);
  const known = kept.get(text);
  if (known !== undefined) return known;
  const translation = new Translation(templates);
  const said = text.split("\n").map((line) => translation.line(line)).join("\n");
  if (kept.size >= MOST_KEPT) kept.clear();
  kept.set(text, said);
  return said;
}

/** @param {Record<string, string>} table @returns {Language} */
function languageOf(table) {
  const made = languages.get(table) ?? { templates: templatesOf(table), kept: new Map() };
  languages.set(table, made);
  return made;
}

/** Those that begin with words first, as a value takes what comes before the words of others; of them
 * those that say most. @param {Record<string, string>} table @returns {Template[]} */
function templatesOf(table) {
  const made = Object.entries(table).map(([english, words]) => {
    const [pieces, names] = [[""], /** @type {string[]} */ ([])];
    for (const [at, part] of english.replace(FULL_STOP, "").split(/\{(\w+)\}/).entries())
      if (at % 2) names.push(part);
      else pieces[at / 2] = part;
    return { pieces, names, words: words.replace(/。$/, "") };
  });
  const rank = (/** @type {Template} */ { pieces }) =>
    (pieces[0] ? LONGEST : 0) + pieces.join("").length;
  return [...made.toSorted((one, other) => rank(other) - rank(one)), NAMED];
}

/** Of one text, with what is left of its tries. */
class Translation {
  /** @param {Template[]} templates */
  constructor(templates) {
    this.templates = templates;
    this.left = MOST_TRIES;
  }

  /** @param {string} line */
  line(line) {
    if (line.length > LONGEST || this.left < 0) return line;
    const start = line.length - line.replace(LEAD, "").length;
    const bare = line.slice(start);
    const text = this.text(bare).said;
    const said = text === bare && GAP.test(bare) ? this.row(bare) : text;
    return this.left < 0 ? line : line.slice(0, start) + said;
  }

  /** A row of a table, whose first cell stands to the left of its column and the others to the right;
   * a Chinese sign is as wide as two others. @param {string} row */
  row(row) {
    return row.replace(CELL, (cell, at) => {
      const { said } = this.text(cell);
      const width = said.length + (said.match(WIDE)?.length ?? 0);
      const gap = " ".repeat(Math.max(0, cell.length - width));
      return at ? gap + said : said + gap;
    });
  }

  /** Sentences, each translated if it can be. @param {string} text @returns {Said} */
  text(text) {
    return this.joined(sentencesOf(text), " ", " ", (part, isLast) => this.sentence(part, isLast));
  }

  /** Parts of a text, each as it is or as a template makes it. A value may hold what is between
   * parts: so one template may make several. Of all ways that is taken which leaves the least, and
   * of these the one whose values are the shortest.
   * @param {string[]} parts @param {string} between @param {string} said in place of that
   * @param {Make} make @returns {Said} */
  joined(parts, between, said, make) {
    const count = parts.length;
    /** @type {(Said & {known: boolean})[]} of the parts from each place on */
    const rests = [];
    rests[count] = { said: "", left: 0, known: true };
    for (let at = count - 1; at >= 0; at--) {
      const isLast = at + 1 === count;
      const rest = rests[at + 1];
      const gap = rest.known ? said : between;
      rests[at] = {
        said: parts[at] + (isLast ? "" : gap) + rest.said,
        left: parts[at].length + (isLast ? 0 : between.length) + rest.left,
        known: false,
      };
      for (let end = at + 1; end <= count; end++) {
        if (end > at + MOST_TOGETHER) end = count;
        const found = make(parts.slice(at, end).join(between), end === count);
        if (!found || found.left + rests[end].left >= rests[at].left) continue;
        const ended = end === count || /[。！？：；]$/.test(found.said);
        rests[at] = {
          said: found.said + (ended ? "" : said) + rests[end].said,
          left: found.left + rests[end].left,
          known: true,
        };
        if (between !== " ") break; // a list may be long
      }
    }
    return rests[0];
  }

  /** What the first template that makes it says, best with the least left; null where none does.
   * @type {Make} isLast: of its text */
  sentence(sentence, isLast) {
    const bare = sentence.replace(FULL_STOP, "");
    let best = null;
    for (const { pieces, names, words } of this.templates) {
      if (--this.left < 0) break;
      const takesLine = names.at(-1)?.startsWith("line") && pieces.at(-1) === "";
      const values = takesLine && !isLast ? null : valuesOf(pieces, takesLine ? sentence : bare);
      if (!values?.every((value, place) => fits(names[place], value))) continue;
      const isNamed = pieces === NAMED.pieces; // nothing else tells it from what is not known
      if (isNamed && values[1].includes(". ")) continue;
      const found = this.filled(words, names, values);
      if (isNamed && found.left >= values[1].length) continue;
      if (!takesLine && bare !== sentence) found.said += "。";
      if (found.left < 1) return found;
      if (!best || found.left < best.left) best = found;
    }
    return best;
  }

  /** @param {string} words @param {string[]} names @param {string[]} values @returns {Said} */
  filled(words, names, values) {
    let left = LITTLE * values.join("").length;
    const said = words.replace(/\{(\w+)\}(_?)/g, (_, name, part) => {
      const value = values[names.indexOf(name)];
      if (name.startsWith("role")) return (part ? value : sayRole(value)) + part;
      if (!/^(text|noun)/.test(name)) return value + part;
      const inner = this.value(value);
      left += inner.left;
      return inner.said + part;
    });
    return { said, left };
  }

  /** A text that is a value of another: several after semicolons, or one that holds semicolons.
   * @param {string} text @returns {Said} */
  value(text) {
    const parts = text.split("; ");
    if (parts.length === 1) return this.text(text);
    const several = this.joined(parts, "; ", "；", (part) => {
      const found = this.text(part);
      return found.left < part.length ? found : null;
    });
    if (several.left < 1 || parts.length > MOST_TOGETHER) return several;
    const one = this.text(text);
    return one.left < several.left ? one : several;
  }
}

/** @param {string} text */
function sentencesOf(text) {
  const parts = text.split(". ");
  const last = parts.splice(Math.min(parts.length, MOST_SENTENCES) - 1).join(". ");
  return [...parts.map((part) => `${part}.`), last];
}

/** The values between a template's pieces, each as short as it can be; null where the text is not
 * made of the pieces. @param {string[]} pieces @param {string} text */
function valuesOf(pieces, text) {
  const last = pieces.length - 1;
  if (!last) return text === pieces[0] ? [] : null;
  if (!text.startsWith(pieces[0]) || !text.endsWith(pieces[last])) return null;
  const end = text.length - pieces[last].length;
  let at = pieces[0].length;
  const values = [];
  for (const piece of pieces.slice(1, last)) {
    const found = text.indexOf(piece, at);
    if (found < 0) return null;
    values.push(text.slice(at, found));
    at = found + piece.length;
  }
  if (at > end) return null;
  return [...values, text.slice(at, end)];
}

/** Whether a value can be what a name stands for. @param {string} name @param {string} value */
function fits(name, value) {
  if (name.startsWith("number")) return value.trim() !== "" && Number.isFinite(Number(value));
  if (name.startsWith("file")) return !/[,:] /.test(value);
  if (name.startsWith("quoted")) return /^(['"]).*\1$/.test(value);
  return !name.startsWith("role") || value === "content" || value === "style";
}
