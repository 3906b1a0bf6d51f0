// @ts-check
/** Puts the words that a LoRA was trained with into the prompts of the Routers that take it. */

// @ts-ignore: the host's own module
import { app } from "../../../../scripts/app.js";
import { CraftError } from "../lib/craft_error.js";
import { routersBehind } from "../lib/graph/routers.js";
import { sourceWidget } from "../lib/graph/upstream.js";
import { withWords } from "../lib/insertion/trigger_prompt.js";
import { say } from "../lib/texts.js";
import { asOneStep } from "../page/history.js";
import { attempt } from "./graph_edit.js";

/** @typedef {import("../lib/drawings/markers.js").Role} Role */

/** As one step, in the phrase of their role, in the prompts of the Routers that take a node's
 * branches. @param {any} node @param {Role} role @param {string[]} words */
export const putWordsBehind = (node, role, words) =>
  putWords(routersBehind(app.rootGraph ?? app.graph, node), role, words);

/** As one step, in the phrase of their role.
 * @param {{node: any, hosts: any[] | null}[]} routers each with the subgraph nodes around it
 * @param {Role} role @param {string[]} words */
export function putWords(routers, role, words) {
  return attempt(async () => {
    const found = routers.map((router) => sourceWidget(router.node, "prompt", router.hosts));
    const widgets = [...new Set(found)].filter((one) => typeof one?.value === "string");
    if (!widgets.length) throw noPrompt();
    const prompts = widgets.map(({ value }) => withWords(value, role, words));
    asOneStep(() => widgets.forEach((widget, at) => {
      widget.value = prompts[at];
      widget.callback?.(prompts[at]);
    }));
  });
}

const noPrompt = () =>
  new CraftError(
    say("No prompt that is typed takes the words of this LoRA"),
    say("They go into the prompt of its own node, or of the Router that its branches are linked to"),
    say("Link branches to a Router's extra_branches, or type the words where its prompt is made"),
  );
