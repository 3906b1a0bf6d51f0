// @ts-check
/** The page's language, and what the locale files say in it. */

// @ts-ignore: the host's own modules
import { api } from "../../../../scripts/api.js";
// @ts-ignore
import { app } from "../../../../scripts/app.js";
import { speak } from "../lib/texts.js";

const SETTING = "Comfy.Locale";
const OWN = "craft_lora"; // the key of our texts in main.json
const TEMPLATES = "craft_lora_templates"; // and of the texts that our templates bring
const SERVER = "craft_lora_server"; // and of what the server says

/** @type {Promise<Record<string, any>> | undefined} every language's texts */
let files;

/** The texts of the locale files of all packs in a language; none for English, which the code has.
 * @param {string} [language] the page's if not given
 * @returns {Promise<Record<string, any>>} as a locale's main.json, with its nodeDefs */
export async function localeTexts(language = app.extensionManager.setting.get(SETTING)) {
  if (language === "en") return {};
  files ??= api.fetchApi("/i18n").then((/** @type {Response} */ answer) => answer.json());
  return (await files)?.[language] ?? {};
}

/** Speak the page's language from now on, whatever the user changes it to. */
export async function followLanguage() {
  let wanted = "";
  /** @param {string} language */
  const follow = async (language) => {
    wanted = language;
    const texts = await localeTexts(language);
    if (language !== wanted) return; // it has changed meanwhile
    speak(language, texts[OWN] ?? {}, texts[TEMPLATES], texts.nodeDefs, texts[SERVER]);
  };
  app.ui.settings.addEventListener(`${SETTING}.change`, (/** @type {CustomEvent} */ event) =>
    follow(event.detail.value), // the setting itself still has the old one
  );
  await follow(app.extensionManager.setting.get(SETTING));
}
