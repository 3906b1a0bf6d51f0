// @ts-check
/** Puts drawings on the pack's nodes, and starts what the drawings need. */

// @ts-ignore: the host's own module
import { app } from "../../../scripts/app.js";
import { acfgDrawing } from "./drawings/acfg.js";
import { gridDrawing } from "./drawings/grid.js";
import { dressSubgraph } from "./drawings/inside.js";
import { lookAgain } from "./drawings/lora_menu.js";
import { rowsDrawing } from "./drawings/lora_rows.js";
import { addDrawing, keepDrawings } from "./drawings/panel.js";
import { reportDrawing } from "./drawings/report.js";
import { routerDrawing } from "./drawings/router.js";
import { scheduleDrawing } from "./drawings/schedule.js";
import { addStyle } from "./drawings/style.js";
import { followLanguage } from "./page/language.js";
import { openTemplates } from "./page/open_templates.js";
import { followPreviews } from "./page/previews.js";
import { followRefusals, followRuns } from "./page/runs.js";
import { askMethods } from "./page/server.js";
import { hintAtSmallWorld } from "./page/small_world.js";
import { nameTemplates } from "./page/templates.js";
import { showReadable } from "./page/view.js";

/** @type {Record<string, (node: any) => import("./drawings/panel.js").Drawing>} */
const DRAWINGS = {
  CRAFTTimestepSchedule: () => scheduleDrawing,
  CRAFTLoRAList: rowsDrawing,
  CRAFTRouter: () => routerDrawing(),
  CRAFTMethodSweep: () => routerDrawing(),
  CRAFTACFGKSampler: () => acfgDrawing,
  CRAFTACFGGuider: () => acfgDrawing,
  CRAFTXYGrid: gridDrawing,
};

const OURS = "CRAFT";

app.registerExtension({
  name: "craft_lora.drawings",
  async setup() {
    addStyle();
    keepDrawings(dressSubgraph);
    followRuns();
    followRefusals();
    followPreviews();
    nameTemplates();
    openTemplates();
    await Promise.all([followLanguage(), askMethods()]);
  },
  afterConfigureGraph() {
    hintAtSmallWorld();
    showReadable();
  },
  refreshComboInNodes: lookAgain,
  /** @param {any} node */
  nodeCreated(node) {
    const drawing = DRAWINGS[node.comfyClass];
    if (drawing) addDrawing(node, drawing(node));
    if (node.comfyClass?.startsWith(OURS)) addDrawing(node, reportDrawing(node));
  },
});
