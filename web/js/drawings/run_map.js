// @ts-check
/**
 * Keeps a node's maps of which LoRA acted those of its newest output in the classic canvas; Vue nodes
 * do so themselves.
 *
 * Where another node shows the map instead, a run's output has no images, and the old map is removed.
 * And while the page loads the pictures of one output it may pass over those of the next, or finish
 * them first: an older list is refused, and what it lacks is loaded.
 */

// @ts-ignore: the host's own modules
import { api } from "../../../../scripts/api.js";
// @ts-ignore
import { app } from "../../../../scripts/app.js";
import { isIncomplete, isOlder } from "../lib/drawings/pictures.js";

const SHOWING = ["CRAFTRouter", "CRAFTACFGGuider", "CRAFTACFGKSampler"];
const PREVIEW = "$$canvas-image-preview"; // the host's widget

app.registerExtension({
  name: "craft_lora.run_map",
  /** @param {any} node */
  nodeCreated(node) {
    if (!SHOWING.includes(node.comfyClass)) return;
    const before = node.onExecuted;
    /** @type {any[]} */
    let output = [];
    refuseOlder(node, () => output);
    node.onExecuted = function (/** @type {any} */ made) {
      output = made?.images ?? [];
      before?.call(this, made);
      if (made?.images?.length === 0) clear(this);
    };
  },
});

/** @param {any} node @param {() => any[]} output the images of its newest output */
function refuseOlder(node, output) {
  /** @type {any} */
  let shown = node.imgs;
  Object.defineProperty(node, "imgs", {
    configurable: true,
    enumerable: true,
    get: () => shown,
    set: (list) => {
      const now = output();
      const vue = /** @type {any} */ (globalThis).LiteGraph.vueNodesMode;
      if (vue || !list) return void (shown = list);
      if (!shown || !isOlder(list, shown, now)) shown = list;
      if (isIncomplete(shown, now)) load(node, now);
    },
  });
}

/** @type {WeakSet<any[]>} outputs whose pictures were asked for */
const asked = new WeakSet();

/** @param {any} node @param {any[]} output */
async function load(node, output) {
  if (asked.has(output)) return; // what failed once is not asked for again and again
  asked.add(output);
  const loaded = await Promise.allSettled(output.map(picture));
  const list = loaded.flatMap((one) => (one.status === "fulfilled" ? [one.value] : []));
  if (!list.length) return;
  node.imgs = list;
  node.imageIndex = null;
  node.setDirtyCanvas(true, true);
}

/** @param {Record<string, string>} saved @returns {Promise<HTMLImageElement>} */
const picture = (saved) =>
  new Promise((resolve, reject) => {
    const image = new Image();
    image.onload = () => resolve(image);
    image.onerror = reject;
    image.src = api.apiURL(["/view", new URLSearchParams(saved)].join("?"));
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
