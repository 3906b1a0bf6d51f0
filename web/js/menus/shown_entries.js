// @ts-check
/**
 * A menu that has inputs of its own shows the entry that it is set to. The front end of ComfyUI
 * 0.20 keeps such a menu's value apart from the state that Nodes 2.0 draw, which stays at the first
 * entry when a workflow is opened. Newer ones keep the two equal, and nothing is written there.
 */

// @ts-ignore: the host's own module
import { app } from "../../../../scripts/app.js";

const EVERY = 150; // milliseconds
const OURS = "CRAFT";

/** @param {any} node */
function showEntries(node) {
  if (!node.comfyClass?.startsWith(OURS)) return;
  for (const widget of node.widgets ?? []) {
    const { _state: drawn, value } = widget;
    const apart = drawn && widget.type === "combo" && Object.hasOwn(widget, "value");
    if (apart && drawn.value !== value) drawn.value = value;
  }
}

app.registerExtension({
  name: "craft_lora.shown_entries",
  setup() {
    setInterval(() => {
      if (!document.hidden) app.canvas?.graph?.nodes.forEach(showEntries);
    }, EVERY);
  },
});
