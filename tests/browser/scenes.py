"""Small scenes that several tests set in the page."""

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
