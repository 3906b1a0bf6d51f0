// @ts-check
/** Removes the map of which LoRA acted from a node when another node shows it instead: such a run's
 * output has no images. Vue nodes clear themselves; the classic canvas would keep the old map. */

// @ts-ignore: the host's own module
import { app } from "../../../../scripts/app.js";

const SHOWING = ["CRAFTRouter", "CRAFTACFGGuider", "CRAFTACFGKSampler"];
const PREVIEW = "$$canvas-image-preview"; // the host's widget

app.registerExtension({
  name: "craft_lora.run_map",
  /** @param {any} node */
  nodeCreated(node) {
    if (!SHOWING.includes(node.comfyClass)) return;
    const before = node.onExecuted;
    node.onExecuted = function (/** @type {any} */ output) {
      before?.call(this, output);
      if (output?.images?.length === 0) clear(this);
    };
  },
});

/** @param {any} node */
function clear(node) {
  node.imgs = undefined;
  node.imageIndex = null;
  const at = (node.widgets ?? []).findIndex((/** @type {any} */ one) => one.name === PREVIEW);
  if (at < 0) return;
  const [preview] = node.widgets.splice(at, 1);
  preview.onRemove?.();
  const height = node.size[1] - (preview.computedHeight ?? 0);
  node.setSize([node.size[0], Math.max(height, node.computeSize()[1])]);
  node.setDirtyCanvas(true, true);
}
