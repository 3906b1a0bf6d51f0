// @ts-check
/** Two LoRAs dropped on the graph, or chosen in a dialog, become the fusion subgraph. */

// @ts-ignore: the host's own modules
import { app } from "../../../../scripts/app.js";
import { findLoras, isPair, namesIn } from "../lib/insertion/lora_names.js";
import { say } from "../lib/texts.js";
import { modelFiles } from "../page/server.js";
import { addFusion } from "./blueprint.js";
import { choosePair } from "./pair_dialog.js";

const COMMAND = "craft_lora.two_loras";
const LORAS = "loras"; // folder of the models
const SAFETENSORS = /\.safetensors$/i;
const TEXT = /^text\/(?!uri-list)/;
const EDITABLE = "textarea,input,[contenteditable=true],dialog";

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
  addFusion(() => findLoras(names, loras), place);
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
  await refresh();
  const pair = await choosePair(loras);
  if (pair) await addFusion(() => pair, visibleCentre());
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
