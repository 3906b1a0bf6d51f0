// @ts-check
/**
 * Decides where the Router is inserted in an existing graph, and with which links and values; the
 * caller changes the graph. Reads the host's graph as plain data, as upstream.js does.
 */

import { FLOOR, FULL_STRENGTH, GUIDED_STRENGTH } from "../core.js";
import { CraftError } from "../craft_error.js";
import { feedOf, inputs, linked, outputs, titleOf, typed } from "../graph/links.js";
import { isRouter } from "../graph/routers.js";
import { isSampler, modelInput, positiveOf, REPLACED } from "../graph/samplers.js";
import { isActive, modelSource, valueOf, widget } from "../graph/upstream.js";
import { guidedStrength, isLeftToSwitch } from "../guidance.js";
import { say } from "../texts.js";
import {
  alreadyRouted, elsewhere, nothingSuitable, severalPrompts, unlinked, whichOne,
} from "./refusals.js";

/** @typedef {any} GraphNode */
/** @typedef {import("../graph/links.js").Feed} Feed */
/** @typedef {{node: GraphNode, index: number}} End an input of a node, by its index */
/** @typedef {{node: GraphNode, as: string | null}} Target a sampler; as: the type that takes its
 * place, null where it keeps its own */
/** @typedef {{node: GraphNode, text: string, textFeed: Feed | null, cleaned: number[]}} Prompt
 * cleaned: inputs of the text encoder that take the Router's clean prompt; none if the Router's own
 * conditioning replaces the encoder's */
/** @typedef {{model: Feed, clip: Feed, prompt: Prompt, positives: End[], targets: Target[],
 *   loras: string[], plain: string[]}} Fusion one Router with what is linked to it; loras: files
 * that loaders before it put into the model already; plain: titles of samplers of the same model
 * that are left without the fusion */
/** @typedef {{feed: Feed | null, values: Record<string, any>, feeds: Record<string, Feed>}} Whole
 * the sigmas of a run that several samplers share. feed: the output that gives them; null where a
 * new scheduler has to, with these values and with these outputs linked to its inputs */
/** @typedef {{strength: number, floor: number, clock: string}} Start values of a new Router and its
 * schedule */

const LIMIT = 500; // nodes followed at most, so that a loop of links ends
const PLAIN_ENCODER = "CLIPTextEncode";
const ACFG = new Set(Object.values(REPLACED));
const IN_PARTS = new Set(["SplitSigmas", "SplitSigmasDenoise"]);
const OF_RUN = ["steps", "scheduler"]; // settings of a sampler that its sigmas come from
/** Samplers for which the host computes one more step, and leaves out the last sigma but one. */
const ONE_MORE = new Set(["dpm_2", "dpm_2_ancestral", "uni_pc", "uni_pc_bh2"]);
const ROOM = 4; // sentences in a message

/** Whether the menu of a node should offer the insertion. @param {GraphNode} node */
export function isOffered(node) {
  if (isRouter(node)) return false;
  if (isSampler(node) || guiderOf(node)) return true;
  return node.type !== "Reroute" && outputs(node).some((output) => output.type === "MODEL");
}

/**
 * The samplers that nodes stand for: themselves, the guider they sample with, or those that their
 * models reach in the same graph.
 *
 * @param {GraphNode[]} nodes
 * @returns {GraphNode[]} each once
 */
export function samplersOf(nodes) {
  const found = new Set();
  for (const node of nodes) {
    const guider = guiderOf(node);
    if (isSampler(node)) found.add(node);
    else if (guider) found.add(guider);
    else reached(node).forEach((one) => found.add(one));
  }
  return [...found];
}

/** The nodes among what is selected: groups and reroutes may be, too.
 * @param {Iterable<any>} items @returns {GraphNode[]} */
export const nodesAmong = (items) => [...items].filter(({ inputs }) => Array.isArray(inputs));

/** The graph's only sampler, which is meant where nothing is selected.
 * @param {GraphNode[]} nodes of a graph */
export function onlySampler(nodes) {
  const samplers = nodes.filter(isSampler);
  if (samplers.length > 1) throw whichOne(samplers.length);
  return samplers;
}

/**
 * What to insert before samplers. Those that the same model and the same text encoder feed share a
 * Router.
 *
 * @param {GraphNode[]} samplers of one graph
 * @param {GraphNode[]} hosts the subgraph nodes around them, outermost first
 * @returns {{fusions: Fusion[], refused: string[]}} refused: the reason for each sampler that is
 *   left unchanged
 * @throws {CraftError} if all of them are
 */
export function planInsertion(samplers, hosts) {
  if (!samplers.length) throw nothingSuitable();
  /** @type {Map<string, Fusion>} */
  const fusions = new Map();
  const refused = [];
  for (const node of samplers) {
    try {
      merge(fusions, fusionFor(node, hosts));
    } catch (error) {
      if (!(error instanceof CraftError)) throw error;
      refused.push(error);
    }
  }
  if (!fusions.size) throw refused[0];
  /** @type {GraphNode[]} */
  const active = samplers[0].graph.nodes.filter(isActive);
  const others = active.filter((node) => !samplers.includes(node) && isSampler(node));
  for (const fusion of fusions.values()) fusion.plain = leftPlain(fusion, others, hosts);
  return { fusions: [...fusions.values()], refused: refused.map((error) => error.message) };
}

/**
 * @param {GraphNode} node a sampler
 * @param {GraphNode[]} hosts
 * @returns {Fusion}
 */
function fusionFor(node, hosts) {
  const model = feedOf(node, modelInput(node));
  const passed = passedTo(node, hosts);
  const router = passed.find(isRouter);
  if (router) throw alreadyRouted(node, router);
  if (!model) throw unlinked(node, "model");
  const { encoder, end } = encoderBehind(node, positiveOf(node));
  const clip = feedOf(encoder, typed(encoder, "CLIP"));
  if (!clip) throw unlinked(encoder, "clip");
  const prompt = promptOf(encoder);
  const positives = prompt.cleaned.length ? [] : [end];
  const targets = [{ node, as: REPLACED[node.type] ?? null }];
  return { model, clip, prompt, positives, targets, loras: lorasOf(passed), plain: [] };
}

/** The nodes that a sampler's MODEL comes through, nearest first.
 * @param {GraphNode} node @param {GraphNode[]} hosts */
const passedTo = (node, hosts) =>
  modelSource(node, node.inputs[modelInput(node)].name, hosts).passed;

/** The files of LoRA loaders, first loaded first. @param {GraphNode[]} passed */
function lorasOf(passed) {
  const loaders = passed.filter((node) => isActive(node) && widget(node, "lora_name"));
  const acting = loaders.filter((node) => valueOf(node, "strength_model", null) !== 0);
  return acting.map((node) => valueOf(node, "lora_name", null)).filter(isFile).reverse();
}

/** @param {any} name */
const isFile = (name) => typeof name === "string" && name !== "";

/**
 * The titles of the other samplers that the fusion's model feeds without a Router.
 *
 * @param {Fusion} fusion
 * @param {GraphNode[]} others
 * @param {GraphNode[]} hosts
 */
function leftPlain({ targets: [{ node }] }, others, hosts) {
  const source = sourceOf(node, hosts);
  return others
    .filter((other) => sourceOf(other, hosts) === source)
    .filter((other) => !passedTo(other, hosts).some(isRouter))
    .map(titleOf);
}

/** What a sampler's MODEL comes from: a node, or an input of the subgraph around it.
 * @param {GraphNode} node @param {GraphNode[]} hosts */
function sourceOf(node, hosts) {
  const feed = feedOf(node, modelInput(node));
  return passedTo(node, hosts).at(-1) ?? (feed && `${feed.id}/${feed.slot}`);
}

/**
 * The values that a new Router and its schedule start with: lower strengths for ACFG, which
 * multiplies the LoRAs by cfg; and the model's clock for a sampler that runs some of a picture's
 * steps, because its own steps do not show where in the whole run they are.
 *
 * @param {Fusion} fusion
 * @returns {Start}
 */
export function startOf({ targets }) {
  const strength = Math.min(...targets.map(strengthUnder));
  const clock = targets.some(({ node }) => isInParts(node)) ? "model" : "steps";
  return { strength, floor: FLOOR, clock };
}

/** The strength to start with under the guidance of a target. @param {Target} target */
function strengthUnder(target) {
  if (!isAsymmetric(target)) return FULL_STRENGTH;
  const cfg = valueOf(target.node, "cfg", null);
  return typeof cfg === "number" ? guidedStrength(cfg) : GUIDED_STRENGTH;
}

/** Whether a target guides by ACFG. @param {Target} target */
function isAsymmetric({ node, as }) {
  if (as !== null) return true;
  if (!ACFG.has(node.type) || !isLeftToSwitch(widget(node, "guidance")?.value)) return false;
  return widget(node, "asymmetric")?.value !== false;
}

/** Whether a sampler, or one that uses this guider, runs only some of a picture's steps.
 * @param {GraphNode} node */
function isInParts(node) {
  if (node.type === "KSamplerAdvanced") return true;
  const users = linked(node, "GUIDER");
  return [node, ...users].some(hasPartOfSigmas);
}

/** @param {GraphNode} node */
const hasPartOfSigmas = (node) => splitters(node).length > 0;

/** The nodes that split the sigmas which a node gets, nearest first. @param {GraphNode} node */
function splitters(node) {
  const found = [];
  let at = node;
  for (let left = LIMIT; left > 0; left -= 1) {
    const feed = feedOf(at, at.type === "Reroute" ? 0 : typed(at, "SIGMAS"));
    const next = feed && at.graph.getNodeById(feed.id);
    if (!next) break;
    if (IN_PARTS.has(next.type)) found.push(next);
    at = next;
  }
  return found;
}

/**
 * The sigmas of the whole run that samplers share; null where none has a part of a run, and where
 * their parts are of different runs.
 *
 * @param {Fusion} fusion
 * @returns {Whole | null}
 */
export function wholeOf({ targets }) {
  const wholes = targets.flatMap(({ node }) =>
    node.type === "KSamplerAdvanced"
      ? [wholeOfSettings(node)]
      : [node, ...linked(node, "GUIDER")].filter(hasPartOfSigmas).map(wholeOfParts),
  );
  const alike = new Set(wholes.map((whole) => JSON.stringify(whole, withoutReroute)));
  return alike.size === 1 ? wholes[0] : null;
}

/** @param {string} name @param {any} value */
const withoutReroute = (name, value) => (name === "parentId" ? undefined : value);

/** @param {GraphNode} node with parts of sigmas @returns {Whole | null} */
function wholeOfParts(node) {
  const [first] = splitters(node).slice(-1);
  const feed = feedOf(first, typed(first, "SIGMAS"));
  return feed && { feed, values: {}, feeds: {} };
}

/** @param {GraphNode} node a sampler that makes its sigmas itself @returns {Whole} */
function wholeOfSettings(node) {
  /** @type {Whole} */
  const whole = { feed: null, values: {}, feeds: {} };
  for (const name of OF_RUN) {
    const feed = feedOf(node, inputs(node).findIndex((input) => input.name === name));
    if (feed) whole.feeds[name] = feed;
    else whole.values[name] = widget(node, name)?.value;
  }
  if (ONE_MORE.has(valueOf(node, "sampler_name", null)) && "steps" in whole.values)
    whole.values.steps += 1;
  return whole;
}

/**
 * The message after an insertion: what the user should do or know, the most important first.
 *
 * @param {Fusion[]} fusions
 */
export function nextSteps(fusions) {
  const targets = fusions.flatMap((fusion) => fusion.targets);
  /** @param {(fusion: Fusion) => string[]} part */
  const names = (part) => [...new Set(fusions.flatMap(part))].join(", ");
  const loras = names((fusion) => fusion.loras);
  const plain = names((fusion) => fusion.plain);
  const steps = [
    say(
      "Choose the two LoRAs in the Router, and mark their words in its prompt: " +
        "<c>a dog</c> in <s>ink style</s>.",
    ),
    targets.some(isAsymmetric) &&
      say("ACFG multiplies the LoRAs by cfg, so their strengths start low."),
    loras &&
      say(
        "Loaders before the Router put {loras} on all rows and all steps: bypass those whose " +
          "LoRA you choose in the Router.",
        { loras },
      ),
    plain &&
      say(
        "Left without the fusion, on the same model: {plain}; to include them, undo and insert " +
          "it at the loader.",
        { plain },
      ),
    fusions.some(isOfSeveralRuns) &&
      say(
        "The samplers that share the picture differ in steps or scheduler: link the sigmas of " +
          "the whole run to the Router's whole_sigmas.",
      ),
    !targets.every(isAsymmetric) &&
      say("Samplers that no ACFG node stands in for guide as they did, without ACFG."),
    fusions.some(({ prompt }) => prompt.cleaned.length) &&
      say(
        "The text encoder was kept and takes the Router's clean prompt; what the LoRAs teach a " +
          "text encoder does not reach it.",
      ),
  ];
  return steps.filter(Boolean).slice(0, ROOM).join(" ");
}

/** Whether its samplers share a picture, but not the settings of one run. @param {Fusion} fusion */
const isOfSeveralRuns = (fusion) =>
  fusion.targets.some(({ node }) => isInParts(node)) && !wholeOf(fusion);

/** @param {Map<string, Fusion>} fusions @param {Fusion} fusion */
function merge(fusions, fusion) {
  const key = [fusion.model.id, fusion.model.slot, fusion.prompt.node.id].join();
  const same = fusions.get(key);
  if (!same) {
    fusions.set(key, fusion);
    return;
  }
  same.targets.push(...fusion.targets);
  const known = same.positives.map(endKey);
  same.positives.push(...fusion.positives.filter((end) => !known.includes(endKey(end))));
}

/** @param {End} end */
const endKey = ({ node, index }) => `${node.id}/${index}`;

/**
 * The text encoder behind a conditioning, and the input that its conditioning ends at.
 *
 * @param {GraphNode} sampler
 * @param {number} index of its positive input
 * @returns {{encoder: GraphNode, end: End}}
 */
function encoderBehind(sampler, index) {
  let end = { node: sampler, index };
  for (let left = LIMIT; left > 0; left -= 1) {
    const feed = feedOf(end.node, end.index);
    if (!feed) throw unlinked(end.node, end.node.inputs[end.index].name);
    const node = sampler.graph.getNodeById(feed.id);
    if (!node || node.subgraph) throw elsewhere(sampler);
    if (typed(node, "CLIP") >= 0) return { encoder: node, end };
    end = { node, index: behind(node, feed.slot) };
    if (end.index < 0) throw severalPrompts(sampler, node);
  }
  throw elsewhere(sampler);
}

/** The index of the conditioning input that an output passes on: the one of the same name, else the
 * only one; -1 where there are several. @param {GraphNode} node @param {number} slot */
function behind(node, slot) {
  if (node.type === "Reroute") return 0;
  const indices = inputs(node).flatMap((one, index) => (one.type === "CONDITIONING" ? index : []));
  const name = outputs(node)[slot]?.name;
  const same = indices.find((index) => inputs(node)[index].name === name);
  return same ?? (indices.length === 1 ? indices[0] : -1);
}

/** @param {GraphNode} encoder @returns {Prompt} */
function promptOf(encoder) {
  const texts = inputs(encoder).flatMap((one, index) => (one.type === "STRING" ? index : []));
  const first = texts.find((index) => feedOf(encoder, index) || textAt(encoder, index));
  const text = first === undefined ? "" : textAt(encoder, first);
  const textFeed = first === undefined ? null : feedOf(encoder, first);
  const cleaned = texts.filter((index) => {
    if (index === first) return true;
    const own = textAt(encoder, index);
    return !feedOf(encoder, index) && !textFeed && (!own || own === text);
  });
  return { node: encoder, text, textFeed, cleaned: encoder.type === PLAIN_ENCODER ? [] : cleaned };
}

/** @param {GraphNode} node @param {number} index */
function textAt(node, index) {
  const name = node.inputs[index].widget?.name ?? node.inputs[index].name;
  const found = node.widgets?.find((/** @type {any} */ one) => one.name === name);
  return typeof found?.value === "string" ? found.value : "";
}

/** Samplers that the MODEL of a node reaches. @param {GraphNode} node */
function reached(node) {
  const found = new Set();
  const seen = new Set([node]);
  const open = [node];
  while (open.length && seen.size < LIMIT) {
    for (const next of followers(/** @type {GraphNode} */ (open.pop()))) {
      if (seen.has(next)) continue;
      seen.add(next);
      if (isSampler(next)) found.add(next);
      else open.push(next);
    }
  }
  return found;
}

/** Nodes that take a MODEL of a node. @param {GraphNode} node */
const followers = (node) => linked(node, "MODEL");

/** The guider that a node samples with. @param {GraphNode} node */
function guiderOf(node) {
  const feed = feedOf(node, typed(node, "GUIDER"));
  const found = feed && node.graph.getNodeById(feed.id);
  return found && isSampler(found) ? found : null;
}
