// @ts-check
/** The drawing of Router and Method Sweep: the prompt's content and style words, the layers that
 * each layer set takes, and warnings. */

// @ts-ignore: the host's own module
import { app } from "../../../../scripts/app.js";
import { useAcfg } from "../insertion/acfg.js";
import { setWidget, showNodes } from "../insertion/graph_edit.js";
import { actingRows } from "../lib/drawings/lora_rows.js";
import { parse, pieces } from "../lib/drawings/markers.js";
import {
  chosenLoras, dialNotices, guidanceNotices, sameNotices, weightNotices, wordNotices,
} from "../lib/drawings/notices.js";
import {
  layerSetWarnings, markerWarnings, rolesWithLora, usedSet,
} from "../lib/drawings/warnings.js";
import { replaceable, samplersBehind } from "../lib/graph/samplers.js";
import { chain, modelSource, valueOf } from "../lib/graph/upstream.js";
import { weightReaders } from "../lib/graph/weight_readers.js";
import { sayOfServer } from "../lib/page/server_texts.js";
import { say, sayRole } from "../lib/texts.js";
import { openPresets } from "../menus/presets.js";
import { asOneStep } from "../page/history.js";
import { LayerQuestion, traitsOf, triggerWords } from "../page/server.js";
import { make } from "./style.js";

const CUSTOM = "custom";
const BRANCH = "CRAFTLoadLoRABranch";
const LIST = "CRAFTLoRAList";
const ROUTER = "CRAFTRouter";

/** @returns {import("./panel.js").Drawing} */
export function routerDrawing() {
  const [question, ofSecond] = [new LayerQuestion(), new LayerQuestion()];
  let open = false;
  /** @type {any} */
  let router = null;
  return {
    name: "craft_routing",
    after: "prompt",
    read: (node, hosts) => {
      router = node;
      const words = readWords(node, hosts);
      const layers = readLayers(node, hosts, question, "model");
      const second = readLayers(node, hosts, ofSecond, "second_model");
      const other = second.file && second.file !== layers.file ? second : null;
      const found = other?.warnings.filter((warning) => !layers.warnings.includes(warning)) ?? [];
      const warnings = [...words.warnings, ...layers.warnings, ...found];
      const notices = readNotices(node, hosts, words.phrases);
      return { words, layers, second: other, warnings, notices };
    },
    draw: (content, state) => {
      drawWords(content, state.words);
      for (const warning of state.warnings) content.append(make("div", "craft-warning", warning));
      for (const notice of state.notices) content.append(drawNotice(notice, () => router));
      content.append(drawLayers(state.layers, open, (now) => (open = now)));
      if (state.second) content.append(make("div", "craft-quiet", secondLine(state.second)));
      if (router.type === ROUTER) content.append(drawPresets(() => router));
    },
  };
}

/** @param {any} node @param {any[] | null} hosts */
function readWords(node, hosts) {
  const prompt = valueOf(node, "prompt", hosts);
  if (typeof prompt !== "string")
    return { quiet: say("The prompt comes from another node."), warnings: [] };
  try {
    const marked = parse(prompt);
    const roles = rolesWithLora(
      {
        content_lora: valueOf(node, "content_lora", hosts),
        style_lora: valueOf(node, "style_lora", hosts),
      },
      extraRoles(node, hosts),
    );
    const traits = traitsOf(valueOf(node, "method", hosts));
    const warnings = [...marked.unclosed, ...markerWarnings(marked, roles, traits)];
    return { pieces: pieces(prompt, marked), phrases: marked.phrases, warnings };
  } catch (error) {
    return { warnings: [/** @type {Error} */ (error).message] };
  }
}

/** @param {any} node @param {any[] | null} hosts */
const extraRoles = (node, hosts) => extraLoras(node, hosts).map(({ role }) => role);

/** @param {any} node @param {any[] | null} hosts */
const extraLoras = (node, hosts) =>
  chain(node, "extra_branches", "branches", hosts).flatMap((one) => lorasOf(one, hosts));

/** The LoRAs of one node of a chain. @param {any} one @param {any[] | null} hosts
 * @returns {import("../lib/drawings/notices.js").Lora[]} */
function lorasOf(one, hosts) {
  if (one.type === LIST)
    return actingRows(valueOf(one, "loras", hosts)).map(({ lora, role, strength = 1 }) => ({
      name: lora, role, strength, own: false,
    }));
  if (one.type !== BRANCH) return [];
  const [name, role, strength] = ["lora", "role", "strength"].map((of) => valueOf(one, of, hosts));
  return [{ name, role, strength, own: false }];
}

/** What the node says of its LoRAs, and the Router of the samplers behind it.
 * @param {any} node @param {any[] | null} hosts
 * @param {{role: any, text: string}[]} [phrases] not given where the prompt cannot be read
 * @returns {import("../lib/drawings/notices.js").Notice[]} */
function readNotices(node, hosts, phrases) {
  /** @param {string} name */
  const of = (name) => valueOf(node, name, hosts);
  const loras = chosenLoras(
    { content: of("content_lora"), style: of("style_lora") }, extraLoras(node, hosts),
  );
  const dials = { content: of("content_strength"), style: of("style_strength") };
  const prompt = phrases ? of("prompt") : null;
  const marked = traitsOf(of("method"))?.markers ?? true;
  const said = [
    ...sameNotices(loras),
    ...dialNotices(loras, dials),
    ...wordNotices(loras, triggerWords, prompt, phrases ?? [], marked),
  ];
  if (node.type !== ROUTER || !hosts) return said;
  const guidance = guidanceNotices(samplersBehind(rootNow(), node), loras, dials);
  const isLinked = (/** @type {string} */ name) =>
    node.inputs.some((/** @type {any} */ input) => input.name === name && input.link != null);
  for (const notice of guidance)
    if (Object.keys(notice.strengths ?? {}).some(isLinked)) delete notice.button;
  const readers = loras.length ? weightReaders(rootNow(), node) : null;
  const reading = readers ? weightNotices(readers, node.graph) : [];
  return [...guidance, ...reading, ...said];
}

const rootNow = () => app.rootGraph ?? app.graph;

/** @param {import("../lib/drawings/notices.js").Notice} notice @param {() => any} router */
function drawNotice({ text, warns, button, strengths, samplers, nodes }, router) {
  const line = make("div", warns ? "craft-warning" : "craft-quiet", text);
  if (!button) return line;
  const press = make("button", "craft-offer", button);
  press.addEventListener("click", () => {
    if (strengths) asOneStep(() => setValues(router(), strengths));
    if (samplers) {
      const wanted = replaceable(samplersBehind(rootNow(), router()));
      useAcfg(wanted.filter(({ id }) => samplers.includes(id)));
    }
    // after the press selects this node
    if (nodes) setTimeout(() => showNodes(beside(router(), nodes)));
  });
  line.append(" ", press);
  return line;
}

/** Nodes of a node's own graph. @param {any} node @param {any[]} ids */
const beside = (node, ids) =>
  node.graph.nodes.filter((/** @type {any} */ { id }) => ids.includes(id));

/** @param {() => any} router */
function drawPresets(router) {
  const press = make("button", "craft-offer", say("Presets..."));
  press.addEventListener("click", () => openPresets(router()));
  return make("div", "", press);
}

/** @param {any} node @param {Record<string, number>} values */
function setValues(node, values) {
  for (const [name, value] of Object.entries(values)) setWidget(node, name, value);
}

/** @param {any} node @param {any[] | null} hosts @param {LayerQuestion} question
 * @param {string} input the MODEL whose layers are counted */
function readLayers(node, hosts, question, input) {
  const chosen = valueOf(node, "layer_sets", hosts);
  const typed = chosen === CUSTOM ? valueOf(node, "layer_sets.patterns", hosts) : "";
  const method = valueOf(node, "method", hosts);
  const { used, why } = usedSet(chosen, method, traitsOf(method));
  const { file, linked } = modelSource(node, input, hosts);
  const answer = file && question.ask(file, typeof typed === "string" ? typed : "");
  if (!file || !answer?.sets)
    return { quiet: whyNoLayers(linked, file, answer?.error), warnings: [] };
  const warnings = layerSetWarnings(used, answer.sets);
  return { file: file.name, used, why, ...answer, warnings };
}

/** Why no layers are shown.
 * @param {boolean} linked @param {any} file @param {string} [error] what the server answered */
function whyNoLayers(linked, file, error) {
  if (!linked) return say("Layers: connect a model to see them.");
  if (!file) return say("Layers: only a run can tell this model's; see the report.");
  return error
    ? say("Layers: {why}", { why: sayOfServer(error) })
    : say("Layers: reading the model file …");
}

/** @param {HTMLElement} content @param {any} words */
function drawWords(content, words) {
  if (words.quiet) content.append(make("div", "craft-quiet", words.quiet));
  if (!words.pieces?.length) return;
  const shown = words.pieces.map((/** @type {{text: string, kind: string}} */ { text, kind }) => {
    const piece = make("span", kind === "plain" ? "" : `craft-${kind}`, text);
    if (kind === "content" || kind === "style") piece.title = sayRole(kind);
    return piece;
  });
  content.append(make("div", "craft-words", ...shown));
}

/** @param {any} layers @param {boolean} open @param {(now: boolean) => void} note */
function drawLayers(layers, open, note) {
  if (layers.quiet) return make("div", "craft-quiet", layers.quiet);
  const details = /** @type {HTMLDetailsElement} */ (make("details", "craft-layers"));
  details.append(make("summary", "", headline(layers)), table(layers));
  details.open = open;
  details.addEventListener("toggle", () => note(details.open));
  details.title = say("{file}: {count} layers", { file: layers.file, count: layers.layers });
  return details;
}

/** @param {any} layers */
function headline({ used, why, sets }) {
  if (!used) return say("Layers: {why}", { why });
  const set = sets[used];
  const name = why ? `${used}: ${why}` : used;
  if (!set) return say("Layers: {name} compares the LoRAs when it runs", { name });
  if (set.error) return say("Layers: {name} does not fit this model", { name });
  const { content, style } = set;
  return say("Layers: {content} content, {style} style ({name})", { content, style, name });
}

/** @param {any} layers of a second model with a file of its own */
function secondLine(layers) {
  return say("second_model: {file}. {line}", { file: layers.file, line: headline(layers) });
}

/** @param {any} layers */
function table({ used, sets }) {
  const rows = Object.entries(sets).map(([name, set]) => {
    const counts = set.error ? ["-", "-"] : [set.content, set.style];
    const row = make("tr", "", ...[name, ...counts].map((cell) => make("td", "", String(cell))));
    if (name === used) row.setAttribute("aria-current", "true");
    row.title = set.error ? sayOfServer(set.error) : lacks(set.unmatched);
    return row;
  });
  const heads = [say("layer set"), sayRole("content"), sayRole("style")];
  const head = heads.map((cell) => make("th", "", cell));
  return make("table", "", make("tr", "", ...head), ...rows);
}

/** @param {string[]} patterns */
function lacks(patterns) {
  return patterns.length ? say("Lacks: {patterns}", { patterns: patterns.join(", ") }) : "";
}
