// @ts-check
/** The drawing that every node of ours has: what it said in its last run, or why it failed. */

// @ts-ignore: the host's own module
import { app } from "../../../../scripts/app.js";
import { notify } from "../insertion/graph_edit.js";
import { titleOf } from "../lib/graph/links.js";
import { routersIn } from "../lib/menus/presets.js";
import { idInPrompt } from "../lib/page/reports.js";
import { say } from "../lib/texts.js";
import { applyPreset } from "../menus/presets.js";
import { reports } from "../page/runs.js";
import { make } from "./style.js";

/** @typedef {{key: string, title: string}} Named a Router */

const rootNow = () => app.rootGraph ?? app.graph;

/** @type {import("./panel.js").Drawing} */
export const reportDrawing = {
  name: "craft_report",
  read: (node, hosts) => {
    if (!hosts) return null;
    const root = rootNow();
    const report = reports.of(root.id, idInPrompt(node, hosts), node.comfyClass);
    if (!report?.preset) return report;
    const routers = routersIn(root).map((router) => router.node);
    const named = routers.map((one) => ({ key: keyOf(one), title: titleOf(one) }));
    return { ...report, routers: named };
  },
  draw: (content, { text, failed, preset, routers }) => {
    const report = make("div", "craft-report", text);
    report.classList.toggle("craft-error", failed);
    report.tabIndex = 0; // a long one is scrolled with the keyboard, too
    report.addEventListener("wheel", (event) => event.stopPropagation());
    content.append(report, ...(routers ?? []).map((/** @type {Named} */ router) =>
      applyButton(router, preset)));
  },
};

/** @param {Named} router @param {string} preset as JSON */
function applyButton({ key, title }, preset) {
  const made = make("button", "craft-offer", say("Apply to {router}", { router: title }));
  made.addEventListener("click", () => {
    const router = routersIn(rootNow()).find(({ node }) => keyOf(node) === key);
    if (router) return applyPreset(router, preset);
    const why = say("{router} is no longer there.", { router: title });
    return notify("warn", say("Nothing was changed"), why);
  });
  return made;
}

/** What tells a node from all others, also after an undo. @param {any} node */
const keyOf = ({ graph, id }) => JSON.stringify([graph?.id, id]);
