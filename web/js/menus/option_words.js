// @ts-check
/**
 * Shows the values of our nodes' menus in the page's language. The page translates the names of
 * menus alone; a menu's `getOptionLabel` says what a value is called, and the value itself, which
 * is saved and sent, stays as it is.
 */

// @ts-ignore: the host's own module
import { app } from "../../../../scripts/app.js";
import { sayValue, wordsOf } from "../lib/texts.js";

const OURS = "CRAFT";
const MENU = ".litecontextmenu.dark"; // the list of a menu on the classic canvas
const MARGIN = 10; // pixels that the page leaves around a list

app.registerExtension({
  name: "craft_lora.option_words",
  /** @param {any} nodeType @param {any} definition */
  beforeRegisterNodeDef(nodeType, { name: node }) {
    if (!node.startsWith(OURS)) return;
    const { addWidget } = nodeType.prototype;
    /** @param {string} kind @param {string} name @param {any[]} rest */
    nodeType.prototype.addWidget = function (kind, name, ...rest) {
      const widget = addWidget.call(this, kind, name, ...rest);
      if (kind === "combo" && wordsOf(node, name)) showWords(widget, node);
      return widget;
    };
  },
});

/** @param {any} widget @param {string} node */
function showWords(widget, node) {
  widget.options.getOptionLabel = (/** @type {string | null} */ value) =>
    sayValue(node, widget.name, value);
  const { onClick } = widget;
  widget.onClick = (/** @type {any} */ event) => {
    onClick.call(widget, event);
    keepOnPage();
  };
}

/** The page places a list with such labels before it has entries, so near the page's edges too
 * little of it is seen. */
function keepOnPage() {
  const list = /** @type {HTMLElement | undefined} */ ([...document.querySelectorAll(MENU)].at(-1));
  if (!list) return;
  const { offsetLeft: left, offsetTop: top, offsetWidth: width, scrollHeight: height } = list;
  const inside = [
    Math.min(left, innerWidth - width - MARGIN),
    Math.min(top, innerHeight - height - MARGIN),
  ].map((place) => `${Math.max(0, place)}px`);
  [list.style.left, list.style.top] = inside;
}
