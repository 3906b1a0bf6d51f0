// @ts-check
/**
 * Opens the pack's templates with notes and titles in the page's language. Their files are English;
 * what is shown is what is saved. Other workflows, and what a user has saved of a template, open as
 * they are: the page says of a template alone that it is one.
 */

// @ts-ignore: the host's own module
import { app } from "../../../../scripts/app.js";
import { translated } from "../lib/page/template_texts.js";
import { linesOf } from "../lib/texts.js";

/** From now on, translate each of our templates that is opened. */
export function openTranslated() {
  const load = app.loadGraphData;
  /** @param {any} workflow @param {any[]} how cleaned, whether its view is restored, the name of a
   * template's file, and options */
  app.loadGraphData = function (workflow, ...how) {
    const [, , name, options] = how;
    const lines = options?.openSource === "template" ? linesOf(name) : {};
    const shown = Object.keys(lines).length ? translated(workflow, lines) : workflow;
    return load.call(this, shown, ...how);
  };
}
