// @ts-check
/** Applies a preset to a Router and the nodes around it as one step, and saves one's own. */

// @ts-ignore: the host's own modules
import { api } from "../../../../scripts/api.js";
// @ts-ignore
import { app } from "../../../../scripts/app.js";
import { attempt, notify, setWidget } from "../insertion/graph_edit.js";
import { hostsOf, widget } from "../lib/graph/upstream.js";
import { placeOf, planPreset, presetOf, routerAt } from "../lib/menus/presets.js";
import { jsonOf } from "../lib/page/answers.js";
import { sayOfServer } from "../lib/page/server_texts.js";
import { say } from "../lib/texts.js";
import { asOneStep } from "../page/history.js";
import { look } from "./memory.js";
import { choosePreset } from "./preset_dialog.js";

/** @typedef {import("../lib/menus/presets.js").At} At */

const label = () => say("CRAFT presets...");
const rootNow = () => app.rootGraph ?? app.graph;

/** The Router of a node, see routerAt. @param {any} node */
const routerOf = (node) => routerAt(node, hostsOf(rootNow(), node.graph));

/** Show the presets, for the Router that a node is or has. @param {any} node */
export function openPresets(node) {
  const router = routerOf(node);
  if (!router) return;
  choosePreset({
    present: () => JSON.stringify(presetOf(rootNow(), router), null, 2),
    apply: (text) => applyPreset(router, text),
  });
}

/**
 * Set what a preset has, and say what no node took.
 *
 * @param {At} router
 * @param {string} text of the preset's file
 * @returns {Promise<void>}
 */
export function applyPreset(router, text) {
  return attempt(async () => {
    const body = { method: "POST", body: text };
    const values = await jsonOf(api.fetchApi("/craft_lora/preset_values", body));
    if (values.error) {
      notify("warn", say("Nothing was changed"), sayOfServer(values.error));
      return;
    }
    const { targets, left } = planPreset(values, rootNow(), router);
    const refused = asOneStep(() => targets.flatMap((target) => setAll(target, target.values)));
    const open = [...left, ...new Set(refused)];
    notify(open.length ? "warn" : "success", say("Preset applied"), open.join(" "));
  });
}

/** Set values of a node; why some could not be. @param {At} at
 * @param {Record<string, any>} values @returns {string[]} */
function setAll(at, values) {
  return Object.entries(values).flatMap(([name, value]) => {
    const place = placeOf(at, name);
    if (typeof place === "string") return [place];
    setWidget(place.node, place.name, value);
    look(place.node); // what an entry had before comes back now, and not over the next values
    if (typeof value === "number") widget(place.node, place.name).value = value; // not rounded
    return [];
  });
}

app.registerExtension({
  name: "craft_lora.presets",
  /** @param {any} node */
  getNodeMenuItems(node) {
    return routerOf(node) ? [{ content: label(), callback: () => openPresets(node) }] : [];
  },
});
