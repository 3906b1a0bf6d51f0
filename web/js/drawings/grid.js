// @ts-check
/** The drawing of XY Grid: its cells as they are made. A click on one sets the Router to it. */

// @ts-ignore: the host's own module
import { app } from "../../../../scripts/app.js";
import { notify } from "../insertion/graph_edit.js";
import { inALine, labelsOf, nameOf, stateOf, tableOf } from "../lib/drawings/grid.js";
import { idInPrompt } from "../lib/graph/links.js";
import { language, say } from "../lib/texts.js";
import { askForGrid, reports } from "../page/runs.js";
import { applyButton, applyTo, namedRouters } from "./report.js";
import { make } from "./style.js";

/** @typedef {import("../lib/drawings/grid.js").Cell} Cell */
/** @typedef {import("../lib/drawings/grid.js").Grid} Grid */

/** @returns {import("./panel.js").Drawing} */
export function gridDrawing() {
  /** @type {Grid | null} */
  let grid = null;
  let drawn = ""; // its labels, and in which language
  /** @type {(grid: Grid) => void} */
  let fill = () => {};
  return {
    name: "craft_grid",
    read: (node, hosts) => {
      if (!hosts) return null;
      const [root, id] = [app.rootGraph ?? app.graph, idInPrompt(node, hosts)];
      askForGrid(root.id, id, node.comfyClass);
      grid = reports.of(root.id, id, node.comfyClass)?.grid ?? null;
      return grid?.cells.length ? stateOf(grid) : null;
    },
    draw: (content) => {
      if (!grid) return;
      const empty = emptyTable(grid);
      drawn = language() + labelsOf(grid);
      fill = empty.fill;
      fill(grid);
      content.append(...empty.elements);
    },
    update: (content) => {
      if (!grid || !content.children.length || drawn !== language() + labelsOf(grid)) return false;
      fill(grid); // what has the focus, or is being clicked, stays
      return true;
    },
  };
}

/** The labels, and a place for each cell. fill: puts cells in that are not there yet.
 * @param {Grid} grid */
function emptyTable(grid) {
  const chosen = make("div", "craft-chosen");
  const head = make("tr", "", make("th", ""), ...grid.columns.map((one) => make("th", "", one)));
  /** @type {Map<HTMLElement, Cell | undefined>} */
  const shown = new Map();
  const places = grid.rows.map(() => grid.columns.map(() => make("td", "")));
  const rows = grid.rows.map((label, row) =>
    make("tr", "", make("th", "", label), ...places[row]));
  const table = make("div", "craft-cells", make("table", "", head, ...rows));
  table.addEventListener("wheel", (event) => event.stopPropagation());
  /** @param {Grid} now */
  const fill = (now) => {
    for (const [row, cells] of tableOf(now).entries())
      for (const [column, cell] of cells.entries()) {
        const place = places[row][column];
        if (shown.get(place) === cell) continue;
        shown.set(place, cell);
        place.replaceChildren(...(cell ? [button(now, cell, chosen)] : []));
      }
  };
  return { elements: [table, chosen], fill };
}

/** @param {Grid} grid @param {Cell} cell @param {HTMLElement} chosen where Routers are offered */
function button(grid, cell, chosen) {
  const picture = /** @type {HTMLImageElement} */ (make("img", ""));
  picture.src = cell.picture;
  picture.alt = nameOf(grid, cell);
  const made = make("button", "", picture, ...(cell.scores ? [make("div", "", cell.scores)] : []));
  made.title = say("Set the Router to {cell}", { cell: inALine(nameOf(grid, cell)) });
  made.addEventListener("click", () => send(grid, cell, chosen));
  return made;
}

/** To the one Router; where there are several, they are offered. @param {Grid} grid
 * @param {Cell} cell @param {HTMLElement} chosen */
function send(grid, cell, chosen) {
  const routers = namedRouters();
  if (routers.length === 1) return applyTo(routers[0], cell.preset);
  if (!routers.length)
    return notify("warn", say("Nothing was changed"), say("There is no Router in this workflow."));
  const offers = routers.map((router) => applyButton(router, cell.preset));
  return chosen.replaceChildren(make("div", "", nameOf(grid, cell)), ...offers);
}
