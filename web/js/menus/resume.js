// @ts-check
/** Goes on with a training that was stopped. */

// @ts-ignore: the host's own module
import { app } from "../../../../scripts/app.js";
import { notify, setWidget } from "../insertion/graph_edit.js";
import { valueOf } from "../lib/graph/upstream.js";
import { placeOf } from "../lib/menus/presets.js";
import { say } from "../lib/texts.js";
import { asOneStep } from "../page/history.js";

/**
 * Set what the training's node needs to go on, and press Run; or say which input cannot be set.
 *
 * @param {import("../lib/menus/presets.js").At} at
 * @param {string} name its save_name, which the server may have changed
 */
export function resumeTraining(at, name) {
  const values = Object.entries({ save_name: name, resume: true })
    .filter(([input, value]) => valueOf(at.node, input, at.hosts) !== value);
  const places = values.map(([input, value]) => ({ place: placeOf(at, input), value }));
  const refused = places.flatMap(({ place }) => (typeof place === "string" ? [place] : []));
  if (refused.length) return notify("warn", say("Nothing was changed"), refused.join(" "));
  asOneStep(() => {
    for (const { place, value } of places)
      if (typeof place !== "string") setWidget(place.node, place.name, value);
  });
  return app.queuePrompt(0);
}
