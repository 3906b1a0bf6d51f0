// @ts-check
/**
 * LoRA List: a row for each LoRA, in place of the text that its widget keeps. The text is what is
 * saved and sent with a prompt; the rows are drawn from it, and every change is written to it.
 */

import { putWordsBehind } from "../insertion/trigger_words.js";
import {
  changed, dropPlace, isListed, moved, placeAfterMove, readRows, shortName, without, withRow,
  writeRows,
} from "../lib/drawings/lora_rows.js";
import { valueOf } from "../lib/graph/upstream.js";
import { language, say, sayRole } from "../lib/texts.js";
import { infoParts } from "../menus/lora_info.js";
import { asOneStep } from "../page/history.js";
import { loraInfo } from "../page/server.js";
import { chooseLora, knownLoras } from "./lora_menu.js";
import { make } from "./style.js";

/** @typedef {import("../lib/drawings/lora_rows.js").Row} Row */

const WIDGET = "loras";
const NONE = "none";
const SAME = "same";
const MOST = 10; // strength
const STEP = 0.05;
const WIDTH = 420; // of a new node

/** @param {any} node that was just made @returns {import("./panel.js").Drawing} */
export function rowsDrawing(node) {
  hideText(node);
  node.size[0] = Math.max(node.size[0], WIDTH);
  const list = new RowList();
  return {
    name: "craft_rows",
    after: WIDGET,
    read: (one, hosts) => list.read(one, hosts),
    draw: (content, state, look) => list.draw(content, state, look),
    update: (content, state) => list.update(content, state),
  };
}

/** The rows of one node, as they are drawn. */
class RowList {
  constructor() {
    /** @type {any} */
    this.node = null;
    /** @type {Row[]} */
    this.rows = [];
    this.open = -1; // the row whose further settings are shown
    this.drawn = "";
    this.told = ""; // what is shown of the open row's file
    /** @type {HTMLElement | null} */
    this.content = null;
    this.look = () => {};
  }

  /** @param {any} node @param {any[] | null} hosts */
  read(node, hosts) {
    this.node = node;
    const text = valueOf(node, WIDGET, hosts);
    const rows = readRows(text);
    if (!rows) return { text };
    if (this.open >= rows.length) this.open = -1;
    const info = this.open < 0 ? null : loraInfo(rows[this.open].lora);
    return { rows, open: this.open, info, known: knownLoras() };
  }

  /** @param {HTMLElement} content @param {any} state @param {() => void} look */
  draw(content, state, look) {
    [this.look, this.content] = [look, content];
    [this.rows, this.drawn] = [state.rows ?? [], shapeOf(state)];
    this.told = JSON.stringify(state.info);
    if (!state.rows) content.append(...this.textBox(state.text));
    else content.append(...this.rowsOf(state), this.addButton());
  }

  /** Strengths and layers that were changed, in the boxes that are there; what the server told
   * meanwhile, beside them.
   * @param {HTMLElement} content @param {any} state */
  update(content, state) {
    if (!state.rows || shapeOf(state) !== this.drawn) return false;
    this.rows = state.rows;
    for (const [at, row] of this.rows.entries())
      for (const [name, value] of Object.entries(typedIn(row))) {
        const box = /** @type {HTMLInputElement | null} */ (part(content, at, name));
        if (box && box !== document.activeElement && box.value !== value) box.value = value;
      }
    this.tell(content, state);
    return true;
  }

  /** @param {HTMLElement} content @param {any} state */
  tell(content, { known, info }) {
    for (const [at, { lora }] of this.rows.entries()) {
      const press = part(content, at, "file");
      if (press) showPresence(press, lora, known);
    }
    const row = this.rows[this.open];
    const second = row && part(content, this.open, "second");
    if (second) showFiles(/** @type {HTMLSelectElement} */ (second), row, known);
    const told = JSON.stringify(info);
    if (told === this.told) return;
    this.told = told;
    content.querySelector(".craft-info")?.replaceChildren(...(row ? this.info(row, info) : []));
  }

  /** @param {Row[]} rows */
  set(rows) {
    this.write(writeRows(rows));
  }

  /** @param {string} text */
  write(text) {
    const widget = this.node.widgets.find((/** @type {any} */ one) => one.name === WIDGET);
    widget.value = text;
    widget.callback?.(text);
  }

  /** Change the rows as one step, and show them. @param {() => Row[]} make
   * @param {(at: number) => number} [placeAfter] where a row is then */
  change(make, placeAfter) {
    asOneStep(() => this.set(make()));
    this.show(placeAfter);
  }

  /** Draw anew, with the keyboard where it was. @param {(at: number) => number} [placeAfter] */
  show(placeAfter = (at) => at) {
    const focused = /** @type {HTMLElement | null} */ (document.activeElement);
    const within = focused && this.content?.contains(focused) ? focused.dataset : {};
    this.look();
    if (!this.content || !within.part || focused?.isConnected) return;
    const at = placeAfter(Number(within.row));
    const next = [within.part, "up", "down"].map((name) => part(this.content, at, name));
    const free = next.find((one) => one && !one.matches(":disabled"));
    (free ?? this.content.querySelector("button"))?.focus({ preventScroll: true });
  }

  /** @param {number} from @param {number} to */
  move(from, to) {
    if (from === to) return;
    this.open = placeAfterMove(this.open, from, to);
    this.change(() => moved(this.rows, from, to), (at) => placeAfterMove(at, from, to));
  }

  /** @param {number} at */
  remove(at) {
    if (this.open === at) this.open = -1;
    else if (this.open > at) this.open -= 1;
    this.change(() => without(this.rows, at), (row) => Math.min(row, this.rows.length - 1));
  }

  /** @param {number} at */
  toggle(at) {
    this.open = this.open === at ? -1 : at;
    this.show();
  }

  /** Change the rows by a file that is chosen, unless the row is another one by then, as after an
   * undo. @param {MouseEvent} event @param {(name: string) => Row[]} made @param {number} [at] */
  async choose(event, made, at = -1) {
    const before = JSON.stringify(this.rows[at]);
    const name = await chooseLora(/** @type {HTMLElement} */ (event.currentTarget));
    const { id, graph } = this.node;
    if (name === null || graph?.getNodeById(id) !== this.node) return;
    this.look(); // the rows as they are now
    if (JSON.stringify(this.rows[at]) === before) this.change(() => made(name));
  }

  addButton() {
    const add = button("craft-add", say("+ Add LoRA"));
    add.addEventListener("click", (event) =>
      this.choose(event, (name) => withRow(this.rows, name)));
    return add;
  }

  /** @param {{rows: Row[], known: string[] | null, info: any}} state */
  rowsOf({ rows, known, info }) {
    if (!rows.length) return [make("div", "craft-quiet", say("No LoRA yet."))];
    return rows.flatMap((row, at) => {
      const line = this.line(row, at, known);
      return at === this.open ? [line, this.details(row, at, known, info)] : [line];
    });
  }

  /** @param {Row} row @param {number} at @param {string[] | null} known */
  line(row, at, known) {
    const { lora, role } = row;
    const on = row.on !== false;
    const line = make("div", "craft-row");
    line.classList.toggle("craft-off", !on);
    const last = this.rows.length - 1;
    const parts = [
      this.handle(at, line),
      this.onSwitch(at, on, lora),
      this.fileButton(at, lora, known),
      this.roleButton(at, role, lora),
      this.strength(at, row),
      this.press(at, "up", "▲", say("Move {file} up", { file: lora }), at === 0,
        () => this.move(at, at - 1)),
      this.press(at, "down", "▼", say("Move {file} down", { file: lora }), at === last,
        () => this.move(at, at + 1)),
      this.press(at, "more", at === this.open ? "▾" : "▸",
        say("Layers and more of {file}", { file: lora }), false, () => this.toggle(at)),
      this.press(at, "remove", "✕", say("Remove {file}", { file: lora }), false,
        () => this.remove(at)),
    ];
    parts[7].setAttribute("aria-expanded", String(at === this.open));
    line.append(...parts);
    return line;
  }

  /** The edge by which a row is dragged. @param {number} at @param {HTMLElement} line */
  handle(at, line) {
    const handle = mark(make("span", "craft-handle", "⠿"), at, "handle");
    handle.title = say("Drag to change the order");
    const place = (/** @type {PointerEvent} */ event) => {
      const lines = [...(line.parentElement?.querySelectorAll(".craft-row") ?? [])];
      const middles = lines.map((one) => {
        const { top, height } = one.getBoundingClientRect();
        return top + height / 2;
      });
      return { lines, to: dropPlace(event.clientY, middles, at) };
    };
    const show = (/** @type {Element[]} */ lines, /** @type {number} */ to) =>
      lines.forEach((one, index) => {
        one.classList.toggle("craft-above", to < at && index === to);
        one.classList.toggle("craft-below", to > at && index === to);
      });
    handle.addEventListener("pointerdown", (event) => {
      event.preventDefault();
      event.stopPropagation(); // the node stays where it is
      handle.setPointerCapture(event.pointerId);
      line.classList.add("craft-dragged");
    });
    handle.addEventListener("pointermove", (event) => {
      if (!handle.hasPointerCapture(event.pointerId)) return;
      const { lines, to } = place(event);
      show(lines, to);
    });
    const end = (/** @type {PointerEvent} */ event, /** @type {boolean} */ dropped) => {
      if (!line.classList.contains("craft-dragged")) return;
      line.classList.remove("craft-dragged");
      const { lines, to } = place(event);
      show(lines, at);
      if (dropped) this.move(at, to);
    };
    handle.addEventListener("pointerup", (event) => end(event, true));
    handle.addEventListener("pointercancel", (event) => end(event, false));
    return handle;
  }

  /** @param {number} at @param {boolean} on @param {string} file */
  onSwitch(at, on, file) {
    const box = /** @type {HTMLInputElement} */ (mark(make("input", ""), at, "on"));
    box.type = "checkbox";
    box.checked = on;
    box.setAttribute("aria-label", say("{file} is on", { file }));
    box.addEventListener("change", () =>
      this.change(() => changed(this.rows, at, { on: box.checked })));
    return box;
  }

  /** @param {number} at @param {string} lora @param {string[] | null} known */
  fileButton(at, lora, known) {
    const press = mark(button("craft-file", shortName(lora)), at, "file");
    showPresence(press, lora, known);
    press.addEventListener("click", (event) =>
      this.choose(event, (name) => changed(this.rows, at, { lora: name }), at));
    return press;
  }

  /** @param {number} at @param {import("../lib/drawings/markers.js").Role} role
   * @param {string} file */
  roleButton(at, role, file) {
    const press = mark(button("craft-role", sayRole(role)), at, "role");
    press.classList.add(`craft-${role}`);
    press.setAttribute("aria-label", say("Role of {file}: {role}", { file, role: sayRole(role) }));
    press.addEventListener("click", () =>
      this.change(() => changed(this.rows, at, { role: role === "content" ? "style" : "content" })));
    return press;
  }

  /** @param {number} at @param {Row} row */
  strength(at, row) {
    const box = /** @type {HTMLInputElement} */ (mark(make("input", ""), at, "strength"));
    Object.assign(box, { type: "number", min: -MOST, max: MOST, step: STEP });
    box.value = typedIn(row).strength;
    box.setAttribute("aria-label", say("Strength of {file}", { file: row.lora }));
    this.types(box, () => {
      if (Number.isNaN(box.valueAsNumber)) return; // not a whole number yet
      this.set(changed(this.rows, at, { strength: box.valueAsNumber }));
    });
    box.addEventListener("change", () => (box.value = typedIn(this.rows[at]).strength));
    return box;
  }

  /** @param {Row} row @param {number} at @param {string[] | null} known @param {any} info */
  details(row, at, known, info) {
    const layers = /** @type {HTMLTextAreaElement} */ (mark(make("textarea", ""), at, "layers"));
    layers.rows = 3;
    layers.value = typedIn(row).layers;
    layers.placeholder = say("Empty: the layers of its role");
    this.types(layers, () => this.set(changed(this.rows, at, { layers: layers.value })));
    const second = /** @type {HTMLSelectElement} */ (mark(make("select", ""), at, "second"));
    showFiles(second, row, known);
    second.addEventListener("change", () =>
      this.change(() => changed(this.rows, at, { second_lora: second.value })));
    return make(
      "div", "craft-details",
      make("div", "craft-info", ...this.info(row, info)),
      make("label", "", say("Own layers, one pattern a line"), layers),
      make("label", "", say("File for the Router's second_model"), second),
    );
  }

  /** What the file says of itself. @param {Row} row @param {any} info */
  info({ lora, role }, info) {
    return infoParts(lora, info, (words) => putWordsBehind(this.node, role, words));
  }

  /** A text that is no list of rows, to be mended by hand. @param {string} text */
  textBox(text) {
    const box = /** @type {HTMLTextAreaElement} */ (mark(make("textarea", ""), 0, "text"));
    box.rows = 6;
    box.value = text;
    box.addEventListener("change", () => {
      asOneStep(() => this.write(box.value));
      this.look();
    });
    return [make("div", "craft-warning", say("The list of LoRAs cannot be read as rows:")), box];
  }

  /** A box whose text counts while it is typed, and is one step when it is left.
   * @param {HTMLInputElement | HTMLTextAreaElement} box @param {() => void} take its text */
  types(box, take) {
    box.addEventListener("input", () => {
      take();
      this.look();
    });
    box.addEventListener("change", () => asOneStep(() => {}));
  }

  /** @param {number} at @param {string} name @param {string} sign @param {string} label
   * @param {boolean} disabled @param {() => void} then */
  press(at, name, sign, label, disabled, then) {
    const made = /** @type {HTMLButtonElement} */ (mark(button("craft-small", sign), at, name));
    made.disabled = disabled;
    made.title = label;
    made.setAttribute("aria-label", label);
    made.addEventListener("click", then);
    return made;
  }
}

/** The rows stand in its place; it keeps them. @param {any} node */
function hideText(node) {
  const widget = node.widgets.find((/** @type {any} */ one) => one.name === WIDGET);
  widget.hidden = true; // on the canvas
  widget.options.hidden = true; // among the page's elements
}

/** All of a state but what is typed into boxes and what the server tells, with the language that it
 * is shown in. @param {any} state */
const shapeOf = ({ rows, open, text }) =>
  JSON.stringify([language(), open, text, rows?.map((/** @type {Row} */ row) =>
    ({ ...row, strength: 0, layers: "" }))]);

/** Whether the server has a row's file. @param {HTMLElement} press its button @param {string} lora
 * @param {string[] | null} known */
function showPresence(press, lora, known) {
  const isThere = !known || isListed(known, lora);
  press.title = isThere ? lora : say("{file} is not in models/loras", { file: lora });
  press.classList.toggle("craft-missing", !isThere);
}

/** The entries of a row's second file, if they are others than before.
 * @param {HTMLSelectElement} second @param {Row} row @param {string[] | null} known */
function showFiles(second, { second_lora: chosen = SAME }, known) {
  const names = [...new Set([SAME, NONE, ...(known ?? []), chosen])];
  if (names.join("\n") === [...second.options].map(({ value }) => value).join("\n")) return;
  second.replaceChildren(...names.map((name) => new Option(name, name, false, name === chosen)));
}

/** What is in the boxes of a row. @param {Row} row */
const typedIn = ({ strength, layers }) => ({
  strength: String(strength ?? 1), layers: layers ?? "",
});

/** @param {Element | null} list @param {number} at @param {string} name
 * @returns {HTMLElement | null | undefined} */
const part = (list, at, name) => list?.querySelector(`[data-row="${at}"][data-part="${name}"]`);

/** @param {HTMLElement} element @param {number} at @param {string} name */
function mark(element, at, name) {
  Object.assign(element.dataset, { row: at, part: name });
  return element;
}

/** @param {string} className @param {string} text */
function button(className, text) {
  const made = /** @type {HTMLButtonElement} */ (make("button", className, text));
  made.type = "button";
  return made;
}
