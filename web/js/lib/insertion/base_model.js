// @ts-check
/** The model file that two LoRAs fit. */

/** @typedef {import("../graph/upstream.js").ModelFile} ModelFile */
/** @typedef {{family?: string, stated?: string[]}} Info what the server tells of a LoRA file */

const MOST = 60; // files whose headers are read for it
const AT_ONCE = 6;
const WEIGHTS = /\.[a-z0-9]+$/i;

/**
 * The first file that a LoRA says it was trained on, else the first of the family that its layers
 * look like; null where none is known to fit.
 *
 * @param {ModelFile[]} choices
 * @param {(Info | null)[]} infos of the LoRAs
 * @param {(file: ModelFile) => Promise<string>} familyOf a file's family; "" where it is not known
 * @returns {Promise<ModelFile | null>}
 */
export async function fittingModel(choices, infos, familyOf) {
  const stated = new Set(infos.flatMap((info) => info?.stated ?? []).map(stem));
  const named = choices.find(({ name }) => stated.has(stem(name)));
  if (named) return named;
  const families = infos.map((info) => info?.family).filter(Boolean);
  if (!families.length) return null;
  for (let at = 0; at < Math.min(choices.length, MOST); at += AT_ONCE) {
    const some = choices.slice(at, at + AT_ONCE);
    const found = await Promise.all(some.map(familyOf));
    const fits = found.findIndex((family) => families.includes(family));
    if (fits >= 0) return some[fits];
  }
  return null;
}

/** A file's name without folders and ending. @param {string} name */
const stem = (name) =>
  (name.replaceAll("\\", "/").split("/").at(-1) ?? "").replace(WEIGHTS, "").toLowerCase();
