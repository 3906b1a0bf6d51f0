// @ts-check
/** Answers of the server to what the user asked for; without one, the reason as a message. */

import { CraftError } from "../craft_error.js";
import { say } from "../texts.js";

/**
 * What a request gives.
 *
 * @template T
 * @param {Promise<T>} request
 * @returns {Promise<T>}
 * @throws {CraftError} where it fails
 */
export async function answered(request) {
  try {
    return await request;
  } catch {
    throw noAnswer();
  }
}

/**
 * The JSON that a request gives.
 *
 * @param {Promise<Response>} request
 * @returns {Promise<any>}
 * @throws {CraftError} where it fails, or gives something else
 */
export async function jsonOf(request) {
  const answer = await answered(request);
  if (!answer.ok) throw noAnswer();
  return answered(answer.json());
}

const noAnswer = () =>
  new CraftError(
    say("The server gave no answer that can be read"),
    say("Presets are read and kept by the server of ComfyUI"),
    say("See that it runs and what it says in its console, then try again"),
  );
