// @ts-check
/**
 * How far guidance takes the LoRAs: by what a node's rule multiplies their strength. The rules are
 * those of craft_core/guidance/reach.py, which says where they come from.
 */

import { GUIDED_WEIGHT, MOST_GUIDED_WEIGHT, overdriven } from "./core.js";

/** @typedef {import("./drawings/markers.js").Role} Role */
/** @typedef {{weight: string, value: number}} Reach the name of a setting, and its value */
/** @typedef {{text: string, roles: Role[], product: number, fitting: number}} Excess product: of
 * strength and value. fitting: their strength to start with */

const STEP = 0.05; // of the nodes' strengths
const DIAL_STEP = 0.01; // the finest that the page's dials show
const ROUNDING = 1e-6;
const ROLES = /** @type {Role[]} */ (["content", "style"]);
const BY_SWITCH = "acfg/cfg"; // the entry of guidance that leaves it to `asymmetric`

/** Whether a guidance menu leaves the choice to the switch `asymmetric`.
 * @param {any} guidance its entry; undefined where the node has none */
export const isLeftToSwitch = (guidance) => guidance === undefined || guidance === BY_SWITCH;

/**
 * By role, what its strength is multiplied by; none where the LoRAs are guided with everything
 * else, and where the page does not know a value.
 *
 * @param {(name: string) => any} valueOf a value of a node of ours that guides
 * @returns {Partial<Record<Role, Reach>>}
 */
export function reaches(valueOf) {
  const guidance = valueOf("guidance");
  if (isLeftToSwitch(guidance)) {
    if (valueOf("asymmetric") !== true) return {};
    return known(() => ({ weight: "cfg", value: valueOf("cfg") }));
  }
  const both = valueOf("guidance.weight") - 1;
  return known((role) => ({ weight: "weight", value: both + valueOf(`guidance.${role}_weight`) }));
}

/** @param {(role: Role) => Reach} of */
function known(of) {
  const found = ROLES.map((role) => [role, of(role)]);
  return Object.fromEntries(found.filter(([, { value }]) => Number.isFinite(value)));
}

/** The strength to start with where guidance multiplies it by a value, at most 1.
 * @param {number} value */
export function guidedStrength(value) {
  const steps = Math.round(Math.min(GUIDED_WEIGHT / Math.max(value, STEP), 1) / STEP);
  return rounded(Math.max(steps, 1) * STEP, 2);
}

/**
 * What to set a role's dial to, so that its LoRAs have a strength; its sign stays.
 *
 * @param {number} strength
 * @param {number} own the largest own strength of the role's LoRAs
 * @param {number} dial its present value
 */
export function fittingDial(strength, own, dial) {
  const steps = Math.max(Math.floor(strength / own / DIAL_STEP + ROUNDING), 1);
  return Math.sign(dial) * rounded(steps * DIAL_STEP, 2);
}

/**
 * What a user should know of strengths that guidance multiplies too far; roles of one strength and
 * value share a line.
 *
 * @param {Partial<Record<Role, number>>} strengths
 * @param {Partial<Record<Role, Reach>>} by
 * @returns {Excess[]}
 */
export function excesses(strengths, by) {
  /** @type {Map<string, {strength: number, reach: Reach, roles: Role[]}>} */
  const alike = new Map();
  for (const role of ROLES) {
    const [strength, reach] = [strengths[role], by[role]];
    if (strength === undefined || !reach) continue;
    if (Math.abs(strength) * reach.value <= MOST_GUIDED_WEIGHT + ROUNDING) continue;
    const key = JSON.stringify([Math.abs(strength), reach]);
    if (!alike.has(key)) alike.set(key, { strength: Math.abs(strength), reach, roles: [] });
    alike.get(key)?.roles.push(role);
  }
  return [...alike.values()].map(({ strength, reach: { weight, value }, roles }) => {
    const fitting = guidedStrength(value);
    const text = overdriven({
      strength: rounded(strength), weight, value: rounded(value),
      product: rounded(strength * value), most: MOST_GUIDED_WEIGHT, fitting,
      inputs: roles.map(dialOf).join(", "),
    });
    return { text, roles, product: strength * value, fitting };
  });
}

/** The input that sets a role's strength. @param {Role} role */
export const dialOf = (role) => `${role}_strength`;

/** @param {number} value */
const rounded = (value, digits = 3) => Number(value.toFixed(digits));
