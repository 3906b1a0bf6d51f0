// @ts-check
/** The style sheet of our drawings. It uses the host's colours, so that it fits every theme. */

const CSS = `
.craft-panel { width: 100%; height: 100%; overflow: hidden; box-sizing: border-box;
  color: var(--input-text, #ddd); font: 12px/1.4 Inter, Arial, sans-serif; text-align: left; }
.craft-panel[hidden] { display: none; }
.lg-node-widgets > .craft-panel { grid-column: 1 / -1; height: auto; padding: 4px 12px 0; }
.craft-panel > div { display: flex; flex-direction: column; gap: 4px; box-sizing: border-box; }
.dom-widget > .craft-panel > div { padding: 0 6px; }
.craft-words { white-space: pre-wrap; overflow-wrap: anywhere; max-height: 6.9em;
  overflow-y: auto; padding: 3px 6px; }
.craft-words, .craft-curves svg { border-radius: 4px;
  background: var(--component-node-widget-background, var(--comfy-input-bg, #222)); }
.craft-content, .craft-style { border-radius: 3px; padding: 0 2px; color: inherit; }
.craft-content { background: rgb(66 135 245 / 0.38); border-bottom: 2px solid rgb(66 135 245); }
.craft-style { background: rgb(240 120 50 / 0.38); border-bottom: 2px dashed rgb(240 120 50); }
.craft-marker { opacity: 0.55; }
.craft-words, .craft-report, .craft-cells { scrollbar-width: auto; scrollbar-color: auto; }
.craft-words::-webkit-scrollbar, .craft-report::-webkit-scrollbar,
.craft-cells::-webkit-scrollbar { width: 10px; height: 10px; } /* seen also where the system hides its own */
.craft-words::-webkit-scrollbar-thumb, .craft-report::-webkit-scrollbar-thumb,
.craft-cells::-webkit-scrollbar-thumb { border-radius: 5px; background: rgb(128 128 128 / 0.75); }
.craft-warning { padding: 2px 6px; border-left: 3px solid rgb(222 160 20);
  background: rgb(222 160 20 / 0.16); }
.craft-report { white-space: pre-wrap; overflow-wrap: anywhere; max-height: 12.6em;
  overflow-y: auto; padding: 3px 6px; border-radius: 4px; user-select: text;
  background: var(--component-node-widget-background, var(--comfy-input-bg, #222)); }
.craft-error { max-height: 25em; border-left: 3px solid rgb(224 70 60); background: rgb(224 70 60 / 0.18); }
.craft-quiet { opacity: 0.7; }
.craft-offer { padding: 0 6px; border: 1px solid currentColor; border-radius: 4px; cursor: pointer;
  background: none; color: inherit; font: inherit; }
.craft-offer:disabled { opacity: 0.5; cursor: default; }
.craft-offer:focus-visible { outline: 2px solid rgb(66 135 245); }
.craft-layers summary { cursor: pointer; border-radius: 3px; }
.craft-layers summary:focus-visible { outline: 2px solid rgb(66 135 245); }
.craft-layers table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
.craft-layers th, .craft-layers td { text-align: right; padding: 0 4px; font-weight: normal; }
.craft-layers th:first-child, .craft-layers td:first-child { text-align: left; }
.craft-layers tr[aria-current] { font-weight: bold; }
.craft-row { display: flex; align-items: center; gap: 3px; min-height: 24px; border-radius: 4px;
  border: 1px solid transparent; }
.craft_rows button, .craft_rows select, .craft_rows textarea, .craft_rows input[type="number"] {
  border: 0; border-radius: 4px; padding: 2px 5px; box-sizing: border-box; font: inherit;
  color: inherit; background: var(--component-node-widget-background, var(--comfy-input-bg, #222)); }
.craft_rows button { cursor: pointer; }
.craft_rows button:disabled { opacity: 0.3; cursor: default; }
.craft_rows .craft-file { flex: 1 1 0; min-width: 0; overflow: hidden; text-overflow: ellipsis;
  white-space: nowrap; text-align: left; }
.craft_rows .craft-missing, .craft_rows input:out-of-range { outline: 1px solid rgb(224 70 60); }
.craft_rows .craft-role { flex: 0 0 auto; width: 56px; text-align: center; }
.craft_rows .craft-content { background: rgb(66 135 245 / 0.38); border-bottom: 2px solid rgb(66 135 245); }
.craft_rows .craft-style { background: rgb(240 120 50 / 0.38); border-bottom: 2px dashed rgb(240 120 50); }
.craft_rows input[type="number"] { flex: 0 0 auto; width: 58px; text-align: right; }
.craft_rows input[type="checkbox"] { flex: 0 0 auto; margin: 0; }
.craft_rows .craft-small { flex: 0 0 auto; width: 20px; padding: 2px 0; text-align: center; }
.craft_rows .craft-add { padding: 4px; }
.craft_rows :focus-visible { outline: 2px solid rgb(66 135 245); }
.craft-handle { flex: 0 0 auto; width: 14px; cursor: grab; opacity: 0.6; text-align: center;
  touch-action: none; user-select: none; }
.craft-off > :not(.craft-handle, [type="checkbox"]) { opacity: 0.45; }
.craft-dragged { opacity: 0.5; }
.craft-above { border-top-color: rgb(66 135 245); }
.craft-below { border-bottom-color: rgb(66 135 245); }
.craft-details, .craft-info { display: flex; flex-direction: column; gap: 4px; }
.craft-details { padding: 2px 4px 6px 20px; }
.craft-preview { max-width: 100%; max-height: 200px; object-fit: contain; align-self: flex-start;
  border-radius: 4px; }
.craft-details label { display: flex; flex-direction: column; gap: 2px; }
.craft-details textarea, .craft_rows > div > textarea { width: 100%; resize: none; }
.craft-cells { overflow: auto; max-height: 700px; }
.craft-cells table { border-collapse: collapse; }
.craft-cells th { padding: 2px 4px; font-weight: normal; white-space: pre-wrap; }
.craft-cells td { padding: 1px; min-width: 48px; height: 48px; vertical-align: top;
  background: var(--component-node-widget-background, var(--comfy-input-bg, #222)); }
.craft-cells button { display: block; padding: 0; border: 0; background: none; color: inherit;
  font: inherit; white-space: pre-wrap; cursor: pointer; }
.craft-cells img { display: block; width: 100%; min-width: 56px; max-width: 160px; }
.craft-cells button:focus-visible { outline: 2px solid rgb(66 135 245); }
.craft-chosen { display: flex; flex-direction: column; gap: 4px; }
.craft-curves { height: 100%; min-height: 96px; }
.craft-curves svg { flex: 1 1 0; min-height: 72px; width: 100%; }
.craft-curves path { fill: none; stroke-width: 2.5; vector-effect: non-scaling-stroke; }
.craft-curves .grid { stroke: currentColor; stroke-width: 1; opacity: 0.18; }
.craft-curves .content { stroke: rgb(66 135 245); }
.craft-curves .style { stroke: rgb(240 120 50); stroke-dasharray: 7 4; }
.craft-legend { display: flex; justify-content: space-between; gap: 8px; }
.craft-dialog { width: min(780px, 92vw); padding: 16px; border-radius: 8px; box-shadow: none;
  border: 1px solid var(--border-color, #555); font: 13px/1.4 Inter, Arial, sans-serif;
  background: var(--comfy-menu-bg, #353535); color: var(--input-text, #ddd); }
.craft-dialog::backdrop { background: rgb(0 0 0 / 0.5); }
.craft-dialog h3 { margin: 0 0 12px; font-size: 15px; font-weight: 600; overflow-wrap: anywhere; }
.craft-dialog .craft-preview { max-height: 50vh; }
.craft-lists { display: grid; grid-template-columns: 1fr 1fr; gap: 16px; }
.craft-lists label, .craft-lists select, .craft-lists input { display: block; width: 100%; }
.craft-lists input, .craft-lists select, .craft-presets select, .craft-buttons input,
.craft-buttons button { margin-top: 6px; padding: 5px 8px;
  box-sizing: border-box; border: 1px solid var(--border-color, #555); border-radius: 4px;
  background: var(--comfy-input-bg, #222); color: var(--input-text, #ddd); font: inherit; }
.craft-lists .craft-model { grid-column: 1 / -1; }
.craft-lists option { padding: 3px 4px; overflow-wrap: anywhere; }
.craft-lists option:checked { color: inherit;
  background: linear-gradient(0deg, rgb(66 135 245 / 0.38), rgb(66 135 245 / 0.38)); }
.craft-lists :focus-visible, .craft-presets :focus-visible, .craft-buttons :focus-visible {
  outline: 2px solid rgb(66 135 245); }
.craft-presets p { min-height: 1.4em; margin: 6px 0 0; opacity: 0.7; }
.craft-presets select { width: 100%; }
.craft-buttons input { flex: 1; }
.craft-buttons { display: flex; justify-content: flex-end; gap: 8px; margin-top: 12px; }
.craft-buttons button { padding: 6px 14px; cursor: pointer; }
.craft-buttons [type="submit"] { background: rgb(30 100 215); color: white; }
.craft-buttons :disabled { opacity: 0.45; cursor: default; }
`;

/** Put the style sheet into the page. */
export function addStyle() {
  const style = document.createElement("style");
  style.textContent = CSS;
  document.head.append(style);
}

/**
 * A new element with children; texts stay plain text, never HTML.
 *
 * @param {string} tag
 * @param {string} className
 * @param {...(Node | string)} children
 */
export function make(tag, className, ...children) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  made.append(...children);
  return made;
}
