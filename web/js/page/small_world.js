// @ts-check
/** A shipped workflow opened where the demo's model is not: how to get it. */

// @ts-ignore: the host's own module
import { app } from "../../../../scripts/app.js";
import { absentFiles } from "../lib/small_world.js";
import { say } from "../lib/texts.js";

/** @type {Set<string>} the workflows that were spoken of; undo loads a graph anew too */
const told = new Set();

/** Called by the host after it has loaded a graph. */
export function hintAtSmallWorld() {
  const [file] = absentFiles(app.rootGraph ?? app.graph);
  const workflow = app.extensionManager.workflow?.activeWorkflow?.key ?? "";
  if (!file || told.has(workflow)) return;
  told.add(workflow);
  app.extensionManager.toast.add({
    severity: "warn",
    summary: say("This workflow needs the small demo model"),
    detail: say(
      "{file} ships with the pack, but ComfyUI does not see it. In the pack's folder run " +
        "“python run.py small-world add”, then restart ComfyUI. Or choose files of your own.",
      { file },
    ),
  });
}
