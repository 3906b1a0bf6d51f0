// @ts-check
/** For each LoRA that is chosen on a node of ours, its menu tells of the file and puts its trigger
 * words into the prompt. The rows of LoRA List do so themselves. */

// @ts-ignore: the host's own module
import { app } from "../../../../scripts/app.js";
import { notify } from "../insertion/graph_edit.js";
import { putWords } from "../insertion/trigger_words.js";
import { shortName } from "../lib/drawings/lora_rows.js";
import { hostsOf } from "../lib/graph/upstream.js";
import { lorasOn, promptsOf } from "../lib/menus/lora_widgets.js";
import { sayOfServer } from "../lib/page/server_texts.js";
import { say } from "../lib/texts.js";
import { askLoraInfo } from "../page/server.js";
import { showLoraInfo } from "./lora_info.js";

/** @typedef {import("../lib/menus/lora_widgets.js").ChosenLora} ChosenLora */

const rootNow = () => app.rootGraph ?? app.graph;

/** @param {ChosenLora} lora */
function entriesOf(lora) {
  const { input, file, role } = lora;
  const put = role && wordsInto(lora);
  const named = { input, file: shortName(file) };
  const info = {
    content: say("{input}: about {file}...", named), callback: () => showLoraInfo(file, put),
  };
  const words = {
    content: say("{input}: trigger words of {file} into the prompt", named),
    callback: () => put && putKnown(file, put),
  };
  return put ? [info, words] : [info];
}

/** @param {ChosenLora} lora @returns {import("./lora_info.js").Put} */
const wordsInto = ({ at, role }) => (words) => {
  if (role) putWords(promptsOf(rootNow(), at), role, words);
};

/** Put the words of a file into the prompt; say so where it has none.
 * @param {string} file @param {import("./lora_info.js").Put} put */
async function putKnown(file, put) {
  const { words, error } = await askLoraInfo(file);
  if (words?.length) return put(words);
  const why = error ? sayOfServer(error) : say("{file} names no trigger words.", { file });
  notify("warn", say("Nothing was changed"), why);
}

app.registerExtension({
  name: "craft_lora.lora_entries",
  /** @param {any} node */
  getNodeMenuItems: (node) =>
    lorasOn(node, hostsOf(rootNow(), node.graph)).flatMap(entriesOf),
});
