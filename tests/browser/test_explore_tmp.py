import json, time
from pathlib import Path
def test_x(comfy):
    print("START ERRORS", comfy.errors)
    for p in sorted(Path("/work/main/workflows").glob("*.json")):
        w = json.loads(p.read_text())
        t=time.time(); comfy.open_workflow(w, p.stem); print(p.stem, time.time()-t)
        s = comfy.saved()
        a = {n["id"]: n.get("widgets_values") for n in w["nodes"]}
        b = {n["id"]: n.get("widgets_values") for n in s["nodes"]}
        for k in a:
            if a[k]!=b[k]: print("DIFF",k,a[k],b[k])
        print("ERR", comfy.errors)
        print(comfy.keep_screenshot(p.stem))
        print(comfy.evaluate("() => app.graph.nodes.filter(n => n.has_errors || !(n.type in LiteGraph.registered_node_types)).map(n => n.type)"))
        print(comfy.page.evaluate("() => [...document.querySelectorAll('[role=dialog],[role=alert]')].map(e => e.innerText.slice(0,300))"))
    print(comfy.page.evaluate("() => [...document.querySelectorAll('[data-testid]')].map(e => e.dataset.testid).slice(0,80)"))
    print(comfy.evaluate("() => Object.keys(app)"))
    assert 0
