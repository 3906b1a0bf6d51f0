// @ts-check
/** The drawing that every node of ours has: what it said in its last run, or why it failed. */

// @ts-ignore: the host's own module
import { app } from "../../../../scripts/app.js";
import { notify } from "../insertion/graph_edit.js";
import { idInPrompt, titleOf } from "../lib/graph/links.js";
import { isRouter } from "../lib/graph/routers.js";
import { hostsOf } from "../lib/graph/upstream.js";
import { routersIn } from "../lib/menus/presets.js";
import { keepsWhatIsDone, trainingOf } from "../lib/menus/trainings.js";
import { failureBehind } from "../lib/page/failures.js";
import { sayOfServer } from "../lib/page/server_texts.js";
import { language, say } from "../lib/texts.js";
import { applyPreset } from "../menus/presets.js";
import { resumeTraining } from "../menus/resume.js";
import { promptOf, reports, runsNow, stopRun } from "../page/runs.js";
import { TrainingQuestion } from "../page/server.js";
import { make } from "./style.js";

/** @typedef {{key: string, title: string}} Named a Router */

const rootNow = () => app.rootGraph ?? app.graph;

/** @param {any} node @returns {import("./panel.js").Drawing} */
export function reportDrawing(node) {
  const question = new TrainingQuestion();
  let drawn = ""; // all but its text, and in which language
  return {
    name: "craft_report",
    read: (_, hosts) => {
      if (!hosts) return null;
      const [root, id] = [rootNow(), idInPrompt(node, hosts)];
      const report = reports.of(root.id, id, node.comfyClass);
      const behind = !report?.failed && isRouter(node) &&
        failureBehind(reports.failures(root.id), root, { node, hosts });
      if (behind) return behind;
      if (!report) return leftOf(node, hosts, question);
      const over = report.failed || report.resume || report.preset || !keepsWhatIsDone(node);
      const stop = over ? "" : promptOf(root.id, id);
      const text = sayOfServer(report.text);
      const found = report.found && sayOfServer(report.found);
      const said = { ...withoutGrid(report), text, ...(found && { found }), ...(stop && { stop }) };
      return report.preset ? { ...said, routers: namedRouters() } : said;
    },
    draw: (content, state) => {
      const { found, preset, resume, routers, stop } = state;
      drawn = allBut(state);
      content.append(drawReport(state));
      if (found) content.append(drawReport({ text: found, failed: false }));
      content.append(...(routers ?? []).map((/** @type {Named} */ router) =>
        applyButton(router, preset)));
      if (resume) content.append(resumeButton(node, resume));
      if (stop) content.append(stopButton(stop));
    },
    update: ({ firstElementChild }, state) => {
      if (!firstElementChild || drawn !== allBut(state)) return false;
      firstElementChild.textContent = state.text; // a button that is being pressed stays
      return true;
    },
  };
}

/** @param {{text: string, failed: boolean}} state */
export function drawReport({ text, failed }) {
  const report = make("div", "craft-report", text);
  report.classList.toggle("craft-error", failed);
  report.tabIndex = 0; // a long one is scrolled with the keyboard, too
  report.addEventListener("wheel", (event) => event.stopPropagation());
  return report;
}

/** The report of a training that was stopped before the page was loaded; null for none.
 * @param {any} node @param {any[]} hosts @param {TrainingQuestion} question
 * @returns {import("../lib/page/reports.js").Report | null} */
function leftOf(node, hosts, question) {
  const asked = runsNow(idInPrompt(node, hosts)) ? null : trainingOf(node, hosts);
  const kept = asked && question.ask(asked);
  if (!kept) return null;
  const { resume, step, steps } = kept;
  const text = say("Stopped after step {step} of {steps}. Resume goes on from there.", {
    step, steps,
  });
  return { text, failed: false, resume };
}

/** @param {any} node @param {string} name the save_name of its training */
function resumeButton(node, name) {
  const made = make("button", "craft-offer", say("Resume"));
  made.addEventListener("click", () =>
    resumeTraining({ node, hosts: hostsOf(rootNow(), node.graph) }, name));
  return made;
}

/** @param {string} prompt that runs */
function stopButton(prompt) {
  const made = make("button", "craft-offer", say("Stop and keep what is done"));
  made.addEventListener("click", () => {
    const button = /** @type {HTMLButtonElement} */ (made);
    button.disabled = true; // the step that runs is done first
    Promise.resolve(stopRun(prompt)).catch((error) => {
      button.disabled = false;
      notify("warn", say("Nothing was changed"), String(error?.message ?? error));
    });
  });
  return made;
}

/** What is drawn beside the text. @param {any} state */
const allBut = ({ text, ...state }) => JSON.stringify([language(), state]);

/** A report without its grid, which another drawing shows.
 * @param {import("../lib/page/reports.js").Report} report */
function withoutGrid({ grid, ...report }) {
  return report;
}

/** The Routers of the graph. @returns {Named[]} */
export const namedRouters = () =>
  routersIn(rootNow()).map(({ node }) => ({ key: keyOf(node), title: titleOf(node) }));

/** @param {Named} router @param {string} preset as JSON */
export function applyButton(router, preset) {
  const said = say("Apply to {router}", { router: router.title });
  const made = make("button", "craft-offer", said);
  made.addEventListener("click", () => applyTo(router, preset));
  return made;
}

/** Set a Router, and the nodes around it, to a preset. @param {Named} named
 * @param {string} preset as JSON */
export function applyTo({ key, title }, preset) {
  const router = routersIn(rootNow()).find(({ node }) => keyOf(node) === key);
  if (router) return applyPreset(router, preset);
  const why = say("{router} is no longer there.", { router: title });
  return notify("warn", say("Nothing was changed"), why);
}

/** What tells a node from all others, also after an undo. @param {any} node */
const keyOf = ({ graph, id }) => JSON.stringify([graph?.id, id]);
