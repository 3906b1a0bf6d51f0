// @ts-check
/** Listens to what the server says of running prompts, and keeps it for the drawing on each node. */

// @ts-ignore: the host's own module
import { api } from "../../../../scripts/api.js";
import { isOurs } from "../lib/page/failures.js";
import { refusalsOf } from "../lib/page/refusals.js";
import { Reports } from "../lib/page/reports.js";
import { AGAIN } from "./server.js";

const NOTICE = "craft_lora.notice"; // the event that comfy_adapter/page/notice.py sends

export const reports = new Reports();
let running = "";
let runningNode = ""; // its id in the prompt
/** @type {Set<string>} nodes whose grid was asked for */
const asked = new Set();
/** What came in, one after another: a message may arrive while its workflow is asked for. */
let known = Promise.resolve();

/** @param {string} event @param {(detail: any) => void} take */
function on(event, take) {
  api.addEventListener(event, (/** @type {CustomEvent} */ { detail }) => {
    known = known.then(async () => {
      running = detail?.prompt_id ?? running;
      if (running && !reports.workflows.has(running))
        reports.begin(running, await workflowOf(running));
      take(detail);
    }).catch((error) => console.error(error)); // the next are still taken
  });
}

/** Start to listen; called once. */
export function followRuns() {
  on("execution_start", () => {
    runningNode = "";
  });
  on("executing", (node) => {
    const goesOn = node && node === runningNode; // said again to a page that was cut off
    runningNode = node ?? "";
    if (node && !goesOn) reports.forget(running, node);
  });
  on(NOTICE, ({ prompt_id, node, type, ...said }) => {
    runningNode = node; // a page that was loaded in the middle may have missed that it runs
    reports.put(prompt_id, node, type, { ...said, failed: false });
  });
  on("execution_error", failed);
  api.addEventListener("reconnected", () => {
    known = known.then(catchUp).catch((error) => console.error(error));
  });
}

/** @param {Record<string, string>} said by the server */
function failed({ prompt_id, node_id, node_type, exception_message, exception_type }) {
  if (!isOurs(node_type, exception_type)) return;
  const text = String(exception_message ?? "").trim();
  reports.put(prompt_id, node_id, node_type, { text, failed: true });
}

/** What was said while the page was cut off is lost: the prompt may be over, and cells be missing. */
async function catchUp() {
  asked.clear();
  const now = running && await stateOf(running);
  if (!now || now.runs) return;
  reports.overtake(running, runningNode);
  runningNode = "";
  if (now.failure) failed(now.failure);
}

/** Say in the page's language, and on the nodes, why the server does not take a prompt; called once. */
export function followRefusals() {
  const queue = api.queuePrompt;
  /** @param {number} number @param {{workflow?: {id?: string}}} prompt @param {any[]} others */
  api.queuePrompt = async function (number, prompt, ...others) {
    const refused = (/** @type {any} */ answer) => {
      const found = refusalsOf(answer?.node_errors);
      if (found.length) reports.refuse(String(prompt?.workflow?.id), found);
    };
    try {
      const answer = await queue.call(this, number, prompt, ...others);
      refused(answer); // some nodes may run, and others be left out
      return answer;
    } catch (error) {
      refused(/** @type {any} */ (error)?.response);
      throw error;
    }
  };
}

/** Whether a node runs at this moment, as far as its id tells. @param {string} node in the prompt */
export const runsNow = (node) => node === runningNode;

/** The prompt in which a node of a workflow runs at this moment; "" where it does not, and until it
 * has said something. @param {string} workflow @param {string} node its id in the prompt */
export const promptOf = (workflow, node) =>
  runsNow(node) && reports.workflows.get(running) === workflow ? running : "";

/** Stop a prompt, as the page's own Cancel does, which a page that was loaded while the prompt runs
 * does not offer. @param {string} prompt */
export const stopRun = (prompt) => api.interrupt(prompt);

/** Have the grid that a node showed before the page was loaded among the reports; asked for once.
 * @param {string} workflow @param {string} node its id in the prompt @param {string} type */
export function askForGrid(workflow, node, type) {
  const query = new URLSearchParams({ workflow, node });
  const key = String(query);
  if (asked.has(key)) return;
  asked.add(key);
  known = known.then(async () => {
    const answer = await api.fetchApi(`/craft_lora/shown_grid?${query}`);
    const { shown } = await answer.json();
    if (shown) reports.restore(workflow, node, type, { ...shown, failed: false });
  }).catch(() => setTimeout(() => asked.delete(key), AGAIN));
}

/** The workflow that a prompt was queued from; null where it is of none, or the server is gone.
 * @param {string} prompt @returns {Promise<string | null>} */
const workflowOf = async (prompt) => (await stateOf(prompt))?.workflow ?? null;

/** What the server knows of a prompt; null where it is gone.
 * @param {string} prompt @returns {Promise<{workflow: string | null, runs: boolean,
 *   failure: Record<string, string> | null} | null>} */
async function stateOf(prompt) {
  try {
    const asked = new URLSearchParams({ prompt_id: prompt });
    const answer = await api.fetchApi(`/craft_lora/workflow?${asked}`);
    return answer.ok ? await answer.json() : null;
  } catch {
    return null;
  }
}
