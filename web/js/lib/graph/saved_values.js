// @ts-check
/** The values of a node's widgets as a workflow has them: a list without those of unsaved widgets. */

/**
 * Run a function that loads a node. Where the saved values are not as many as the node has widgets
 * for, its unsaved widgets of a type are away meanwhile; each comes back above the widget that it
 * stood above, which leaves a menu and the widgets that its entry brings together.
 *
 * @template T
 * @param {any} node
 * @param {any} saved the node's entry in a workflow
 * @param {string} type of the widgets
 * @param {() => T} load
 * @returns {T}
 */
export function withoutUnsaved(node, saved, type, load) {
  const widgets = [...(node.widgets ?? [])];
  const values = saved?.widgets_values;
  const kept = widgets.filter((one) => one.serialize !== false);
  if (!Array.isArray(values) || values.length === kept.length) return load();
  const away = widgets.filter((one) => one.serialize === false && one.type === type);
  for (const one of away) node.widgets.splice(node.widgets.indexOf(one), 1);
  try {
    return load();
  } finally {
    for (const one of away.reverse()) {
      const below = node.widgets.indexOf(widgets[widgets.indexOf(one) + 1]);
      node.widgets.splice(below < 0 ? node.widgets.length : below, 0, one);
    }
  }
}
