// @ts-check
/**
 * Decides what a new fusion subgraph is linked to, and which nodes have to be added for it; the
 * caller changes the graph. Reads the host's graph as plain data, as upstream.js does.
 */

import { fileOf, isActive } from "../graph/upstream.js";

/** @typedef {any} GraphNode */
/** @typedef {"model" | "clip" | "vae" | "latent"} Need */
/** @typedef {{node: GraphNode, slot: number}} Source */
/** @typedef {{sources: Partial<Record<Need, Source>>, decode: GraphNode | null, missing: Need[],
 *   needsDecode: boolean, several: (Need | "decode")[]}} Wiring decode: the VAE decode to feed;
 *   several: what the graph has more than once, so that the user has to choose */
/** @typedef {"checkpoints" | "diffusion_models" | "text_encoders" | "vae"} Folder */
/** @typedef {Record<Folder, string[]>} Files */
/** @typedef {{type: string, gives: Partial<Record<Need, number>>, values?: Record<string, any>}}
 *   Addition gives: its outputs; values: of its widgets, others than a new node has */
/** @typedef {[string, number, number]} Latent the node of an empty latent, its width and height */
/** @typedef {import("../graph/upstream.js").ModelFile} ModelFile */

/** @type {Record<Need, string>} */
const TYPES = { model: "MODEL", clip: "CLIP", vae: "VAE", latent: "LATENT" };
const NEEDS = /** @type {Need[]} */ (Object.keys(TYPES));
const DECODE = "VAEDecode";
const LOADERS = {
  checkpoints: {
    type: "CheckpointLoaderSimple", gives: { model: 0, clip: 1, vae: 2 }, input: "ckpt_name",
  },
  diffusion_models: { type: "UNETLoader", gives: { model: 0 }, input: "unet_name" },
};
const LATENT = "EmptyLatentImage";

/** @param {GraphNode[]} nodes of a graph @returns {Wiring} */
export function planWiring(nodes) {
  const active = nodes.filter(isActive);
  /** @type {Wiring} */
  const wiring = { sources: {}, decode: null, missing: [], needsDecode: false, several: [] };
  for (const need of NEEDS) {
    const found = active.flatMap((node) => sourceOf(node, TYPES[need]) ?? []);
    if (found.length === 1) [wiring.sources[need]] = found;
    else if (!found.length) wiring.missing.push(need);
    else wiring.several.push(need);
  }
  const decodes = active.filter((node) => node.type === DECODE && isFree(node, "samples"));
  if (decodes.length > 1) wiring.several.push("decode");
  else if (decodes.length) [wiring.decode] = decodes;
  else wiring.needsDecode = !wiring.several.includes("vae");
  const needsVae = wiring.needsDecode || (wiring.decode && isFree(wiring.decode, "vae"));
  if (!needsVae) wiring.missing = wiring.missing.filter((need) => need !== "vae");
  return wiring;
}

/** The files that a new loader can load for a fusion; none where the graph has a model already.
 * @param {Wiring} wiring @param {Files} files @returns {ModelFile[]} */
export function modelChoices({ missing }, files) {
  if (!missing.includes("model")) return [];
  const folders = /** @type {Folder[]} */ (Object.keys(LOADERS));
  return folders.flatMap((kind) => files[kind].map((name) => ({ kind, name })));
}

/** The file of the model that a fusion will be linked to; null where the page cannot know.
 * @param {Wiring} wiring @param {ModelFile | null} chosen what a new loader will load
 * @returns {ModelFile | null} */
export function modelFile({ sources, missing }, chosen) {
  if (sources.model) return fileOf(sources.model.node, null);
  return missing.includes("model") ? chosen : null; // else there are several
}

/**
 * Nodes that give what a graph lacks, as far as the server has files for them.
 *
 * @param {Need[]} missing
 * @param {Files} files
 * @param {ModelFile | null} model what a new loader loads
 * @param {Latent | null} [latent] what a picture on the model of modelFile starts from
 * @returns {{additions: Addition[], lacking: Need[]}} lacking: what no file of the server gives
 */
export function planAdditions(missing, files, model, latent = null) {
  /** @type {Addition[]} */
  const additions = [];
  let left = missing;
  /** @param {Addition} addition */
  const add = (addition) => {
    additions.push(addition);
    left = left.filter((need) => addition.gives[need] === undefined);
  };
  if (left.includes("model") && model) {
    const { input, ...loader } = LOADERS[/** @type {keyof typeof LOADERS} */ (model.kind)];
    add({ ...loader, values: { [input]: model.name } });
  }
  const [encoders, vaes] = [files.text_encoders.length, files.vae.length];
  if (left.includes("clip") && encoders) add({ type: "CLIPLoader", gives: { clip: 0 } });
  if (left.includes("vae") && vaes) add({ type: "VAELoader", gives: { vae: 0 } });
  if (left.includes("latent")) add({ gives: { latent: 0 }, ...emptyLatent(latent) });
  return { additions, lacking: left };
}

/** @param {Latent | null} latent */
const emptyLatent = (latent) => {
  if (!latent) return { type: LATENT };
  const [type, width, height] = latent;
  return { type, values: { width, height } };
};

/** The output of a type of a node that makes it without taking one as input.
 * @param {GraphNode} node @param {string} type @returns {Source | null} */
function sourceOf(node, type) {
  const slot = (node.outputs ?? []).findIndex((/** @type {any} */ output) => output.type === type);
  const kinds = (node.inputs ?? []).map((/** @type {any} */ input) => input.type);
  const passes = kinds.includes(type) || kinds.includes(TYPES.model);
  return slot < 0 || passes ? null : { node, slot };
}

/** @param {GraphNode} node @param {string} name */
function isFree(node, name) {
  const input = node.inputs?.find((/** @type {any} */ one) => one.name === name);
  return input && input.link == null;
}
