// @ts-check
/** Our menus in the page's language. */

// @ts-ignore: the host's own modules
import { api } from "../../../scripts/api.js";
// @ts-ignore
import { app } from "../../../scripts/app.js";
import { translateMenus } from "./lib/menu_tooltips.js";

/** @type {Promise<Record<string, {inputs: import("./lib/menu_tooltips.js").Texts}>> | undefined} */
let texts;

/** What the locale files say of nodes in the page's language; the schemas are English already. */
async function fetchTexts() {
  const language = app.extensionManager.setting.get("Comfy.Locale");
  if (language === "en") return {};
  const answer = await api.fetchApi("/i18n");
  return (await answer.json())[language]?.nodeDefs ?? {};
}

app.registerExtension({
  name: "craft_lora.menu_tooltips",
  /**
   * @param {any} _node
   * @param {any} definition
   */
  async beforeRegisterNodeDef(_node, definition) {
    if (!definition.name.startsWith("CRAFT")) return;
    texts ??= fetchTexts();
    const own = (await texts)[definition.name];
    if (own) translateMenus(definition.input, own.inputs);
  },
});
