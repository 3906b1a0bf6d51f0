// @ts-check
/** The drawing of Router and Method Sweep: the prompt's content and style words, the layers that
 * each layer set takes, and warnings. */

// @ts-ignore: the host's own module
import { app } from "../../../../scripts/app.js";
import { useAcfg } from "../insertion/acfg.js";
import { setWidget, showNodes } from "../insertion/graph_edit.js";
import { setSizes } from "../insertion/sizes.js";
import { putWords } from "../insertion/trigger_words.js";
import { actingRows } from "../lib/drawings/lora_rows.js";
import { parse, pieces } from "../lib/drawings/markers.js";
import {
  actingLoras, chosenLoras, dialNotices, guidanceNotices, isAsInserted, sameNotices, sizeNotices,
  sweepNotices, weightNotices, wordNotices,
} from "../lib/drawings/notices.js";
import { methodsOf } from "../lib/drawings/sweep.js";
import {
  layerSetWarnings, markerWarnings, rolesWithLora, usedSet,
} from "../lib/drawings/warnings.js";
import {
  isGuided, isSampler, latentsBefore, replaceable, samplersBehind,
} from "../lib/graph/samplers.js";
import { chain, modelSource, valueOf } from "../lib/graph/upstream.js";
import { isOfTwoModels, linksTo, weightReaders } from "../lib/graph/weight_readers.js";
import { placeOf } from "../lib/menus/presets.js";
import { sayOfServer } from "../lib/page/server_texts.js";
import { say, sayRole } from "../lib/texts.js";
import { openPresets } from "../menus/presets.js";
import { asOneStep } from "../page/history.js";
import { LayerQuestion, latentOf, traitsOf, triggerWords } from "../page/server.js";
import { MarkedLinks } from "./marked_links.js";
import { make } from "./style.js";

const CUSTOM = "custom";
const BRANCH = "CRAFTLoadLoRABranch";
const LIST = "CRAFTLoRAList";
const ROUTER = "CRAFTRouter";

/** @typedef {{node: any, hosts: any[] | null}} At a Router, and the subgraph nodes around it */

/** @param {(node: any, hosts: any[] | null) => At | null} [routerOf] the Router that a node shows
 * @returns {import("./panel.js").Drawing} */
export function routerDrawing(routerOf = (node, hosts) => ({ node, hosts })) {
  const [question, ofSecond] = [new LayerQuestion(), new LayerQuestion()];
  const marked = new MarkedLinks();
  let open = false;
  /** @type {any} */
  let shown = null; // the node that it is drawn on
  /** @type {At} */
  let router = { node: null, hosts: null };
  /** @type {any[]} */
  let links = [];
  return {
    name: "craft_routing",
    after: "prompt",
    read: (own, around) => {
      const at = routerOf(own, around);
      if (!at) {
        marked.set([]);
        return null;
      }
      [shown, router] = [own, at];
      const { node, hosts } = at;
      const words = readWords(node, hosts);
      const layers = readLayers(node, hosts, question, "model");
      const second = readLayers(node, hosts, ofSecond, "second_model");
      const other = second.file && second.file !== layers.file ? second : null;
      const ofLayers = /** @type {string[]} */ ([...layers.warnings, ...(other?.warnings ?? [])]);
      const warnings = [...words.warnings, ...new Set(ofLayers)];
      const readers = readersOf(at, words.phrases);
      links = readers ? linksTo(rootNow(), node, readers) : [];
      const notices = readNotices(at, layers.of, readers, shown.graph, words.phrases);
      const ids = links.map(({ id }) => id);
      return { words, layers, second: other, warnings, notices, ids };
    },
    draw: (content, state) => {
      marked.set(links);
      drawWords(content, state.words);
      for (const warning of state.warnings) content.append(make("div", "craft-warning", warning));
      for (const notice of state.notices) content.append(drawNotice(notice, () => router, () => shown));
      content.append(drawLayers(state.layers, open, (now) => (open = now)));
      if (state.second) content.append(make("div", "craft-quiet", secondLine(state.second)));
      if (router.node.type === ROUTER) content.append(drawPresets(() => router.node));
    },
    end: () => marked.set([]),
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
    const traits = { markers: readMarkers(methodsAt({ node, hosts })) };
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

/** The LoRAs of a Router that are not `none`. @param {At} at */
const lorasAt = ({ node, hosts }) =>
  chosenLoras(
    { content: valueOf(node, "content_lora", hosts), style: valueOf(node, "style_lora", hosts) },
    extraLoras(node, hosts),
  );

/** The methods of a Router or a Sweep; none where only a run knows them. @param {At} at
 * @returns {string[]} */
function methodsAt({ node, hosts }) {
  if (node.type !== ROUTER) return methodsOf(valueOf(node, "methods", hosts));
  const method = valueOf(node, "method", hosts);
  return typeof method === "string" ? [method] : [];
}

/** Whether a method goes by markers; true where that is not known. @param {string} method */
const isMarked = (method) => traitsOf(method)?.markers ?? true;

/** Whether one of the methods does. @param {string[]} methods */
const readMarkers = (methods) => !methods.length || methods.some(isMarked);

/** Whether a role without a marker is off by each of the methods. @param {string[]} methods */
const leavesOff = (methods) => methods.length > 0 && methods.every(isMarked);

/** The nodes that read weights of a Router's MODEL; null where it adds none to them.
 * @param {At} at
 * @param {{role: any}[]} [phrases] not given where the prompt cannot be read */
function readersOf({ node, hosts }, phrases) {
  if (node.type !== ROUTER || !hosts) return null;
  const at = { node, hosts };
  const asks = actingLoras(lorasAt(at), phrases, leavesOff(methodsAt(at))).length;
  return asks ? weightReaders(rootNow(), node) : null;
}

/** What the node says of its LoRAs and of what the samplers behind it do to them.
 * @param {At} at
 * @param {import("../lib/graph/upstream.js").ModelFile | null} file of its model
 * @param {ReturnType<typeof readersOf>} readers
 * @param {any} graph the one that is open
 * @param {{role: any, text: string}[]} [phrases] not given where the prompt cannot be read
 * @returns {import("../lib/drawings/notices.js").Notice[]} */
function readNotices({ node, hosts }, file, readers, graph, phrases) {
  /** @param {string} name */
  const of = (name) => valueOf(node, name, hosts);
  const loras = lorasAt({ node, hosts });
  const dials = { content: of("content_strength"), style: of("style_strength") };
  const prompt = phrases ? of("prompt") : null;
  const methods = methodsAt({ node, hosts });
  const acting = (/** @type {string[]} */ by) => actingLoras(loras, phrases, leavesOff(by));
  const said = [
    ...sameNotices(loras),
    ...dialNotices(loras, dials, acting(methods)),
    ...wordNotices(loras, triggerWords, prompt, phrases ?? [], readMarkers(methods)),
  ];
  if (!hosts) return said;
  const samplers = samplersBehind(rootNow(), node, hosts, (one) => isSampler(one) || isGuided(one));
  const guided = samplers.filter((at) => isGuided(at.node) && !isOfTwoModels(at));
  const guidance = node.type === ROUTER
    ? guidanceNotices(guided, acting(methods), dials)
    : sweepNotices({ node, hosts }, guided, acting, dials);
  const isSet = (/** @type {string} */ name) =>
    typeof placeOf({ node, hosts }, name) !== "string";
  for (const notice of guidance)
    if (!Object.keys(notice.strengths ?? {}).every(isSet)) delete notice.button;
  if (node.type !== ROUTER) return [...guidance, ...said];
  const latents = latentsBefore(samplers);
  const wanted = file && latents.some(isAsInserted) ? latentOf(file) : null;
  const reading = readers ? weightNotices(readers, graph) : [];
  return [...guidance, ...sizeNotices(latents, wanted, file?.name ?? ""), ...reading, ...said];
}

const rootNow = () => app.rootGraph ?? app.graph;

/** @param {import("../lib/drawings/notices.js").Notice} notice @param {() => At} routerNow
 * @param {() => any} shownOn the node that it is drawn on */
function drawNotice(notice, routerNow, shownOn) {
  const { text, warns, button, strengths, samplers, nodes, words, size } = notice;
  const line = make("div", warns ? "craft-warning" : "craft-quiet", text);
  if (!button) return line;
  const press = make("button", "craft-offer", button);
  press.addEventListener("click", () => {
    const router = routerNow();
    const behind = () => samplersBehind(rootNow(), router.node, router.hosts);
    if (strengths) asOneStep(() => setValues(router, strengths));
    if (samplers) useAcfg(replaceable(behind()).filter(({ id }) => samplers.includes(id)));
    if (words) putWords([router], words.role, words.words);
    if (size) setSizes(latentsBefore(behind()).filter(isAsInserted), size);
    // after the press selects this node
    if (nodes) setTimeout(() => showNodes(beside(shownOn(), nodes)));
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

/** @param {At} router @param {Record<string, number>} values */
function setValues(router, values) {
  for (const [name, value] of Object.entries(values)) {
    const place = placeOf(router, name);
    if (typeof place !== "string") setWidget(place.node, place.name, value);
  }
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
    return { of: file, quiet: whyNoLayers(linked, file, answer?.error), warnings: [] };
  const warnings = layerSetWarnings(used, answer.sets);
  return { of: file, file: file.name, used, why, ...answer, warnings };
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
