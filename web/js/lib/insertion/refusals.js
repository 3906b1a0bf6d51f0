// @ts-check
/** The errors that say why the Router is not inserted, and what to do. */

import { CraftError } from "../craft_error.js";
import { titleOf } from "../graph/links.js";
import { say } from "../texts.js";

/** There is no sampler in the graph or the selection. */
export function nothingSuitable() {
  return new CraftError(
    say("There is no sampler here that a model and a positive prompt feed"),
    say("The fusion goes before KSampler, a guider, or another sampler with these inputs"),
    say("Select one in the graph that is open, or a loader whose model reaches one"),
  );
}

/** @param {number} count */
export const whichOne = (count) =>
  new CraftError(
    say("{count} samplers are in this graph, and nothing is selected", { count }),
    say("The fusion goes before the selected ones, or before the only one"),
    say("Select a sampler, or the loader whose model feeds them"),
  );

/** @param {any} node @param {any} router */
export const alreadyRouted = (node, router) =>
  new CraftError(
    say("{router} feeds {sampler} already", { router: titleOf(router), sampler: titleOf(node) }),
    say("One Router takes a content LoRA, a style LoRA and, from LoRA List, further ones"),
    say("Choose its LoRAs, or take it out first"),
  );

/** @param {any} node @param {string} input */
export const unlinked = (node, input) =>
  new CraftError(
    say("Nothing is linked to {input} of {node}", { input, node: titleOf(node) }),
    say("The fusion goes between a model with its CLIP and a sampler that they feed"),
    say("Link {input}, then insert it", { input }),
  );

/** @param {any} sampler */
export const elsewhere = (sampler) =>
  new CraftError(
    say("The positive prompt of {sampler} is not encoded in this graph", {
      sampler: titleOf(sampler),
    }),
    say("The Router takes the text and the CLIP of a text encoder that is in the same graph"),
    say("Unpack the subgraph between them, or place the Router by hand"),
  );

/** @param {any} sampler @param {any} node */
export const severalPrompts = (sampler, node) =>
  new CraftError(
    say("{node} makes the positive prompt of {sampler} of several, or of none", {
      node: titleOf(node), sampler: titleOf(sampler),
    }),
    say("The Router stands in for one text encoder"),
    say("Place the Router by hand: its conditioning goes where one of them is linked"),
  );
