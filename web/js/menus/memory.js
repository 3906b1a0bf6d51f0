// @ts-check
/** Our nodes' menus remember the settings of each of their entries. */

// @ts-ignore: the host's own module
import { app } from "../../../../scripts/app.js";
import { MenuMemory } from "../lib/menus/memory.js";
import { completeSteps } from "../page/history.js";

const EVERY = 150; // milliseconds
const OURS = "CRAFT";

/** @type {WeakMap<any, MenuMemory>} by node */
const memories = new WeakMap();

/** Note the settings of a node, put back those of an entry chosen again; whether any was put back.
 * @param {any} node */
export function look(node) {
  if (!node.comfyClass?.startsWith(OURS) || !node.widgets) return false;
  let memory = memories.get(node);
  if (!memory) memories.set(node, (memory = new MenuMemory()));
  const found = memory.look(node.widgets);
  for (const { widget, value } of found) {
    widget.value = value;
    /** @type {any} */ (widget).callback?.(value);
  }
  return found.length > 0;
}

const lookAtAll = () => (app.canvas?.graph?.nodes ?? []).filter(look);

app.registerExtension({
  name: "craft_lora.menu_memory",
  setup() {
    completeSteps(lookAtAll); // one undo takes back the choice and the settings it brought back
    setInterval(() => {
      if (!document.hidden) lookAtAll();
    }, EVERY);
  },
});
