// @ts-check
/** The user's own presets: files of the host's user folder, so that each user has their own. */

// @ts-ignore: the host's own module
import { api } from "../../../../scripts/api.js";
import { CraftError } from "../lib/craft_error.js";
import { answered } from "../lib/page/answers.js";
import { say } from "../lib/texts.js";

const FOLDER = "craft_lora/presets";
const ENDING = ".json";
const TAKEN = 409; // the host's status for a file that is there already

/** Their names. @returns {Promise<string[]>} */
export async function ownPresets() {
  const files = await answered(api.listUserDataFullInfo(FOLDER));
  return files
    .map((/** @type {{path: string}} */ { path }) => path)
    .filter((/** @type {string} */ path) => path.endsWith(ENDING) && !path.includes("/"))
    .map((/** @type {string} */ path) => path.slice(0, -ENDING.length))
    .sort((/** @type {string} */ one, /** @type {string} */ other) => one.localeCompare(other));
}

/** @param {string} name @returns {Promise<string>} its JSON */
export async function readOwn(name) {
  return (await done(api.getUserData(fileOf(name)), name)).text();
}

/** Never over another one. @param {string} name @param {string} text */
export async function saveOwn(name, text) {
  const options = { overwrite: false, stringify: false, throwOnError: false, full_info: false };
  await done(api.storeUserData(fileOf(name), text, options), name);
}

/** Never over another one. @param {string} name @param {string} other its new name */
export async function renameOwn(name, other) {
  await done(api.moveUserData(fileOf(name), fileOf(other), { overwrite: false }), other);
}

/** @param {string} name */
export async function deleteOwn(name) {
  await done(api.deleteUserData(fileOf(name)), name);
}

/** @param {string} name */
const fileOf = (name) => `${FOLDER}/${name}${ENDING}`;

/** @param {Promise<Response>} request @param {string} name of the preset that it is about */
async function done(request, name) {
  const answer = await answered(request);
  if (answer.ok) return answer;
  if (answer.status === TAKEN)
    throw new CraftError(
      say("There is a preset {name} already", { name }),
      say("A preset is never written over another"),
      say("Choose another name, or delete that one first"),
    );
  throw new CraftError(
    say("The server refused the preset {name} ({status})", { name, status: answer.status }),
    say("Presets are files of your user folder in ComfyUI"),
    say("Open the list anew, and check the folder craft_lora/presets there"),
  );
}
