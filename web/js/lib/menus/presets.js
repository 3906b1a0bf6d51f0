// @ts-check
/**
 * Presets: what a preset sets on the nodes of a graph, and the preset that the nodes' present values
 * make. craft_core/presets says what is in one.
 */

import { readPoints } from "../drawings/schedule.js";
import { titleOf } from "../graph/links.js";
import { nodesIn, REPLACED, samplersBehind } from "../graph/samplers.js";
import {
  decider, isActive, isPrimitive, originPastReroutes, settingsOf, valueOf, widget,
} from "../graph/upstream.js";
import { isLeftToSwitch } from "../guidance.js";
import { say } from "../texts.js";

/** @typedef {{node: any, hosts: any[] | null}} At a node, and the subgraph nodes around it */
/** @typedef {Record<string, any>} Values by input, a menu before what its entry brings */
/** @typedef {{router: Values, schedule: Values, guidance: Values, sampler?: Values}} NodeValues as
 * the server gives them */

const ROUTER = "CRAFTRouter";
const SCHEDULE = "CRAFTTimestepSchedule";
const OURS = new Set(Object.values(REPLACED)); // nodes that guide by what a preset says
const CUSTOM = "custom";
const LONGEST = 80; // letters of a name
const UNFIT = /[\\/:*?"<>|\p{Cc}]|^\.|\.$/u; // what file systems refuse in a name
const DEVICE = /^(con|prn|aux|nul|(com|lpt)[0-9¹²³]) *(\.|$)/i; // what Windows takes for no file

/** What the shipped presets are called, and what they are for.
 * @type {Record<string, {name: () => string, use: () => string}>} */
export const SHIPPED = {
  keep_subject: {
    name: () => say("Keep the subject"),
    use: () => say("Content in full, style a little weaker, standard guidance at cfg 2."),
  },
  strong_style: {
    name: () => say("Strong style"),
    use: () => say("ACFG at cfg 2, which multiplies both LoRAs: near to the style."),
  },
  balanced: {
    name: () => say("Balanced"),
    use: () => say("Both LoRAs in full under standard guidance at cfg 3."),
  },
  distilled: {
    name: () => say("Distilled model"),
    use: () => say("For turbo, lightning and LCM models: both LoRAs in full at cfg 1."),
  },
};

/** A name for a file, without spaces around it; "" for one that no file can have.
 * @param {string} text */
export function fileName(text) {
  const name = text.trim();
  return name.length > LONGEST || UNFIT.test(name) || DEVICE.test(name) ? "" : name;
}

/**
 * The Router that a node is, or that stands alone in a subgraph node. null for others.
 *
 * @param {any} node
 * @param {any[] | null} hosts the subgraph nodes around it
 * @returns {At | null}
 */
export function routerAt(node, hosts) {
  if (node.type === ROUTER) return { node, hosts };
  const inside = (node.subgraph?.nodes ?? []).filter((/** @type {any} */ one) => one.type === ROUTER);
  return inside.length === 1 && hosts ? { node: inside[0], hosts: [...hosts, node] } : null;
}

/**
 * All Routers that run, of a graph and of its subgraphs, each once.
 *
 * @param {any} root the outermost graph
 * @returns {At[]} hosts: null where its subgraph is used more than once
 */
export function routersIn(root) {
  const found = nodesIn(root, []).filter(({ node }) => node.type === ROUTER && isActive(node));
  return [...new Set(found.map(({ node }) => node))].map((node) => {
    const [first, ...more] = found.filter((one) => one.node === node);
    return { node, hosts: more.length ? null : first.hosts };
  });
}

/**
 * Which nodes get which values, and what a preset has that no node takes.
 *
 * @param {NodeValues} values
 * @param {any} root the outermost graph
 * @param {At} router
 * @returns {{targets: (At & {values: Values})[], left: string[]}}
 */
export function planPreset(values, root, router) {
  const { schedule, isLinked, guides, others } = around(root, router);
  const targets = [{ ...router, values: values.router }];
  /** @type {string[]} */
  const left = [];
  if (schedule) targets.push({ ...schedule, values: values.schedule });
  else if (isLinked ? "shape" in values.schedule : !isConstant(values.schedule))
    left.push(whyNoSchedule(values.schedule.shape, isLinked));
  targets.push(...guides.map((one) => ({ ...one, values: values.guidance })));
  if (!guides.length && Object.keys(values.guidance).length) left.push(
    others.length
      ? say("Guidance is left out: {samplers} has standard guidance and its own cfg.", {
          samplers: [...new Set(others.map(({ node }) => titleOf(node)))].join(", "),
        })
      : say("Guidance is left out: no ACFG KSampler or ACFG Guider follows the Router."),
  );
  if (Object.keys(values.sampler ?? {}).length) {
    const seeded = [...guides, ...others].filter(({ node }) => widget(node, "seed"));
    targets.push(...seeded.map((one) => ({ ...one, values: values.sampler ?? {} })));
    if (!seeded.length)
      left.push(say("The seed is left out: no sampler with a seed follows the Router."));
  }
  return { targets: targets.filter((one) => Object.keys(one.values).length), left };
}

/**
 * Where a value is to be set, or why it cannot be.
 *
 * @param {At} at
 * @param {string} name of an input
 * @returns {{node: any, name: string} | string}
 */
export function placeOf({ node, hosts }, name) {
  const found = decider(node, name, hosts);
  const at = { title: titleOf(node), input: name };
  if (!found || isPrimitive(found.node))
    return say("{title}: {input} comes from another node and stays as it is.", at);
  return widget(found.node, found.name) ? found : say("{title} has no input {input}.", at);
}

/**
 * The preset that the present values make. What only a run knows is not in it.
 *
 * @param {any} root the outermost graph
 * @param {At} router
 * @returns {Record<string, any>}
 */
export function presetOf(root, router) {
  const { schedule, isLinked, guides, others } = around(root, router);
  const of = (/** @type {string} */ name) => valueOf(router.node, name, router.hosts);
  const chosen = of("layer_sets");
  const made = {
    method: entryOf(router, "method"),
    layer_sets: chosen === CUSTOM ? of("layer_sets.patterns") : chosen,
    content_strength: of("content_strength"),
    style_strength: of("style_strength"),
    schedule: schedule ? scheduleOf(schedule) : isLinked ? undefined : "constant",
    ...guidanceOf(guides[0], others[0]),
  };
  return Object.fromEntries(Object.entries(made).filter(([, value]) => value !== undefined));
}

/** The nodes that a preset concerns beside the Router. others: samplers that are not ours.
 * @param {any} root @param {At} router */
function around(root, { node, hosts }) {
  const index = node.inputs.findIndex((/** @type {any} */ input) => input.name === "schedule");
  const from = hosts && index >= 0 ? originPastReroutes(node, index, hosts) : null;
  const isOurs = from?.node.type === SCHEDULE && isActive(from.node);
  const behind = samplersBehind(root, node);
  return {
    schedule: isOurs && from ? { node: from.node, hosts: from.hosts } : null,
    isLinked: node.inputs[index]?.link != null,
    guides: behind.filter((one) => OURS.has(one.node.type)),
    others: behind.filter((one) => !OURS.has(one.node.type)),
  };
}

/** @param {string} shape that a preset has @param {boolean} isLinked whether the Router has another */
const whyNoSchedule = (shape, isLinked) =>
  isLinked
    ? say("The schedule {shape} is left out: the one linked to the Router cannot be set here.", {
        shape,
      })
    : say("The schedule {shape} is left out: no Timestep Schedule is linked to the Router.", {
        shape,
      });

/** Whether a schedule is what a Router without one has. @param {Values} schedule */
function isConstant(schedule) {
  const { shape = "constant", "shape.content": content = 1, "shape.style": style = 1 } = schedule;
  return shape === "constant" && content === 1 && style === 1;
}

/** A menu's entry with its settings. @param {At} at @param {string} menu */
function entryOf({ node, hosts }, menu) {
  const key = valueOf(node, menu, hosts);
  if (key === undefined) return undefined;
  const settings = Object.entries(settingsOf(node, menu, hosts)).map(([name, value]) =>
    [name, value !== null && typeof value === "object" ? readPoints(value, name) : value]);
  return { [menu]: key, ...Object.fromEntries(settings) };
}

/** @param {At} at */
function scheduleOf(at) {
  const of = (/** @type {string} */ name) => valueOf(at.node, name, at.hosts);
  const shape = entryOf(at, "shape");
  const own = ["content_floor", "style_floor", "clock"].map((name) => [name, of(name)]);
  return shape && { ...shape, ...Object.fromEntries(own) };
}

/** @param {At | undefined} guide @param {At | undefined} other a sampler, with standard guidance */
function guidanceOf(guide, other) {
  const at = guide ?? other;
  if (!at) return {};
  const of = (/** @type {string} */ name) => valueOf(at.node, name, at.hosts);
  const cfg = of("cfg");
  if (!guide) return typeof cfg === "number" ? { guidance: { guidance: "cfg" }, cfg } : {};
  return { guidance: ruleOf(guide), cfg };
}

/** The rule of guidance with its weights; undefined where only a run knows it. @param {At} guide */
function ruleOf(guide) {
  const of = (/** @type {string} */ name) => valueOf(guide.node, name, guide.hosts);
  const [key, switched] = [of("guidance"), of("asymmetric")];
  if (!isLeftToSwitch(key)) return entryOf(guide, "guidance");
  const isOpen = key === undefined && decider(guide.node, "guidance", guide.hosts) === null;
  if (isOpen || switched === undefined) return undefined;
  return { guidance: switched ? "acfg" : "cfg" };
}
