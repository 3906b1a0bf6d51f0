// @ts-check
/** The drawing of ACFG KSampler and ACFG Guider: their warnings, hidden when there are none. */

import { notRouted } from "../lib/core.js";
import { cfgWarnings } from "../lib/drawings/warnings.js";
import { isActive, modelSource, valueOf } from "../lib/graph/upstream.js";
import { make } from "./style.js";

const ROUTERS = ["CRAFTRouter", "CRAFTMethodSweep", "CRAFTFindBest"];

/** @type {import("./panel.js").Drawing} */
export const acfgDrawing = {
  name: "craft_warnings",
  read: (node, hosts) => {
    const [cfg, asymmetric, guidance] = ["cfg", "asymmetric", "guidance"].map((name) =>
      valueOf(node, name, hosts));
    const found = [...cfgWarnings(cfg, asymmetric, guidance), ...routeWarnings(node, hosts)];
    return found.length ? found : null;
  },
  draw: (content, found) => {
    for (const warning of found) content.append(make("div", "craft-warning", warning));
  },
};

/** @param {any} node @param {any[] | null} hosts */
function routeWarnings(node, hosts) {
  const { file, passed } = modelSource(node, "model", hosts);
  const routed = passed.some((one) => ROUTERS.includes(one.type) && isActive(one));
  if (!file || routed) return [];
  return [notRouted()];
}
