// @ts-check
/**
 * What the core says too, and the values that it starts with. Written by `python run.py locales`
 * from craft_core/messages.py and craft_core/starting.py: change those.
 */

import { CraftError } from "./craft_error.js";
import { say } from "./texts.js";

/** @typedef {string | number} Value */

/** @param {{marker: Value, role: Value}} values */
export const noMarker = (values) =>
  say("The prompt has no {marker}, so the {role} LoRA is off.", values);

/** @param {{marker: Value, place: Value, closing: Value}} values */
export const unclosed = (values) =>
  say("{marker} at character {place} is not closed, so it marks the words before it. To mark those after it, close them with {closing}.", values);

export const notRouted = () =>
  say("This MODEL carries no routed LoRAs, so sampling is plain. Connect the Content/Style LoRA Router's MODEL, with LoRAs chosen and <c> or <s> in its prompt.");

export const noGuidance = () =>
  say("At cfg 1 most samplers run no unconditional pass, and then ACFG equals standard CFG. Raise cfg above 1, or, on a distilled model, choose role in the guidance menu and set its weights.");

/** @param {{strength: Value, weight: Value, value: Value, product: Value, most: Value, inputs: Value, fitting: Value}} values */
export const overdriven = (values) =>
  say("Strength {strength} times {weight} {value} is {product}; above {most}, pictures burn. With {inputs}, bring the strength to {fitting}, or lower {weight}.", values);

/** @param {{count: Value, total: Value, place: Value}} values */
export const overdrivenPlaces = (values) =>
  say("LoRAs are guided too far in {count} of {total} settings, farthest in {place}.", values);

/** @param {{patterns: Value}} values */
export const unmatchedPatterns = (values) =>
  say("These layer patterns match no layer of this model: {patterns}", values);

/** @param {{key: Value, noun: Value, known: Value}} values */
export const unknown = (values) =>
  new CraftError(
    say("{key} is no {noun}", values),
    say("Known are {known}", values),
    say("Choose one of these"),
  );

export const otherNegative = () =>
  new CraftError(
    say("The negative prompt has a MODEL of its own, which does not have the LoRAs that are routed in the other one, or has further ones"),
    say("In ComfyUI both prompts run with what the first MODEL does, and MODELs of one checkpoint are one network"),
    say("To keep the LoRAs out of the negative prompt use ACFG Guider; else give both inputs the routed MODEL"),
  );

/** @param {{layer: Value}} values */
export const mergedBefore = (values) =>
  new CraftError(
    say("A node between the Router and ACFG, such as a merge, has put the routed LoRAs into the weights: {layer} has a DoRA or another kind that depends on the weight it meets", values),
    say("LoRAs in the weights act in the negative prompt too, which this guidance keeps them out of"),
    say("Put the Router behind that node, or turn asymmetric off"),
  );

export const didNotAct = () =>
  new CraftError(
    say("The LoRAs that are routed in a MODEL did not act in the sampling that has just ended"),
    say("Routed LoRAs act where a guider samples their MODEL itself, which ComfyUI's Dual Model CFG Guider does for the positive prompt alone"),
    say("Give the routed MODEL to the input for the positive prompt, or use ACFG Guider"),
  );

/** @param {{most: Value}} values */
export const tooManyMarkers = (values) =>
  new CraftError(
    say("The prompt has more than {most} markers", values),
    say("Mark <c>a content phrase</c> and <s>a style phrase</s>"),
    say("Mark fewer phrases"),
  );

/** @param {{marker: Value, place: Value}} values */
export const nothingToClose = (values) =>
  new CraftError(
    say("The prompt has {marker} at character {place} with no marker to close", values),
    say("Mark <c>a content phrase</c> and <s>a style phrase</s>"),
    say("Add the opening marker before the phrase, or remove {marker}", values),
  );

/** @param {{inner: Value, opening: Value, closing: Value, place: Value}} values */
export const markerInside = (values) =>
  new CraftError(
    say("The prompt has {inner} between {opening} and {closing} (character {place})", values),
    say("A content phrase and a style phrase stand side by side, never in one another"),
    say("Move {closing} before {inner}", values),
  );

/** @param {{marker: Value, place: Value}} values */
export const emptyPhrase = (values) =>
  new CraftError(
    say("The marker {marker} at character {place} marks no words", values),
    say("Mark <c>a content phrase</c> and <s>a style phrase</s>"),
    say("Write the phrase it belongs to, or remove the marker to switch its branch off"),
  );

/** @param {{marker: Value, place: Value, closing: Value}} values */
export const notClosed = (values) =>
  new CraftError(
    say("{marker} at character {place} is not closed, and there are no words before it to mark", values),
    say("Mark <c>a content phrase</c> and <s>a style phrase</s>"),
    say("Add {closing} after its phrase, or remove {marker}", values),
  );

export const markerLeft = () =>
  new CraftError(
    say("Removing the prompt's markers leaves another marker"),
    say("Mark <c>a content phrase</c> and <s>a style phrase</s>"),
    say("Remove the extra < or > around a marker"),
  );

/** @param {{role: Value, start: Value, end: Value}} values */
export const windowReversed = (values) =>
  new CraftError(
    say("window: {role}_start = {start} lies after {role}_end = {end}", values),
    say("A window runs from its start to a later or equal end, 0 to 1"),
    say("Swap them, or set the role's strength to 0 to switch it off"),
  );

/** @param {{role: Value, count: Value, most: Value}} values */
export const tooManyPoints = (values) =>
  new CraftError(
    say("The {role} curve has {count} points", values),
    say("A curve has up to {most} points", values),
    say("Leave some out"),
  );

/** @param {{role: Value, points: Value}} values */
export const wrongPoints = (values) =>
  new CraftError(
    say("The {role} points are {points}", values),
    say("Points are x y pairs from 0 to 1 with different x, such as \"0 1, 0.5 0.3, 1 0\""),
    say("Correct them"),
  );

export const FULL_STRENGTH = 1.0;
export const GUIDED_CFG = 2.0;
export const GUIDED_WEIGHT = 1.5;
export const GUIDED_STRENGTH = 0.75;
export const MOST_GUIDED_WEIGHT = 2.0;
export const FLOOR = 0.75;
