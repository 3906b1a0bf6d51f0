// @ts-check
/** What a Router says of its LoRAs and of the samplers behind it before the user presses Run. */

import { didNotAct, otherNegative, overdrivenPlaces } from "../core.js";
import { sentences } from "../craft_error.js";
import { inputs, titleOf } from "../graph/links.js";
import { REPLACED, replaceable } from "../graph/samplers.js";
import { valueOf, widget } from "../graph/upstream.js";
import { dialOf, excesses, fittingDial, reaches } from "../guidance.js";
import { say, sayRole } from "../texts.js";
import { sweepSettings } from "./sweep.js";

const NONE = "none"; // the entry of a LoRA menu that chooses none
const HIGH = 1.5; // a dial above it distorts most pictures
const MOST_WORDS = 3; // that a line names
const OURS = new Set(Object.values(REPLACED)); // nodes that may guide by ACFG
export const INSERTED = "craft_lora_size"; // the property of a latent that was inserted: its size
const SIZE = ["width", "height"];
const ROLES = /** @type {Role[]} */ (["content", "style"]);

/** @typedef {import("./markers.js").Role} Role */
/** @typedef {{name: any, role: Role, strength: any, own: boolean}} Lora own: one of the Router's
 * two; strength: a further LoRA's own */
/** @typedef {{node: any, hosts: any[]}} Sampler */
/** @typedef {{text: string, warns?: boolean, strengths?: Record<string, number>, samplers?: any[],
 *   nodes?: any[], links?: any[], words?: {role: Role, words: string[]}, size?: Latent,
 *   button?: string}} Notice strengths: the values of inputs that its button sets;
 * samplers: the ids of those that its button replaces; nodes: of those beside the Router that it
 * selects; links: of those that it is about; words: of a LoRA that it puts into the prompt; size: the
 * empty latent that it makes of those that were inserted */
/** @typedef {[string, number, number]} Latent the node of an empty latent, its width and height */

/**
 * The LoRAs of a Router that are not `none`.
 *
 * @param {Record<Role, any>} own names by role
 * @param {Lora[]} extra
 * @returns {Lora[]}
 */
export function chosenLoras(own, extra) {
  const two = ROLES.map((role) => ({ name: own[role], role, strength: 1, own: true }));
  return [...two, ...extra].filter(({ name }) => name !== NONE && name !== undefined);
}

/**
 * The LoRAs that a prompt leaves on.
 *
 * @param {Lora[]} loras
 * @param {{role: Role}[] | undefined} phrases undefined where only a run knows them: then all
 * @param {boolean} marked whether the method goes by markers
 */
export function actingLoras(loras, phrases, marked) {
  if (!marked || !phrases) return loras;
  return loras.filter(({ role }) => phrases.some((phrase) => phrase.role === role));
}

/**
 * @param {Lora[]} loras
 * @param {Record<Role, any>} dials strengths of the roles; undefined where a run decides
 * @param {Lora[]} [acting] those that the prompt leaves on
 * @returns {Notice[]}
 */
export function dialNotices(loras, dials, acting = loras) {
  const roles = ROLES.filter((role) => loras.some((one) => one.role === role));
  return roles.flatMap((role) => {
    const [input, value] = [dialOf(role), dials[role]];
    const values = { input, value, most: HIGH, role: sayRole(role) };
    if (value === 0) return [{ text: say("{input} is 0: {role} is off.", values) }];
    if (!(Math.abs(value) > HIGH) || !acting.some((one) => one.role === role)) return [];
    return [{ text: say("{input} is {value}: above {most}, most LoRAs distort pictures.", values) }];
  });
}

/** LoRAs that act in both roles. @param {Lora[]} loras @returns {Notice[]} */
export function sameNotices(loras) {
  const names = (/** @type {Role} */ role) => loras.filter((one) => one.role === role);
  const styles = names("style").map(({ name }) => name);
  const both = names("content").map(({ name }) => name).filter((name) => styles.includes(name));
  return [...new Set(both)].map((file) => ({
    text: say("{file} is both content and style: choose another file for one of them.", { file }),
  }));
}

/**
 * LoRAs whose phrases have none of the words that they were trained with.
 *
 * @param {Lora[]} loras
 * @param {(name: string) => string[]} wordsOf a file's trigger words, as far as they are known
 * @param {string | null} prompt null where only a run knows it
 * @param {{role: Role, text: string}[]} phrases
 * @param {boolean} marked whether the method goes by markers; if not, the whole prompt counts
 * @returns {Notice[]}
 */
export function wordNotices(loras, wordsOf, prompt, phrases, marked) {
  if (prompt === null) return [];
  return loras.flatMap(({ name, role }) => {
    const own = phrases.filter((phrase) => phrase.role === role).map(({ text }) => text);
    const words = wordsOf(name);
    if (!words.length || (marked && !own.length)) return [];
    const said = (marked ? own.join("\n") : prompt).toLowerCase();
    if (words.some((word) => said.includes(word.toLowerCase()))) return [];
    const named = words.slice(0, MOST_WORDS);
    const values = { file: name, words: named.join(", "), role: sayRole(role) };
    return [{
      words: { role, words: named },
      button: say("Put into the prompt"),
      text: marked
        ? say("{file} was trained with “{words}”, which is not in the {role} phrase.", values)
        : say("{file} was trained with “{words}”, which is not in the prompt.", values),
    }];
  });
}

/**
 * What guidance does to the LoRAs: samplers of the host guide by standard CFG, those of ours may
 * multiply the strengths too far.
 *
 * @param {Sampler[]} samplers behind the Router, with a negative prompt
 * @param {Lora[]} loras that act
 * @param {Record<Role, any>} dials
 * @returns {Notice[]}
 */
export function guidanceNotices(samplers, loras, dials) {
  if (!loras.length) return [];
  const settings = samplers.filter(isOurs).map(({ node, hosts }) =>
    ({ place: "", by: reaches((name) => valueOf(node, name, hosts)), loras }));
  const notices = burnNotices(settings, dials);
  const plain = replaceable(samplers);
  const others = samplers.map(({ node }) => node)
    .filter((node) => !OURS.has(node.type) && !plain.includes(node));
  if (plain.length) notices.push({
    text: standard(plain),
    samplers: plain.map((node) => node.id),
    button: say("Use ACFG"),
  });
  if (others.length) notices.push({ text: standard(others) });
  return notices;
}

/**
 * What guidance does to the LoRAs of a sweep, whose lines say how each sampler guides.
 *
 * @param {Sampler} sweep
 * @param {Sampler[]} samplers behind it, with a negative prompt
 * @param {(methods: string[]) => Lora[]} lorasOf those that act by one of the methods
 * @param {Record<Role, any>} dials
 * @returns {Notice[]}
 */
export function sweepNotices(sweep, samplers, lorasOf, dials) {
  const settings = samplers.flatMap((at) => sweepSettings(sweep, at, isOurs(at)));
  const different = new Map(settings.map((one) => [JSON.stringify(one), one]));
  const each = [...different.values()];
  return burnNotices(each.map((one) => ({ ...one, loras: lorasOf(one.methods) })), dials);
}

/** @param {Sampler} at */
const isOurs = ({ node }) => OURS.has(node.type);

/**
 * Strengths that guidance multiplies too far in some of the settings: a line of those that go
 * farthest.
 *
 * @param {{place: string, by: import("./sweep.js").Setting["by"], loras: Lora[]}[]} settings
 *   loras: those that act
 * @param {Record<Role, any>} dials
 * @returns {Notice[]}
 */
function burnNotices(settings, dials) {
  const burning = settings
    .map(({ place, by, loras }) => {
      const own = ownStrengths(loras);
      return { place, own, found: excesses(strengthsOf(own, dials), by) };
    })
    .filter(({ found }) => found.length);
  const all = burning.flatMap(({ found, ...at }) => found.map((one) => ({ ...one, ...at })));
  const [worst] = all.toSorted((one, other) =>
    one.fitting - other.fitting || other.product - one.product);
  if (!worst) return [];
  const { place, text, own } = worst;
  const fitting = worst.roles.map((role) => fittingDial(worst.fitting, own[role], dials[role]));
  const places = { count: burning.length, total: settings.length, place };
  return [{
    text: place ? sentences([overdrivenPlaces(places), text]) : text,
    warns: true,
    strengths: Object.fromEntries(worst.roles.map((role, at) => [dialOf(role), fitting[at]])),
    button: say("Set to {fitting}", { fitting: [...new Set(fitting)].join(", ") }),
  }];
}

/** @param {any[]} nodes that guide by standard CFG */
const standard = (nodes) =>
  say("{samplers}: standard CFG, so the LoRAs act on both halves of guidance.", {
    samplers: [...new Set(nodes.map(titleOf))].join(", "),
  });

/**
 * What nodes that read weights make of a MODEL whose LoRAs are in none.
 *
 * @param {ReturnType<typeof import("../graph/weight_readers.js").weightReaders>} readers
 * @param {any} [beside] the Router's own graph, whose nodes can be shown
 * @returns {Notice[]}
 */
export function weightNotices({ reading, merging, guiding, negative }, beside) {
  const line = (/** @type {any[]} */ nodes, /** @type {(names: string) => string} */ says) => {
    if (!nodes.length) return [];
    const text = says([...new Set(nodes.map(titleOf))].join(", "));
    const shown = nodes.filter(({ graph }) => graph === beside).map(({ id }) => id);
    return [shown.length ? { text, nodes: shown, button: say("Show") } : { text }];
  };
  return [
    ...line(reading, (nodes) => say(
      "{nodes}: reads weights. The LoRAs are put into them where no schedule and no method moves " +
        "them; else it stops, and Fuse LoRAs to File writes them as they act at one step.", { nodes },
    )),
    ...line(merging, (nodes) => say("{nodes}: the LoRAs count by this model's share.", { nodes })),
    ...line(guiding, (nodes) => willStop(nodes, otherNegative().parts)),
    ...line(negative, (nodes) => willStop(nodes, didNotAct().parts.slice(1))),
  ];
}

/** @param {string} nodes @param {string[]} parts of the error with which it will stop */
const willStop = (nodes, parts) =>
  say("{nodes}: the sampler will stop. {why}", { nodes, why: sentences(parts) });

/**
 * Latents that were inserted for another model, and are as they were.
 *
 * @param {any[]} latents that samplers start from
 * @param {Latent | null} wanted what a picture of the model starts from; null where it is not known
 * @param {string} file the model's
 * @returns {Notice[]}
 */
export function sizeNotices(latents, wanted, file) {
  if (!wanted) return [];
  const [, wide, high] = wanted;
  const other = latents.find((node) => isAsInserted(node) && !isOfSize(node, [wide, high]));
  if (!other) return [];
  const [width, height] = other.properties[INSERTED];
  const values = { latent: titleOf(other), width, height, file, wide, high };
  return [{
    text: say("{latent} is {width} x {height}; {file} was made for {wide} x {high}.", values),
    size: wanted,
    button: say("Set size to {width} x {height}", { width: wide, height: high }),
  }];
}

/** Whether an inserted latent still has the size that it was inserted with. @param {any} node */
export function isAsInserted(node) {
  const size = node.properties?.[INSERTED];
  const isLinked = inputs(node).some(({ name, link }) => SIZE.includes(name) && link != null);
  return Array.isArray(size) && !isLinked && isOfSize(node, size);
}

/** @param {any} node @param {any[]} size */
const isOfSize = (node, size) => SIZE.every((name, at) => widget(node, name)?.value === size[at]);

/** The largest own strength of each role's LoRAs, dials left out; -Infinity for a role of none.
 * @param {Lora[]} loras @returns {Record<Role, number>} */
function ownStrengths(loras) {
  const of = (/** @type {Role} */ role) => loras.filter((one) => one.role === role);
  const largest = ROLES.map((role) => Math.max(...of(role).map((one) => Math.abs(one.strength))));
  return { content: largest[0], style: largest[1] };
}

/** The largest strength of each role, dials included, where the page knows it.
 * @param {Record<Role, number>} own @param {Record<Role, any>} dials
 * @returns {Partial<Record<Role, number>>} */
function strengthsOf(own, dials) {
  const found = ROLES.map((role) => [role, own[role] * dials[role]]);
  return Object.fromEntries(found.filter(([, strength]) => Number.isFinite(strength)));
}
