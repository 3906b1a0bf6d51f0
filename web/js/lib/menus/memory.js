// @ts-check
/**
 * Remembers the settings of each entry of a menu, for when the entry is chosen again. The host
 * creates the widgets of an entry (`menu.name`) each time with their default values.
 */

/** @typedef {{name: string, value: any}} Widget */

export class MenuMemory {
  constructor() {
    /** @type {Map<string, any>} the entry of each menu at the last call */
    this.chosen = new Map();
    /** @type {Map<string, string>} values as JSON, by menu, entry and widget */
    this.kept = new Map();
  }

  /**
   * Read a node's widgets: remember their values; if an entry was just chosen again, return its
   * remembered values.
   *
   * @param {Widget[]} widgets
   * @returns {{widget: Widget, value: any}[]} what to put back
   */
  look(widgets) {
    return widgets.flatMap((menu) => {
      const own = widgets.filter((one) => one.name.startsWith(`${menu.name}.`));
      const before = this.chosen.get(menu.name);
      if (typeof menu.value !== "string" || (!own.length && before === undefined)) return [];
      this.chosen.set(menu.name, menu.value);
      const changed = before !== undefined && before !== menu.value;
      return own.flatMap((widget) => this.#recall(menu, widget, changed));
    });
  }

  /** @param {Widget} menu @param {Widget} widget @param {boolean} changed */
  #recall(menu, widget, changed) {
    const key = JSON.stringify([menu.name, menu.value, widget.name]);
    const now = JSON.stringify(widget.value);
    const kept = this.kept.get(key);
    if (changed && kept !== undefined && kept !== now) return [{ widget, value: JSON.parse(kept) }];
    if (now !== undefined) this.kept.set(key, now);
    return [];
  }
}
