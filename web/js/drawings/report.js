// @ts-check
/** The drawing that every node of ours has: what it said in its last run, or why it failed. */

// @ts-ignore: the host's own module
import { app } from "../../../../scripts/app.js";
import { titleOf } from "../lib/graph/links.js";
import { routersIn } from "../lib/menus/presets.js";
import { idInPrompt } from "../lib/page/reports.js";
import { say } from "../lib/texts.js";
import { applyPreset } from "../menus/presets.js";
import { reports } from "../page/runs.js";
import { make } from "./style.js";

const rootNow = () => app.rootGraph ?? app.graph;

/** @type {import("./panel.js").Drawing} */
export const reportDrawing = {
  name: "craft_report",
  read: (node, hosts) => {
    if (!hosts) return null;
    const root = rootNow();
    const report = reports.of(root.id, idInPrompt(node, hosts), node.comfyClass);
    if (!report?.preset) return report;
    return { ...report, routers: routersIn(root).map((router) => titleOf(router.node)) };
  },
  draw: (content, { text, failed, preset, routers }) => {
    const report = make("div", "craft-report", text);
    report.classList.toggle("craft-error", failed);
    report.tabIndex = 0; // a long one is scrolled with the keyboard, too
    report.addEventListener("wheel", (event) => event.stopPropagation());
    content.append(report, ...(routers ?? []).map((/** @type {string} */ title, /** @type {number} */ at) =>
      applyButton(title, () => applyPreset(routersIn(rootNow())[at], preset))));
  },
};

/** @param {string} router its title @param {() => void} press */
function applyButton(router, press) {
  const made = make("button", "craft-offer", say("Apply to {router}", { router }));
  made.addEventListener("click", press);
  return made;
}
