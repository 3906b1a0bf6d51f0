// @ts-check
/** Adds the shipped subgraph "Content + Style LoRA" to the graph with two LoRAs, and links it. */

// @ts-ignore: the host's own modules
import { api } from "../../../../scripts/api.js";
// @ts-ignore
import { app } from "../../../../scripts/app.js";
import { CraftError } from "../lib/craft_error.js";
import { fittingModel } from "../lib/insertion/base_model.js";
import { modelChoices, modelFile, planAdditions, planWiring } from "../lib/insertion/wiring.js";
import { promptWith } from "../lib/insertion/trigger_prompt.js";
import { say } from "../lib/texts.js";
import {
  askFamily, askLatent, askLoraInfo, askTriggerWords, modelFiles,
} from "../page/server.js";
import {
  addAsOneStep, addNode, attempt, putFree, setWidget, showNodes, notify,
} from "./graph_edit.js";
import { noteSize } from "./sizes.js";

/** @typedef {import("../lib/insertion/wiring.js").Addition} Addition */
/** @typedef {import("../lib/insertion/wiring.js").Need} Need */
/** @typedef {import("../lib/insertion/wiring.js").Wiring} Wiring */
/** @typedef {import("../lib/insertion/wiring.js").ModelFile} ModelFile */
/** @typedef {(choices: ModelFile[], best: ModelFile | null) => ModelFile | Promise<ModelFile>} Choose
 * best: the one that the LoRAs fit, where it is known */
/** @typedef {[number, number]} Place */

const NAME = /^Content \+ Style LoRA$/; // the name of the subgraph's file
const FOLDERS = ["checkpoints", "diffusion_models", "text_encoders", "vae"];
const APART = 60; // between neighbouring nodes
const DECODE = 210; // width at which the title of VAE Decode is readable
const PICTURE = 320; // width and height of Save Image until it has a picture
/** @type {Record<Need, string>} */
const INPUTS = { model: "model", clip: "clip", latent: "latent_image", vae: "vae" };
/** Names, in the page's language, of what can be left without a link. */
const NAMES = {
  model: () => say("model"), clip: () => say("clip"), latent: () => say("latent_image"),
  vae: () => say("vae"), decode: () => say("VAE Decode"),
};

/**
 * Add the subgraph with two LoRAs, link it to the graph's nodes and add those that are missing.
 *
 * @param {() => string[]} pair names of the content LoRA and of the style LoRA
 * @param {Place} place
 * @param {Choose} choose the model, where there are several and the graph has none
 */
export function addFusion(pair, place, choose) {
  return attempt(async () => {
    const loras = pair();
    const [items, files, content, style] = await Promise.all([
      fetchBlueprint(), fetchFiles(), ...loras.map(askTriggerWords),
    ]);
    const choices = offered(files);
    const [first = null, second] = choices;
    const model = second ? await choose(choices, await bestModel(choices, loras)) : first;
    const latent = await latentFor(model);
    const wiring = planWiring(app.canvas.graph.nodes);
    const { additions, lacking } = planAdditions(wiring.missing, files, model, latent);
    const { fusion } = addAsOneStep(
      () => build(loras, { content, style }, place, items, wiring, additions),
      (made) => [made.fusion, ...made.before, ...made.after],
      (made) => putAround(made.fusion, place, made.before, made.after),
    );
    showNodes([fusion]);
    report([...wiring.several, ...lacking]);
  });
}

/** The models that a fusion can be given; none where the graph has one.
 * @returns {Promise<ModelFile[]>} */
export const offeredModels = async () => offered(await fetchFiles());

/** @param {import("../lib/insertion/wiring.js").Files} files */
const offered = (files) => modelChoices(planWiring(app.canvas.graph.nodes), files);

/** The model that LoRAs fit; null where none is known to. @param {ModelFile[]} choices
 * @param {string[]} loras */
export async function bestModel(choices, loras) {
  return fittingModel(choices, await Promise.all(loras.map(askLoraInfo)), askFamily);
}

/** What a picture starts from on the model that the fusion will be linked to; null where that is
 * not known, or nothing is missing. @param {ModelFile | null} model that a new loader will load */
async function latentFor(model) {
  const wiring = planWiring(app.canvas.graph.nodes);
  const file = wiring.missing.includes("latent") ? modelFile(wiring, model) : null;
  return file && askLatent(file);
}

/** @param {string[]} loras @param {{content: string[], style: string[]}} words
 * @param {Place} place @param {any} items as fetchBlueprint gives them
 * @param {Wiring} wiring @param {Addition[]} additions */
function build([content, style], words, place, items, wiring, additions) {
  const { graph } = app.canvas;
  const fusion = app.canvas._deserializeItems(items, { position: place }).created[0];
  setWidget(fusion, "content_lora", content);
  setWidget(fusion, "style_lora", style);
  const start = fusion.widgets.find((/** @type {any} */ one) => one.name === "prompt").value;
  setWidget(fusion, "prompt", promptWith(start, words));
  const before = additions.map((addition) => addSource(graph, addition, wiring, place));
  const after = wiring.needsDecode ? addDecode(graph, place) : [];
  connect(fusion, wiring, after[0] ?? wiring.decode);
  return { fusion, before, after };
}

/** @param {any} graph @param {Addition} addition @param {Wiring} wiring
 * @param {Place} place */
function addSource(graph, { type, gives, values = {} }, { missing, sources }, place) {
  const node = addNode(graph, type, place);
  for (const [name, value] of Object.entries(values)) setWidget(node, name, value);
  if (values.width) noteSize(node, [values.width, values.height]);
  for (const need of missing) if (need in gives) sources[need] = { node, slot: gives[need] ?? 0 };
  return node;
}

/** @param {any} graph @param {Place} place */
function addDecode(graph, place) {
  const decode = addNode(graph, "VAEDecode", place);
  const save = addNode(graph, "SaveImage", place);
  decode.size = [DECODE, decode.size[1]];
  save.size = [PICTURE, PICTURE];
  decode.connect(0, save, 0);
  return [decode, save];
}

/** @param {any} fusion @param {Wiring} wiring @param {any} decode */
function connect(fusion, { sources }, decode) {
  for (const need of /** @type {Need[]} */ (["model", "clip", "latent"])) {
    sources[need]?.node.connect(sources[need].slot, fusion, INPUTS[need]);
  }
  if (!decode) return;
  fusion.connect(0, decode, "samples");
  const vae = decode.inputs[decode.findInputSlot("vae")];
  if (vae.link == null) sources.vae?.node.connect(sources.vae.slot, decode, "vae");
}

/** Place the nodes that feed the subgraph to its left, those that it feeds to its right.
 * @param {any} fusion @param {Place} place @param {any[]} before @param {any[]} after */
function putAround(fusion, place, before, after) {
  const pending = new Set([...before, ...after]);
  putFree(fusion, place, pending);
  const [left, top] = fusion.pos;
  for (const node of before) {
    pending.delete(node);
    putFree(node, [left - APART - node.size[0], top], pending);
  }
  let right = left + fusion.size[0] + APART;
  for (const node of after) {
    pending.delete(node);
    putFree(node, [right, top], pending);
    right = node.pos[0] + node.size[0] + APART;
  }
}

/** @param {(keyof typeof NAMES)[]} open what could not be linked */
function report(open) {
  const steps = [
    say("Mark the words of the two LoRAs in its prompt: <c>a dog</c> in <s>ink style</s>."),
  ];
  if (open.length) {
    const names = open.map((one) => NAMES[one]()).join(", ");
    steps.push(say("Link by hand what the graph has several of, or none: {names}.", { names }));
  }
  notify(open.length ? "warn" : "info", say("Content and style LoRA added"), steps.join(" "));
}

async function fetchFiles() {
  const lists = await Promise.all(FOLDERS.map(modelFiles));
  return /** @type {import("../lib/insertion/wiring.js").Files} */ (
    Object.fromEntries(FOLDERS.map((folder, index) => [folder, lists[index] ?? []]))
  );
}

/** The blueprint as the page pastes it: a node, and the subgraph that the node stands for. */
async function fetchBlueprint() {
  const answer = await api.fetchApi("/global_subgraphs");
  const known = answer.ok ? Object.entries(await answer.json()) : [];
  const own = `custom_nodes.${pack()}`;
  const [id] = known.find(([, { name, info }]) => NAME.test(name) && info.node_pack === own) ?? [];
  if (!id) throw noBlueprint();
  const { data } = await (await api.fetchApi(`/global_subgraphs/${id}`)).json();
  const { nodes, definitions } = JSON.parse(data);
  return { nodes, subgraphs: definitions.subgraphs };
}

/** The folder that the pack is installed in; in it, this file is js/insertion/blueprint.js. */
const pack = () =>
  decodeURIComponent(new URL("../..", import.meta.url).pathname.split("/").at(-2) ?? "");

const noBlueprint = () =>
  new CraftError(
    say("The server does not offer the pack's subgraph blueprints"),
    say("A ComfyUI that serves blueprints of node packs does"),
    say("Update ComfyUI, or open one of the pack's workflows from its template browser"),
  );
