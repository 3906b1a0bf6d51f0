// @ts-check
/** Names of model files, and answers of the pack's own routes, each asked for once and kept. */

// @ts-ignore: the host's own module
import { api } from "../../../../scripts/api.js";
import { say } from "../lib/texts.js";

const SETTLED = 350; // milliseconds without a change, before patterns being typed are asked about
const KEPT = 4000; // answers; the rows of a long list ask for two each
export const AGAIN = 30_000; // milliseconds until a request that failed is made again

/** @typedef {{resume: string, step: number, steps: number}} Kept resume: the save_name under which
 * the training goes on */

/** @type {Map<string, any>} */
const answers = new Map();
/** @type {Set<string>} answers that hold until they are asked for again */
const old = new Set();
/** @type {Record<string, import("../lib/drawings/warnings.js").Traits>} */
let traits = {};

/** The file names in a folder of models; null where the server gives none.
 * @param {string} folder @returns {Promise<string[] | null>} */
export async function modelFiles(folder) {
  try {
    const answer = await api.fetchApi(`/models/${folder}`);
    return answer.ok ? await answer.json() : null;
  } catch {
    return null;
  }
}

/** The user has the page look again what files there are: what was answered may be of another file
 * of that name. */
export function forgetAnswers() {
  for (const key of answers.keys()) old.add(key);
}

/** What was answered; null until it is. An old answer stays until there is a new one.
 * @param {string} key */
function answerTo(key) {
  if (isDue(key)) request(key);
  return answers.get(key);
}

/** @param {string} key */
const isDue = (key) => !answers.has(key) || old.has(key);

/** Ask which markers and layer sets each fusion method uses. */
export async function askMethods() {
  const answer = await api.fetchApi("/craft_lora/methods");
  if (answer.ok) traits = await answer.json();
}

/** @param {any} method @returns {import("../lib/drawings/warnings.js").Traits | undefined} */
export const traitsOf = (method) => traits[method];

/** Asks about one node's model and patterns: the answer, or null while there is none. */
export class LayerQuestion {
  constructor() {
    this.key = "";
    this.since = 0;
  }

  /** @param {{kind: string, name: string}} file @param {string} patterns */
  ask({ kind, name }, patterns) {
    const key = question("layer_sets", { kind, name, patterns });
    if (key !== this.key) [this.key, this.since] = [key, performance.now()];
    if (!isDue(key)) return answers.get(key);
    if (!patterns || performance.now() - this.since > SETTLED) request(key);
    return answers.get(key) ?? null;
  }
}

/** Asks what a stopped training of one node has left; anew now and then, as the files may go. */
export class TrainingQuestion {
  constructor() {
    [this.key, this.due] = ["", 0];
    /** @type {Kept | null} */
    this.kept = null;
  }

  /** null where nothing is left to go on from, and until that is known.
   * @param {Record<string, string>} asked as trainingOf gives it @returns {Kept | null} */
  ask(asked) {
    const [key, now] = [question("kept_training", asked), performance.now()];
    if (key !== this.key) [this.key, this.due, this.kept] = [key, now + SETTLED, null];
    if (now >= this.due) {
      this.due = now + AGAIN;
      this.request(key);
    }
    return this.kept;
  }

  /** @param {string} key */
  async request(key) {
    try {
      const answer = await api.fetchApi(`/craft_lora/${key}`);
      const { kept } = await answer.json();
      if (key === this.key) this.kept = kept ?? null; // else another training is asked about by now
    } catch {
      // the server is gone: what was known stays
    }
  }
}

/** The words that a LoRA was trained with; none until they are known.
 * @param {string} name @returns {string[]} */
export const triggerWords = (name) => asked("trigger_words", name)?.words ?? [];

/** What is known of a LoRA file, as comfy_adapter/page/lora_info.py tells it; null until then.
 * @param {string} name */
export const loraInfo = (name) => asked("lora_info", name);

/** The address of a picture that the host serves. @param {string} route */
export const pictureAddress = (route) => api.apiURL(route);

/** What a route answers about a file; null until it has. @param {string} route
 * @param {string} name */
function asked(route, name) {
  return answerTo(question(route, { name }));
}

/** The same, asked for anew. @param {string} name @returns {Promise<string[]>} */
export async function askTriggerWords(name) {
  const key = question("trigger_words", { name });
  await request(key);
  return triggerWords(name);
}

/** What a picture starts from on the model of a file: the node of an empty latent, its width and
 * height; null where that is not known.
 * @param {{kind: string, name: string}} file @returns {Promise<[string, number, number] | null>} */
export async function askLatent(file) {
  const key = question("latent", file);
  await request(key);
  return answers.get(key)?.latent ?? null;
}

/** The family of a model file, as its layers look; "" where that is not known.
 * @param {{kind: string, name: string}} file @returns {Promise<string>} */
export async function askFamily(file) {
  const key = question("latent", file);
  if (!answers.get(key) || old.has(key)) await request(key);
  return answers.get(key)?.family ?? "";
}

/** What is known of a LoRA file, see loraInfo. @param {string} name @returns {Promise<any>} */
export async function askLoraInfo(name) {
  const key = question("lora_info", { name });
  if (!answers.get(key) || old.has(key)) await request(key);
  return answers.get(key);
}

/** What askLatent answers, without waiting: null until then.
 * @param {{kind: string, name: string}} file @returns {[string, number, number] | null} */
export function latentOf(file) {
  return answerTo(question("latent", file))?.latent ?? null;
}

/** @param {string} route @param {Record<string, string>} asked @returns {string} */
function question(route, asked) {
  return [route, new URLSearchParams(asked)].join("?");
}

/** @param {string} key the route and what is asked of it */
async function request(key) {
  old.delete(key);
  if (!answers.has(key)) answers.set(key, null);
  const [oldest] = answers.keys();
  if (answers.size > KEPT) answers.delete(oldest);
  try {
    const answer = await api.fetchApi(`/craft_lora/${key}`);
    answers.set(key, await answer.json());
  } catch {
    answers.set(key, { error: say("the server did not answer") });
  }
  if (answers.get(key)?.error) setTimeout(() => answers.delete(key), AGAIN);
}
