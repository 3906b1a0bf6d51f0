// @ts-check
/** Warnings that a node shows before the user presses Run. */

import { noGuidance, noMarker, unmatchedPatterns } from "../core.js";
import { isLeftToSwitch } from "../guidance.js";
import { say, sayRole } from "../texts.js";

const NONE = "none"; // the entry of a LoRA menu that chooses none

/** @typedef {import("./markers.js").Role} Role */
/** @typedef {{markers: boolean, layer_sets: boolean, pinned: string | null}} Traits */

/**
 * Roles that have a LoRA.
 *
 * @param {{content_lora: any, style_lora: any}} own names of the node's own LoRAs
 * @param {any[]} extra roles of the further branches
 * @returns {Role[]}
 */
export function rolesWithLora(own, extra) {
  /** @type {[Role, any][]} */
  const named = [["content", own.content_lora], ["style", own.style_lora]];
  return named
    .filter(([role, name]) => (name !== undefined && name !== NONE) || extra.includes(role))
    .map(([role]) => role);
}

/**
 * @param {import("./markers.js").MarkedPrompt} marked
 * @param {Role[]} roles that have a LoRA
 * @param {{markers: boolean} | undefined} traits of the method, where it is known
 */
export function markerWarnings(marked, roles, traits) {
  if (traits && !traits.markers) return [];
  return roles
    .filter((role) => !marked.phrases.some((phrase) => phrase.role === role))
    .map((role) => noMarker({ marker: `<${role[0]}>`, role: sayRole(role) }));
}

/**
 * Which layer set a method really uses, and why where that is not the chosen one.
 *
 * @param {any} chosen the menu's entry
 * @param {any} method
 * @param {Traits | undefined} traits
 * @returns {{used: string | null, why: string}}
 */
export function usedSet(chosen, method, traits) {
  if (traits?.pinned) return { used: traits.pinned, why: say("part of {method}", { method }) };
  if (traits && !traits.layer_sets)
    return { used: null, why: say("not used by {method}", { method }) };
  return { used: chosen ?? null, why: "" };
}

/**
 * @param {string | null} used
 * @param {Record<string, {error?: string, unmatched?: string[]}>} sets what each takes
 */
export function layerSetWarnings(used, sets) {
  const { error = "", unmatched = [] } = (used && sets[used]) || {};
  if (error) return [error];
  if (used !== "custom" || !unmatched.length) return []; // a preset may lack blocks of its own
  return [unmatchedPatterns({ patterns: unmatched.join(", ") })];
}

/**
 * @param {any} cfg
 * @param {any} asymmetric
 * @param {any} guidance the menu's entry; undefined where the node has none
 */
export function cfgWarnings(cfg, asymmetric, guidance) {
  if (!isLeftToSwitch(guidance)) return [];
  if (asymmetric !== true || typeof cfg !== "number" || Math.abs(cfg - 1) > 1e-9) return [];
  return [noGuidance()];
}
