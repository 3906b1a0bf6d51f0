// @ts-check
/** Says how to get the demo's model when an opened workflow needs it and it is missing. */

// @ts-ignore: the host's own module
import { app } from "../../../../scripts/app.js";
import { absentFiles } from "../lib/small_world.js";
import { say } from "../lib/texts.js";

/** @type {Set<string>} workflows that were warned of: undo loads the graph again, too */
const warned = new Set();

/** Called by the host after it has loaded a graph. */
export function hintAtSmallWorld() {
  const [file] = absentFiles(app.rootGraph ?? app.graph);
  const workflow = app.extensionManager.workflow?.activeWorkflow?.key ?? "";
  if (!file || warned.has(workflow)) return;
  warned.add(workflow);
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
