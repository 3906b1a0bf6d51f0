// @ts-check
/** The drawing that every node of ours has: what it said in its last run, or why it failed. */

// @ts-ignore: the host's own module
import { app } from "../../../../scripts/app.js";
import { notify } from "../insertion/graph_edit.js";
import { titleOf } from "../lib/graph/links.js";
import { hostsOf } from "../lib/graph/upstream.js";
import { routersIn } from "../lib/menus/presets.js";
import { idInPrompt } from "../lib/page/reports.js";
import { say } from "../lib/texts.js";
import { applyPreset } from "../menus/presets.js";
import { resumeTraining } from "../menus/resume.js";
import { reports } from "../page/runs.js";
import { make } from "./style.js";

/** @typedef {{key: string, title: string}} Named a Router */

const rootNow = () => app.rootGraph ?? app.graph;

/** @param {any} node @returns {import("./panel.js").Drawing} */
export const reportDrawing = (node) => ({
  name: "craft_report",
  read: (_, hosts) => {
    if (!hosts) return null;
    const root = rootNow();
    const report = reports.of(root.id, idInPrompt(node, hosts), node.comfyClass);
    if (!report?.preset) return report;
    const routers = routersIn(root).map((router) => router.node);
    const named = routers.map((one) => ({ key: keyOf(one), title: titleOf(one) }));
    return { ...report, routers: named };
  },
  draw: (content, { text, failed, preset, resume, routers }) => {
    const report = make("div", "craft-report", text);
    report.classList.toggle("craft-error", failed);
    report.tabIndex = 0; // a long one is scrolled with the keyboard, too
    report.addEventListener("wheel", (event) => event.stopPropagation());
    content.append(report, ...(routers ?? []).map((/** @type {Named} */ router) =>
      applyButton(router, preset)));
    if (resume) content.append(resumeButton(node, resume));
  },
});

/** @param {any} node @param {string} name the save_name of its training */
function resumeButton(node, name) {
  const made = make("button", "craft-offer", say("Resume"));
  made.addEventListener("click", () =>
    resumeTraining({ node, hosts: hostsOf(rootNow(), node.graph) }, name));
  return made;
}

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
