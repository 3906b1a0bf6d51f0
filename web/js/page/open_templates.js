// @ts-check
/**
 * Opens the pack's templates with notes and titles in the page's language, each time as a workflow
 * of its own: what nodes say of their runs is kept by the workflow's id, and a file has one. Their
 * files are English; what is shown is what is saved. Other workflows, and what a user has saved of a
 * template, open as they are: the page says of a template alone that it is one.
 */

// @ts-ignore: the host's own module
import { app } from "../../../../scripts/app.js";
import { isWithOurs, translated } from "../lib/page/template_texts.js";
import { linesOf } from "../lib/texts.js";

/** From now on, do so with each of our templates that is opened. */
export function openTemplates() {
  const load = app.loadGraphData;
  /** @param {any} workflow @param {any[]} how cleaned, whether its view is restored, the name of a
   * template's file, and options */
  app.loadGraphData = function (workflow, ...how) {
    const [, , name, options] = how;
    const isOurs = options?.openSource === "template" && isWithOurs(workflow);
    return load.call(this, isOurs ? opened(workflow, name) : workflow, ...how);
  };
}

/** @param {any} workflow @param {string} name of the template's file */
function opened(workflow, name) {
  // @ts-ignore: the host's own
  return { ...translated(workflow, linesOf(name)), id: LiteGraph.uuidv4() };
}
