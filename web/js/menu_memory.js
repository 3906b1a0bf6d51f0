// @ts-check
/** Our nodes' menus remember what was set under each of their entries. */

// @ts-ignore: the host's own module
import { app } from "../../../scripts/app.js";
import { MenuMemory } from "./lib/menu_memory.js";

const EVERY = 150; // milliseconds
const OURS = "CRAFT";

/** @type {WeakMap<any, MenuMemory>} by node */
const memories = new WeakMap();

/** @param {any} node */
function look(node) {
  if (!node.comfyClass?.startsWith(OURS) || !node.widgets) return;
  let memory = memories.get(node);
  if (!memory) memories.set(node, (memory = new MenuMemory()));
  for (const { widget, value } of memory.look(node.widgets)) {
    widget.value = value;
    /** @type {any} */ (widget).callback?.(value);
  }
}

app.registerExtension({
  name: "craft_lora.menu_memory",
  setup() {
    setInterval(() => {
      if (!document.hidden) app.canvas?.graph?.nodes.forEach(look);
    }, EVERY);
  },
});
