// @ts-check
/** The drawings on a subgraph node: what the only Router inside it shows, and why a node of ours
 * inside it fails. */

// @ts-ignore: the host's own module
import { app } from "../../../../scripts/app.js";
import { idInPrompt } from "../lib/graph/links.js";
import { inside, onlyRouter } from "../lib/graph/routers.js";
import { failureInside } from "../lib/page/failures.js";
import { sayOfServer } from "../lib/page/server_texts.js";
import { reports } from "../page/runs.js";
import { addDrawing } from "./panel.js";
import { drawReport } from "./report.js";
import { routerDrawing } from "./router.js";

const OURS = "CRAFT";

/** Add them to a subgraph node that holds nodes of ours. @param {any} node */
export function dressSubgraph(node) {
  if (!inside(node, []).some(({ node: one }) => one.comfyClass?.startsWith(OURS))) return;
  addDrawing(node, routerDrawing(routerInside));
  addDrawing(node, insideReport);
}

/** @param {any} node @param {any[] | null} hosts */
function routerInside(node, hosts) {
  const found = onlyRouter(node, hosts ?? []);
  return found && { node: found.node, hosts: hosts && found.hosts };
}

/** @type {import("./panel.js").Drawing} */
const insideReport = {
  name: "craft_report",
  read: (node, hosts) => {
    if (!hosts) return null;
    const root = app.rootGraph ?? app.graph;
    const failure = failureInside(reports.failures(root.id), root, { node, hosts });
    if (failure) return failure;
    const router = onlyRouter(node, hosts);
    const report = router &&
      reports.of(root.id, idInPrompt(router.node, router.hosts), router.node.comfyClass);
    return report && { text: sayOfServer(report.text), failed: report.failed };
  },
  draw: (content, state) => content.append(drawReport(state)),
};
