// @ts-check
/** The pack in the page: what each of our nodes shows of itself. */

// @ts-ignore: the host's own module
import { app } from "../../../scripts/app.js";
import { acfgDrawing } from "./acfg_drawing.js";
import { followLanguage } from "./language.js";
import { addDrawing, keepDrawing } from "./panel.js";
import { routerDrawing } from "./router_drawing.js";
import { scheduleDrawing } from "./schedule_drawing.js";
import { askMethods } from "./server.js";
import { hintAtSmallWorld } from "./small_world.js";
import { addStyle } from "./style.js";

/** @type {Record<string, () => import("./panel.js").Drawing>} */
const DRAWINGS = {
  CRAFTTimestepSchedule: () => scheduleDrawing,
  CRAFTRouter: routerDrawing,
  CRAFTMethodSweep: routerDrawing,
  CRAFTACFGKSampler: () => acfgDrawing,
  CRAFTACFGGuider: () => acfgDrawing,
};

app.registerExtension({
  name: "craft_lora.drawings",
  async setup() {
    addStyle();
    keepDrawing();
    await Promise.all([followLanguage(), askMethods()]);
  },
  afterConfigureGraph: hintAtSmallWorld,
  /** @param {any} node */
  nodeCreated(node) {
    const drawing = DRAWINGS[node.comfyClass];
    if (drawing) addDrawing(node, drawing());
  },
});
