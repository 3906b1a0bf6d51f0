// @ts-check
/**
 * Translates the tooltips of the inputs that an entry of a menu brings. The page translates all
 * other tooltips from the locale files itself, but takes these from the node's definition.
 */

const MENU = "COMFY_DYNAMICCOMBO_V3";

/** @typedef {Record<string, {tooltip?: string}>} Texts by name, with _ for the dot */
/** @typedef {[any, Record<string, any>?]} Spec */
/** @typedef {{required?: Record<string, Spec>, optional?: Record<string, Spec>}} Inputs */

/**
 * Put a locale's tooltips into the menus of a definition, where there are any.
 * @param {Inputs} inputs
 * @param {Texts} texts
 */
export function translateMenus(inputs, texts) {
  for (const [menu, [kind, settings]] of entries(inputs)) {
    for (const option of kind === MENU ? settings?.options : []) {
      for (const [name, spec] of entries(option.inputs)) {
        const tooltip = texts[`${menu}_${name}`]?.tooltip;
        if (tooltip) spec[1] = { ...spec[1], tooltip };
      }
    }
  }
}

/**
 * @param {Inputs} inputs
 * @returns {[string, Spec][]}
 */
function entries(inputs) {
  return [...Object.entries(inputs.required ?? {}), ...Object.entries(inputs.optional ?? {})];
}
