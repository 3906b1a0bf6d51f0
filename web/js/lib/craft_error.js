// @ts-check
/** A user's mistake in three parts, as in craft_core/errors.py. */

export class CraftError extends Error {
  /**
   * @param {string} given what was given
   * @param {string} possible what is possible
   * @param {string} action what to do
   */
  constructor(given, possible, action) {
    super(sentences([given, possible, action]));
    this.name = "CraftError";
    this.parts = [given, possible, action];
  }
}

/** Parts of a mistake as one text. @param {string[]} parts */
export const sentences = (parts) => parts.map(sentence).reduce(joined);

/** Chinese sentences need no space between them. @param {string} before @param {string} next */
const joined = (before, next) => (/[。！？]$/.test(before) ? before + next : `${before} ${next}`);

/** @param {string} text */
function sentence(text) {
  const trimmed = text.trim();
  if (/[.!?。！？]$/.test(trimmed)) return trimmed;
  return trimmed + (/\p{Script=Han}$/u.test(trimmed) ? "。" : ".");
}
