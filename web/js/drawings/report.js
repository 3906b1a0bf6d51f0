// @ts-check
/** The drawing that every node of ours has: what it said in its last run, or why it failed. */

// @ts-ignore: the host's own module
import { app } from "../../../../scripts/app.js";
import { idInPrompt } from "../lib/page/reports.js";
import { reports } from "../page/runs.js";
import { make } from "./style.js";

/** @type {import("./panel.js").Drawing} */
export const reportDrawing = {
  name: "craft_report",
  read: (node, hosts) => {
    if (!hosts) return null;
    const root = app.rootGraph ?? app.graph;
    return reports.of(root.id, idInPrompt(node, hosts), node.comfyClass);
  },
  draw: (content, { text, failed }) => {
    const report = make("div", "craft-report", text);
    report.classList.toggle("craft-error", failed);
    report.tabIndex = 0; // a long one is scrolled with the keyboard, too
    report.addEventListener("wheel", (event) => event.stopPropagation());
    content.append(report);
  },
};
