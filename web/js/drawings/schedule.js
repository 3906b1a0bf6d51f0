// @ts-check
/** Timestep Schedule: its two curves, as its widgets stand now. */

import { path, spoken } from "../lib/drawings/plot.js";
import { sampleCurve } from "../lib/drawings/schedule.js";
import { settingsOf, valueOf } from "../lib/graph/upstream.js";
import { say, sayRole } from "../lib/texts.js";
import { make } from "./style.js";

const SAMPLES = 129;
const BOX = { left: 0, top: 4, width: 100, height: 92 };
const SVG = "http://www.w3.org/2000/svg";

/** @type {import("./panel.js").Drawing} */
export const scheduleDrawing = { name: "craft_curves", minimum: 110, read, draw };

/** @param {any} node @param {any[] | null} hosts */
function read(node, hosts) {
  const shape = valueOf(node, "shape", hosts);
  const floors = ["content_floor", "style_floor"].map((name) => valueOf(node, name, hosts));
  const settings = settingsOf(node, "shape", hosts);
  if ([shape, ...floors, ...Object.values(settings)].includes(undefined))
    return { quiet: say("The curves depend on other nodes; they are drawn after a run.") };
  try {
    return { samples: sampleCurve(shape, settings, floors[0], floors[1], SAMPLES) };
  } catch (error) {
    return { warning: /** @type {Error} */ (error).message };
  }
}

/** @param {HTMLElement} content @param {any} state */
function draw(content, { samples, quiet, warning }) {
  content.className = samples ? "craft-curves" : "";
  if (quiet) content.append(make("div", "craft-quiet", quiet));
  if (warning) content.append(make("div", "craft-warning", warning));
  if (!samples) return;
  content.append(
    curves(samples),
    make(
      "div", "craft-legend",
      make("span", "", make("span", "craft-content", sayRole("content")), " ",
        make("span", "craft-style", sayRole("style"))),
      make("span", "craft-quiet", say("first step → last")),
    ),
  );
}

/** @param {[number, number, number][]} samples */
function curves(samples) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", "0 0 100 100");
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("role", "img");
  const said = [[say("Content"), 1], [say("Style"), 2]].map(([name, column]) =>
    spoken(String(name), samples.map((row) => row[Number(column)])));
  svg.setAttribute("aria-label", said.join(". "));
  const lines = [0, 0.25, 0.5, 0.75, 1];
  const grid = lines.flatMap((at) => [
    path([[0, at], [1, at]], BOX), path([[at, 0], [at, 1]], BOX)]);
  svg.append(
    stroke("grid", grid.join("")),
    stroke("content", path(samples.map(([x, content]) => [x, content]), BOX)),
    stroke("style", path(samples.map(([x, , style]) => [x, style]), BOX)),
  );
  return svg;
}

/** @param {string} name @param {string} data */
function stroke(name, data) {
  const made = document.createElementNS(SVG, "path");
  made.setAttribute("class", name);
  made.setAttribute("d", data);
  return made;
}
