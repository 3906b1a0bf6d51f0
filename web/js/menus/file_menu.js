// @ts-check
/** The host's menu, with its filter where it is long, for one of several names. */

/**
 * The place in a list of what the user chooses. It is never known where they choose none.
 *
 * @param {(string | {content: string, disabled: boolean})[]} entries
 * @param {[number, number]} at left and top on the screen
 * @param {string} [title]
 * @returns {Promise<number>}
 */
export function chooseEntry(entries, [left, top], title) {
  const event = new MouseEvent("click", { clientX: left, clientY: top });
  const { ContextMenu } = /** @type {any} */ (globalThis).LiteGraph;
  return new Promise((resolve) => {
    new ContextMenu(entries, {
      event,
      title,
      className: "dark", // the host adds its filter to menus of this class
      callback: (/** @type {any} */ entry) => {
        const place = entries.indexOf(entry);
        if (place >= 0) resolve(place);
      },
    });
  });
}
