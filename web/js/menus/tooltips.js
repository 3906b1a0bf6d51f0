// @ts-check
/** Translates the tooltips of the inputs that entries of our nodes' menus bring. */

// @ts-ignore: the host's own module
import { app } from "../../../../scripts/app.js";
import { translateMenus } from "../lib/menus/tooltips.js";
import { localeTexts } from "../page/language.js";

app.registerExtension({
  name: "craft_lora.menu_tooltips",
  /**
   * @param {any} _node
   * @param {any} definition
   */
  async beforeRegisterNodeDef(_node, definition) {
    if (!definition.name.startsWith("CRAFT")) return;
    const own = (await localeTexts()).nodeDefs?.[definition.name];
    if (own) translateMenus(definition.input, own.inputs);
  },
});
