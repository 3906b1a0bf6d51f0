"""Small scenes that several tests set in the page, and states of it that they wait for."""

import pytest


def once(fixture: str) -> pytest.MarkDecorator:
    """For a law that does not depend on how nodes are drawn: the classic canvas is enough."""
    ways = ["classic", pytest.param("vue", marks=pytest.mark.sweep)]
    return pytest.mark.parametrize(fixture, ways, indirect=True)


# One new node, alone in the graph and in view; where on the screen its title is.
ALONE = """(type) => {
    app.graph.clear()
    const node = LiteGraph.createNode(type)
    app.graph.add(node)
    node.pos = [500, 300]
    app.canvas.ds.reset()
    app.canvas.deselectAll()
    app.canvas.draw(true, true)
    const box = app.canvas.canvas.getBoundingClientRect()
    return [box.x + node.pos[0] + 60, box.y + node.pos[1] - 15]
}"""

# Bring all nodes into view at once; the page's own command moves the view step by step.
FIT = """() => {
    const boxes = app.canvas.graph.nodes.map(({ pos, size }) =>
        [pos[0], pos[1] - 30, pos[0] + size[0], pos[1] + size[1]])
    app.canvas.setDirty(true, true)
    if (!boxes.length) return
    const end = (pick, at) => pick(...boxes.map((box) => box[at]))
    const [left, top] = [end(Math.min, 0), end(Math.min, 1)]
    app.canvas.ds.fitToBounds([left, top, end(Math.max, 2) - left, end(Math.max, 3) - top])
}"""

# Wait until the page has drawn its present state; false if the browser does not draw it, as one in
# the background.
TWO_FRAMES = """() => new Promise((done) => {
    requestAnimationFrame(() => requestAnimationFrame(() => done(true)))
    setTimeout(() => done(false), 15_000)
})"""

# Whether each node is on the page, has the size that it is drawn in, and shows its drawing.
MEASURED = """() => app.canvas.graph.nodes.every((node) => {
    const always = ["CRAFTRouter", "CRAFTTimestepSchedule"].includes(node.type)
    const drawing = node.widgets?.find((one) => one.type === "craft_drawing")
    if (always && !(drawing?.element.isConnected && drawing.element.offsetHeight)) return false
    if (!LiteGraph.vueNodesMode) return true
    const shown = document.querySelector(`[data-node-id="${node.id}"]`)
    if (!shown) return false
    const height = shown.offsetHeight - LiteGraph.NODE_TITLE_HEIGHT
    return node.flags.collapsed || Math.abs(height - node.size[1]) <= 1
})"""

# The boxes on the nodes whose texts are not whole: what a box says, how tall it is and how tall its
# text. A note's source is there, and not seen. A run's long report has a scroll bar.
CUT_OFF = """() => [...document.querySelectorAll("[data-node-id] *, .dom-widget *")]
    .filter((one) => one.matches("textarea, .craft-panel") ||
        /auto|scroll/.test(getComputedStyle(one).overflowY))
    .filter((one) => one.checkVisibility({ opacityProperty: true }) && one.clientHeight)
    .filter((one) => one.scrollHeight > one.clientHeight + 1)
    .filter((one) => !one.matches(".craft-report") ||
        one.offsetWidth < one.clientLeft + one.clientWidth + 8) // no scroll bar
    .map((one) => [one.value ?? one.innerText, one.clientHeight, one.scrollHeight])"""

# Whether the page is done with an undo, a redo or the opening of a graph.
RESTORED = """() => {
    const tracker = app.extensionManager.workflow.activeWorkflow.changeTracker
    return !tracker._restoringState && !tracker.constructor.isLoadingGraph
}"""

# What lies over the page: dialogs and menus, the pack's and the page's own; the beginning of what
# each says.
OVERLAYS = """() => [...document.querySelectorAll(`
        dialog[open], [role=dialog], [role=alertdialog], [role=menu], .comfy-modal,
        .litecontextmenu, .litesearchbox, .graphdialog, .p-overlay-mask, .p-popover,
        .p-contextmenu, .p-tieredmenu-overlay, .p-select-overlay, .help-center-backdrop,
        [data-reka-popper-content-wrapper]`)]
    .filter((one) => one.checkVisibility())
    .map((one) => `${one.localName}.${one.className}: ${one.innerText.slice(0, 80)}`)"""

# Close what has a way to be closed; the Escape key closes the rest.
CLOSE_OVERLAYS = """() => {
    for (const one of document.querySelectorAll("dialog[open]")) one.close()
    const dialogs = app.extensionManager._p._s.get("dialog") // the page's own store
    for (const { key } of [...dialogs.dialogStack]) dialogs.closeDialog({ key })
    app.ui.dialog.close()
    LiteGraph.closeAllContextMenus()
    document.querySelector(".help-center-backdrop")?.click()
}"""
