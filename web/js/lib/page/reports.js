// @ts-check
/**
 * What nodes say of their last run: kept by the workflow that the prompt was queued from, so that it
 * shows on no node of the same id elsewhere, until the node runs again or fails.
 */

import { withCells } from "../drawings/grid.js";

/** @typedef {import("../drawings/grid.js").Grid} Grid */

/**
 * @typedef {object} Report
 * @property {string} text
 * @property {boolean} failed whether it is the reason why the node failed
 * @property {string} [preset] that it found, as JSON
 * @property {string} [found] what a run that failed said of its preset before that
 * @property {string} [resume] the save_name under which its training, which was stopped, goes on
 * @property {Grid} [grid] labels and cells: in a message those that are new, kept those of the run
 */

const MOST_PROMPTS = 300; // whose workflows are known; a running one is among the last

export class Reports {
  constructor() {
    /** @type {Map<string, string | null>} workflows by prompt; null for a prompt of none */
    this.workflows = new Map();
    /** @type {Map<string, Report & {type: string, workflow: string}>} by workflow and node */
    this.kept = new Map();
  }

  /** A prompt runs now; earlier failures of its workflow are over.
   * @param {string} prompt @param {string | null} workflow */
  begin(prompt, workflow) {
    this.workflows.set(prompt, workflow);
    const [oldest] = this.workflows.keys();
    if (this.workflows.size > MOST_PROMPTS) this.workflows.delete(oldest);
    this.forgetFailures(workflow);
  }

  /** The server has not taken a prompt; earlier failures of its workflow are over.
   * @param {string} workflow @param {import("./refusals.js").Refusal[]} refusals */
  refuse(workflow, refusals) {
    this.forgetFailures(workflow);
    for (const { node, type, text } of refusals) {
      const grid = this.kept.get(keyOf(workflow, node))?.grid;
      const report = { text, failed: true, ...(grid && { grid }), type, workflow };
      this.kept.set(keyOf(workflow, node), report);
    }
  }

  /** @param {string | null} workflow */
  forgetFailures(workflow) {
    for (const [key, one] of this.kept)
      if (one.failed && one.workflow === workflow) this.kept.delete(key);
  }

  /** A node begins to run. @param {string} prompt @param {string} node its id in the prompt */
  forget(prompt, node) {
    const workflow = this.workflows.get(prompt);
    if (workflow) this.kept.delete(keyOf(workflow, node));
  }

  /** A prompt has ended without a word of it: what its running node said last is out of date. A
   * preset that it found stays. @param {string} prompt @param {string} node its id in the prompt */
  overtake(prompt, node) {
    const workflow = this.workflows.get(prompt);
    const report = workflow && this.kept.get(keyOf(workflow, node));
    if (report && !report.failed && !report.preset) this.forget(prompt, node);
  }

  /**
   * @param {string} prompt
   * @param {string} node its id in the prompt
   * @param {string} type of the node
   * @param {Report} report what its run has made of a grid before stays beside what is new, and
   *   what it has found beside why it failed
   */
  put(prompt, node, type, report) {
    const workflow = this.workflows.get(prompt);
    if (!workflow) return;
    const key = keyOf(workflow, node);
    const before = this.kept.get(key);
    const grid = withCells(before?.grid, report.grid);
    const found = report.failed && before?.preset &&
      { preset: before.preset, found: before.found ?? before.text };
    this.kept.set(key, { ...report, ...found, ...(grid && { grid }), type, workflow });
  }

  /**
   * What a node said before the page was loaded; what has come in since stays.
   *
   * @param {string} workflow
   * @param {string} node its id in the prompt
   * @param {string} type of the node
   * @param {Report} report
   */
  restore(workflow, node, type, report) {
    const key = keyOf(workflow, node);
    const now = this.kept.get(key);
    const grid = withCells(report.grid, now?.grid);
    this.kept.set(key, { ...report, ...now, ...(grid && { grid }), type, workflow });
  }

  /** The nodes of a workflow that failed. @param {string} workflow
   * @returns {import("./failures.js").Failure[]} */
  failures(workflow) {
    return [...this.kept].flatMap(([key, { failed, type, text, workflow: of }]) =>
      failed && of === workflow ? [{ node: JSON.parse(key)[1], type, text }] : []);
  }

  /** What a node of a workflow says; null for nothing.
   * @param {string} workflow @param {string} node @param {string} type @returns {Report | null} */
  of(workflow, node, type) {
    const found = this.kept.get(keyOf(workflow, node));
    if (found?.type !== type) return null;
    const { type: _, workflow: __, ...report } = found;
    return report;
  }
}

/** @param {string} workflow @param {string} node */
const keyOf = (workflow, node) => JSON.stringify([workflow, String(node)]);
