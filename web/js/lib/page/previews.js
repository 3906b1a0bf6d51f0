// @ts-check
/**
 * What ComfyUI's own Preview as Text shows of a report of ours, in the page's language. Its widgets
 * only show: what they hold is neither saved nor sent, and the report itself stays English.
 */

import { originPastReroutes } from "../graph/upstream.js";
import { sayOfServer } from "./server_texts.js";

/** @typedef {import("../graph/routers.js").At} At */

const PREVIEW = "PreviewAny";
const SHOWN = /^preview_(text|markdown)$/; // its widgets, those of older pages too
const OURS = "CRAFT";
const REPORTS = new Set(["report", "scores"]); // our outputs in which the server speaks

/** @type {WeakMap<any, {english: string, said: string}>} by widget, what was last put into it */
const put = new WeakMap();

/** Whether it is a node whose text is translated. @param {any} node */
export const isPreview = (node) => node.comfyClass === PREVIEW;

/** Bring what a preview shows into the language spoken. @param {At} preview */
export function sayPreview({ node, hosts }) {
  const isReport = showsReport(node, hosts);
  for (const widget of node.widgets ?? []) {
    if (!SHOWN.test(widget.name) || widget.options?.serialize !== false) continue;
    const { value } = widget;
    if (typeof value !== "string") continue;
    const last = put.get(widget);
    const english = last?.said === value ? last.english : value;
    const said = isReport ? sayOfServer(english) : english;
    if (said === value) continue;
    put.set(widget, { english, said });
    widget.value = said;
  }
}

/** @param {any} node @param {any[]} hosts */
function showsReport(node, hosts) {
  const from = originPastReroutes(node, 0, hosts);
  if (!from || !("slot" in from) || !from.node.comfyClass?.startsWith(OURS)) return false;
  return REPORTS.has(from.node.outputs?.[from.slot]?.name);
}
