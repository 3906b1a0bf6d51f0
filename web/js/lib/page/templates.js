// @ts-check
/** What the pack's templates are called, and what each shows, in the page's language. */

import { say } from "../texts.js";

/**
 * @returns {Record<string, [title: string, sentence: string]>} by the name of the workflow's file
 */
export const templates = () => ({
  fusion_sdxl: [
    say("Two LoRAs in one picture (SDXL)"),
    say("Put a content LoRA and a style LoRA of your own together in one minute."),
  ],
  wan22_two_experts: [
    say("Two LoRAs in one video (Wan 2.2)"),
    say("One Router serves the high-noise and the low-noise expert."),
  ],
  demo_small_world: [
    say("Demo: content and style together"),
    say("Runs in seconds on the small model that ships with the pack."),
  ],
  hires_second_pass_small_world: [
    say("Second pass at twice the size"),
    say("One Router and one schedule over a first and a second pass."),
  ],
  ablation_small_world: [
    say("Standard CFG and ACFG side by side"),
    say("Constant and cosine schedules, with and without asymmetric guidance."),
  ],
  role_guidance_small_world: [
    say("Guidance for distilled models"),
    say("Content and style have weights of their own, also at cfg 1."),
  ],
  role_weights_small_world: [
    say("A grid of cfg and weights"),
    say("Compares ways to guide at several cfg, and draws which LoRA acted when."),
  ],
  pair_building_small_world: [
    say("Content and style pairs"),
    say("Builds contrastive pairs with a model and saves them as a dataset."),
  ],
  method_comparison_small_world: [
    say("Every method on one pair"),
    say("Compares all ways to join two LoRAs while sampling, in one grid with scores."),
  ],
  xy_small_world: [
    say("A grid of two axes"),
    say("Three methods and three strengths, cell by cell; a click sets the Router."),
  ],
  find_best_small_world: [
    say("The best settings for a pair"),
    say("Searches methods, strengths, guidance and schedules in 40 pictures."),
  ],
  fuse_to_file_small_world: [
    say("Two LoRAs in one file"),
    say("Writes a pair into one plain LoRA, in three ways."),
  ],
  learned_merge_small_world: [
    say("Learned merges"),
    say("DuoLoRA learns to join a pair; B4M learns both from two pictures."),
  ],
  training_small_world: [
    say("Train from one picture each"),
    say("Trains a basis, a content LoRA, a style LoRA and an expert encoder, and uses them."),
  ],
  semantic_extension_small_world: [
    say("Phrases that were not trained"),
    say("The expert encoder on words that the LoRAs know, and on words that they do not."),
  ],
});
