// @ts-check
/** Words selected in a marked prompt are marked content or style with a right-click. */

// @ts-ignore: the host's own module
import { app } from "../../../../scripts/app.js";
import { attempt } from "../insertion/graph_edit.js";
import { isMarked } from "../lib/graph/routers.js";
import { nodesIn } from "../lib/graph/samplers.js";
import { widget } from "../lib/graph/upstream.js";
import { markWords } from "../lib/menus/mark_words.js";
import { say } from "../lib/texts.js";
import { asOneStep } from "../page/history.js";

/** @typedef {import("../lib/drawings/markers.js").Role} Role */

/** @param {MouseEvent} event */
function onContextMenu(event) {
  const box = event.target;
  if (event.shiftKey || !(box instanceof HTMLTextAreaElement)) return;
  if (box.selectionStart === box.selectionEnd || !isPrompt(box)) return;
  event.preventDefault();
  event.stopImmediatePropagation(); // no menu of the node
  const entry = (/** @type {string} */ content, /** @type {Role | null} */ role) => ({
    content, callback: () => mark(box, role),
  });
  const { ContextMenu } = /** @type {any} */ (globalThis).LiteGraph;
  new ContextMenu(
    [entry(say("Mark as content"), "content"), entry(say("Mark as style"), "style"),
      entry(say("Remove markers"), null)],
    { event },
  );
}

/** Whether a box shows the prompt of such a node, on it or on the subgraph node around it.
 * @param {HTMLTextAreaElement} box */
function isPrompt(box) {
  const prompt = widget(nodeOf(box) ?? {}, "prompt");
  return prompt !== undefined && prompt.value === box.value;
}

/** The node of a box, if it is or holds one with a marked prompt. @param {HTMLTextAreaElement} box */
function nodeOf(box) {
  const shown = /** @type {HTMLElement | null} */ (box.closest("[data-node-id]"));
  const found = app.canvas.graph.nodes.find((/** @type {any} */ node) =>
    shown ? String(node.id) === shown.dataset.nodeId
      : node.widgets?.some((/** @type {any} */ one) => one.element === box));
  if (!found) return undefined;
  return nodesIn({ nodes: [found] }, []).some(({ node }) => isMarked(node)) ? found : undefined;
}

/** The words are typed anew, so that the box and its own undo know of it.
 * @param {HTMLTextAreaElement} box @param {Role | null} role */
const mark = (box, role) =>
  attempt(async () => {
    const edit = markWords(box.value, box.selectionStart, box.selectionEnd, role);
    if (!edit) return;
    asOneStep(() => {
      box.focus();
      box.setSelectionRange(edit.start, edit.end);
      document.execCommand("insertText", false, edit.put);
      box.setSelectionRange(...edit.selected);
    });
  });

app.registerExtension({
  name: "craft_lora.mark_words",
  setup() {
    document.addEventListener("contextmenu", onContextMenu, true);
  },
});
