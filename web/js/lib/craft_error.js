// @ts-check
/** A user's mistake in three parts, as in craft_core/errors.py. */

export class CraftError extends Error {
  /**
   * @param {string} given what was given
   * @param {string} possible what is possible
   * @param {string} action what to do
   */
  constructor(given, possible, action) {
    super([given, possible, action].map(sentence).reduce(joined));
    this.name = "CraftError";
  }
}

/** Chinese sentences need no space between them. @param {string} before @param {string} next */
const joined = (before, next) => (/[。！？]$/.test(before) ? before + next : `${before} ${next}`);

/** @param {string} text */
function sentence(text) {
  const trimmed = text.trim();
  return /[.!?。！？]$/.test(trimmed) ? trimmed : `${trimmed}.`;
}
