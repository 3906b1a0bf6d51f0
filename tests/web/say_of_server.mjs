// Reads a JSON list of texts of the server and writes what the page makes of each in Chinese, for the
// test that has them from the code itself.

import { readFileSync } from "node:fs";

import { sayOfServer } from "../../web/js/lib/page/server_texts.js";
import { speak } from "../../web/js/lib/texts.js";

const main = new URL("../../locales/zh/main.json", import.meta.url);
const { craft_lora, craft_lora_server } = JSON.parse(readFileSync(main, "utf-8"));
speak("zh", craft_lora, {}, {}, craft_lora_server);
const texts = JSON.parse(readFileSync(0, "utf-8"));
process.stdout.write(JSON.stringify(texts.map(sayOfServer)));
