// @ts-check
/** Two LoRAs dropped on the graph, or chosen in a dialog, become the fusion subgraph. */

// @ts-ignore: the host's own modules
import { app } from "../../../../scripts/app.js";
import { findLoras, isPair, namesIn } from "../lib/insertion/lora_names.js";
import { say } from "../lib/texts.js";
import { modelFiles } from "../page/server.js";
import { chooseEntry } from "../menus/file_menu.js";
import { addFusion, bestModel, offeredModels } from "./blueprint.js";
import { choosePair } from "./pair_dialog.js";

const COMMAND = "craft_lora.two_loras";
const LORAS = "loras"; // folder of the models
const SAFETENSORS = /\.safetensors$/i;
const TEXT = /^text\/(?!uri-list)/;
const EDITABLE = "textarea,input,[contenteditable=true],dialog";

/** @typedef {import("../lib/insertion/wiring.js").ModelFile} ModelFile */

/** @type {string[]} names of the server's LoRAs when the last drag began */
let loras = [];

async function refresh() {
  loras = (await modelFiles(LORAS)) ?? [];
}

/** @param {DragEvent} event */
function onDrop(event) {
  const names = event.defaultPrevented || !isOnGraph(event) ? [] : droppedNames(event.dataTransfer);
  if (!isPair(names, loras)) return;
  event.preventDefault();
  const place = app.clientPosToCanvasPos([event.clientX, event.clientY]);
  addFusion(() => findLoras(names, loras), place, (choices, best) =>
    fromMenu(choices, best, [event.clientX, event.clientY]));
}

/** The model that the user chooses from a menu, in which the one that the LoRAs fit comes first.
 * @param {ModelFile[]} choices @param {ModelFile | null} best @param {[number, number]} at */
async function fromMenu(choices, best, at) {
  const others = choices.filter((one) => one !== best);
  const entries = others.map(({ name }) => name);
  if (best) entries.unshift(say("{file} (fits the LoRAs)", { file: best.name }));
  const place = await chooseEntry(entries, at, say("Choose the model"));
  return (best ? [best, ...others] : others)[place];
}

/** Whether something is dropped on the graph, but not on a node that handles drops itself.
 * @param {DragEvent} event */
function isOnGraph(event) {
  const target = /** @type {Element} */ (event.target);
  if (target.closest(EDITABLE)) return false;
  if (target === app.canvas.canvas) return !app.dragOverNode;
  const shown = /** @type {HTMLElement | null} */ (target.closest(".lg-node"));
  const node = shown && app.canvas.graph.getNodeById(shown.dataset.nodeId);
  return Boolean(node) && !node.onDragOver?.(event);
}

/** The names of dropped files, or the names in a dropped text.
 * @param {DataTransfer | null} dropped */
function droppedNames(dropped) {
  const files = [...(dropped?.files ?? [])].map((file) => file.name);
  if (files.length) return files.every((name) => SAFETENSORS.test(name)) ? files : [];
  const isText = dropped?.types.every((type) => TEXT.test(type));
  return isText ? namesIn(dropped?.getData("text/plain") ?? "") : [];
}

const label = () => say("Content + style from two LoRAs...");

async function fromDialog() {
  const [models] = await Promise.all([offeredModels(), refresh()]);
  const chosen = await choosePair(loras, models, (pair) => bestModel(models, pair));
  if (chosen) await addFusion(() => chosen.pair, visibleCentre(), (choices, best) =>
    choices.find(({ kind, name }) => kind === chosen.model?.kind && name === chosen.model.name) ??
      best ?? choices[0]);
}

/** @returns {[number, number]} */
function visibleCentre() {
  const [left, top, width, height] = app.canvas.ds.visible_area;
  return [left + width / 3, top + height / 4];
}

app.registerExtension({
  name: "craft_lora.drop",
  commands: [{ id: COMMAND, label, icon: "pi pi-clone", function: fromDialog }],
  menuCommands: [{ path: ["CRAFT-LoRA"], commands: [COMMAND] }],
  getCanvasMenuItems: () => [{ content: label(), callback: fromDialog }],
  async setup() {
    document.addEventListener("drop", onDrop, true);
    document.addEventListener("dragenter", (event) => event.relatedTarget ?? refresh());
    await refresh();
  },
});
