// @ts-check
/** What guidance does to the LoRAs in each setting of Method Sweep, as far as the page can tell. */

import { titleOf } from "../graph/links.js";
import { originPastReroutes, valueOf } from "../graph/upstream.js";
import { isLeftToSwitch, reaches } from "../guidance.js";

/** @typedef {{place: string, by: ReturnType<typeof reaches>, methods: string[]}} Setting place: what
 * it is called; methods: those that its pictures are made by */
/** @typedef {{node: any, hosts: any[]}} At a node, and the subgraph nodes around it */

const SWITCHED = ["acfg", "cfg"]; // the rules that the switch `asymmetric` chooses between
const WEIGHTS = ["weight", "content_weight", "style_weight"]; // of the other rules; 1 if not written

/**
 * The settings that a sampler behind a sweep makes pictures of.
 *
 * @param {At} sweep
 * @param {At} sampler
 * @param {boolean} isOurs whether the sampler has the switch and the menu of guidance
 * @returns {Setting[]}
 */
export function sweepSettings(sweep, sampler, isOurs) {
  const of = (/** @type {string} */ name) => valueOf(sampler.node, name, sampler.hosts);
  const own = isOurs ? of("guidance") : undefined;
  const written = valueOf(sweep.node, "methods", sweep.hosts);
  const [lines, methods] = [linesOf(written), methodsOf(written)];
  if (!isLeftToSwitch(own)) return [{ place: titleOf(sampler.node), by: reaches(of), methods }];
  const switched = isOurs ? of("asymmetric") : undefined;
  const cfgs = scales(sweep, sampler);
  return lines.flatMap((line) => {
    const asymmetric = switched ?? isAsymmetric(line, sweep);
    return cfgs.map((cfg) => ({
      place: [line.text, ...(cfgs.length > 1 ? [`cfg ${cfg}`] : [])].join(", "),
      by: reaches((name) => ({ cfg, asymmetric, ...line.weights })[name]),
      methods: [line.method],
    }));
  });
}

/** The cfg of each column: the sampler's own, or those of the sweep where it takes them; NaN where
 * the page cannot know, as the weights of a line count all the same.
 * @param {At} sweep @param {At} sampler @returns {number[]} */
function scales(sweep, sampler) {
  const own = valueOf(sampler.node, "cfg", sampler.hosts);
  if (typeof own === "number") return [own];
  const index = (sampler.node.inputs ?? []).findIndex((/** @type {any} */ one) => one.name === "cfg");
  const from = index < 0 ? null : originPastReroutes(sampler.node, index, sampler.hosts);
  const written = from?.node === sweep.node ? valueOf(sweep.node, "cfgs", sweep.hosts) : undefined;
  if (typeof written !== "string") return [NaN];
  return written.split(",").filter((part) => part.trim()).map(Number);
}

/** @param {ReturnType<typeof linesOf>[number]} line @param {At} sweep */
const isAsymmetric = ({ rule }, sweep) =>
  rule ? rule === SWITCHED[0] : valueOf(sweep.node, "asymmetric", sweep.hosts);

/** The methods of the lines of `methods`. @param {any} methods */
export const methodsOf = (methods) => [...new Set(linesOf(methods).map(({ method }) => method))];

/** The lines of `methods` with what they say of guidance.
 * @param {any} methods @returns {{text: string, method: string, rule: string, weights: Record<string, any>}[]}
 *   weights: as inputs of a sampler with that rule; none under a rule of the switch */
function linesOf(methods) {
  if (typeof methods !== "string") return [];
  const lines = methods.split("\n").map((line) => line.split("#")[0].trim()).filter(Boolean);
  return lines.map((line) => {
    const [method, written = ""] = line.split(/:(.*)/s);
    const pairs = written.split(",").filter((part) => part.trim())
      .map((part) => part.split("=").map((side) => side.trim()));
    const settings = Object.fromEntries(pairs);
    const rule = settings.guidance ?? "";
    const weights = WEIGHTS.map((name) => [`guidance.${name}`, Number(settings[name] ?? 1)]);
    return {
      text: [method.trim(), ...pairs.map((pair) => pair.join(" = "))].join(", "),
      method: method.trim(),
      rule,
      weights: !rule || SWITCHED.includes(rule)
        ? {}
        : { guidance: rule, ...Object.fromEntries(weights) },
    };
  });
}
