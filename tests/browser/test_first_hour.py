"""What an artist meets in the first hour, with the nodes' own values."""

from __future__ import annotations

import io
import itertools
import re
import uuid
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from craft_lora_pack.client.workflow import read_workflow
from craft_lora_pack.craft_core.starting import GUIDED_STRENGTH
from PIL import Image
from scenes import TWO_FRAMES, once

from launcher.paths import ROOT

ONCE = once("drawn")
CLIPPED = 0.4  # of a picture's channel values; burnt pictures have more
PAIR = {
    "prompt": "<c>a sks animal</c> in <s>zwx style</s>",
    "content_lora": "craft_small_world_content.safetensors",
    "style_lora": "craft_small_world_style.safetensors",
}

# The nodes that a picture needs, new and linked; of values only files, the prompt and the size.
BARE = """([sampler_type, values]) => {
    const { graph } = app
    const add = (type, place, values = {}) => {
        const node = LiteGraph.createNode(type)
        graph.add(node)
        node.pos = place
        for (const [name, value] of Object.entries(values))
            node.widgets.find((one) => one.name === name).value = value
        return node
    }
    const ckpt_name = "craft_small_world.safetensors"
    const loader = add("CheckpointLoaderSimple", [0, 0], { ckpt_name })
    const router = add("CRAFTRouter", [360, 0], values)
    const negative = add("CLIPTextEncode", [-100, 240])
    const latent = add("EmptyLatentImage", [0, 520], { width: 64, height: 64 })
    const sampler = add(sampler_type, [860, 0])
    const decode = add("VAEDecode", [1240, 0])
    const preview = add("PreviewImage", [1240, 160])
    loader.connect(0, router, "model")
    for (const node of [router, negative]) loader.connect(1, node, "clip")
    router.connect(0, sampler, "model")
    router.connect(1, sampler, "positive")
    negative.connect(0, sampler, "negative")
    latent.connect(0, sampler, "latent_image")
    sampler.connect(0, decode, "samples")
    loader.connect(2, decode, "vae")
    decode.connect(0, preview, "images")
    const id = (node) => Number(node.id)
    return { router: id(router), sampler: id(sampler), preview: id(preview) }
}"""
EMPTY = {"last_node_id": 0, "last_link_id": 0, "nodes": [], "links": [], "version": 0.4}
SET = """([id, name, value]) => {
    const widget = app.graph.getNodeById(id).widgets.find((one) => one.name === name)
    widget.value = value
    widget.callback?.(value)
}"""
VALUE = """([id, name]) =>
    app.graph.getNodeById(id).widgets.find((one) => one.name === name).value"""
TEXT = """([id, drawing]) => app.graph.getNodeById(id).widgets
    .find((one) => one.name === drawing).element.innerText"""
TRIGGER_WORDS = re.compile("/craft_lora/trigger_words")
ROUTING, REPORT = "craft_routing", "craft_report"
OPEN = """(name) => app.extensionManager.workflow.openWorkflow(
    app.extensionManager.workflow.openWorkflows.find((one) => one.key.includes(name)))"""
fresh = itertools.count(0.3, 0.01)  # only a Router that the server has not cached reports
SAVED_PICTURE = "(id) => app.nodeOutputs[id]?.images?.[0]"


@pytest.fixture(scope="module", params=["classic", "vue"])
def drawn(comfy, request) -> Iterator[str]:
    """Which way the page draws nodes."""
    with comfy.drawing(request.param):
        yield request.param


class Bare:
    """A graph of new nodes in the page, and the ids of some."""

    def __init__(self, comfy, sampler: str, **values: Any):
        self.comfy = comfy
        # The page keeps values by the ids of graph and node, so each graph needs its own id.
        comfy.open_workflow({**EMPTY, "id": str(uuid.uuid4())}, "bare")
        self.ids = comfy.evaluate(BARE, [sampler, {**PAIR, **values}])
        comfy.fit()
        comfy.evaluate(TWO_FRAMES)

    def set(self, node: str, widget: str, value: Any) -> None:
        self.comfy.evaluate(SET, [self.ids[node], widget, value])

    def value(self, node: str, widget: str) -> Any:
        return self.comfy.evaluate(VALUE, [self.ids[node], widget])

    def text(self, drawing: str = ROUTING) -> str:
        return self.comfy.evaluate(TEXT, [self.ids["router"], drawing])

    def says(self, text: str, drawing: str = ROUTING) -> None:
        """Wait until a drawing of the Router says it."""
        assert text in self.comfy.until(lambda: self.text(drawing), lambda said: text in said)

    def says_not(self, text: str, drawing: str = ROUTING) -> None:
        self.says("zwx style")  # it is drawn
        said = self.comfy.until(lambda: self.text(drawing), lambda said: text not in said)
        assert text not in said

    def picture(self, live_server) -> np.ndarray:
        assert self.comfy.run() == ["execution_success", ""]
        (shown,) = [self.comfy.evaluate(SAVED_PICTURE, self.ids["preview"])]
        where = f"/view?filename={shown['filename']}&type={shown['type']}&subfolder="
        return np.asarray(Image.open(io.BytesIO(live_server.server.client.get(where))))


@ONCE
def test_the_nodes_own_values_burn_no_picture(comfy, drawn, live_server):
    bare = Bare(comfy, "CRAFTACFGKSampler")
    pixels = bare.picture(live_server)
    comfy.keep_screenshot(f"bare_nodes_{drawn}")
    assert ((pixels == 0) | (pixels == 255)).mean() < CLIPPED


def test_strengths_that_guidance_would_burn_are_warned_of_and_set_with_a_click(comfy, drawn):
    bare = Bare(comfy, "CRAFTACFGKSampler")
    bare.says_not("pictures burn")
    bare.set("sampler", "cfg", 8.0)
    own = GUIDED_STRENGTH
    bare.says(f"Strength {own:g} times cfg 8 is {own * 8:g}; above 2, pictures burn")
    comfy.keep_screenshot(f"burns_{drawn}")
    comfy.page.get_by_role("button", name="Set to 0.2").click()
    bare.says_not("pictures burn")
    assert bare.value("router", "content_strength") == bare.value("router", "style_strength") == 0.2


def test_a_sampler_with_standard_guidance_is_named_and_replaced_with_a_click(comfy, drawn):
    bare = Bare(comfy, "KSampler")
    bare.says("KSampler: standard CFG, so the LoRAs act on both halves of guidance")
    comfy.keep_screenshot(f"standard_{drawn}")
    comfy.page.get_by_role("button", name="Use ACFG").click()
    bare.says_not("standard CFG")
    types = comfy.evaluate("() => app.graph.nodes.map((node) => node.type)")
    assert "CRAFTACFGKSampler" in types and "KSampler" not in types
    bare.says("pictures burn")  # at the cfg of the old one
    comfy.keep_screenshot(f"replaced_{drawn}")


# In place of the sampler, ComfyUI's guider whose negative prompt has the loader's own MODEL.
TWO_MODELS = """({ router, sampler }) => {
    const { graph } = app
    const [routed, old] = [router, sampler].map((id) => graph.getNodeById(id))
    const one = (type) => graph.nodes.find((node) => node.type === type)
    const loader = one("CheckpointLoaderSimple")
    const add = (type, place) => {
        const node = LiteGraph.createNode(type)
        graph.add(node)
        node.pos = place
        return node
    }
    graph.remove(old)
    const guider = add("DualModelGuider", [860, 0])
    routed.connect(0, guider, "model")
    loader.connect(0, guider, "model_negative")
    routed.connect(1, guider, "positive")
    one("CLIPTextEncode").connect(0, guider, "negative")
    const scheduler = add("BasicScheduler", [860, 200])
    scheduler.widgets.find(({ name }) => name === "steps").value = 2
    loader.connect(0, scheduler, "model")
    const custom = add("SamplerCustomAdvanced", [860, 400])
    add("RandomNoise", [860, 520]).connect(0, custom, "noise")
    guider.connect(0, custom, "guider")
    add("KSamplerSelect", [860, 620]).connect(0, custom, "sampler")
    scheduler.connect(0, custom, "sigmas")
    one("EmptyLatentImage").connect(0, custom, "latent_image")
    custom.connect(0, one("VAEDecode"), "samples")
    return Number(guider.id)
}"""
ONE_MODEL = """([router, guider]) => {
    const [from, to] = [router, guider].map((id) => app.graph.getNodeById(id))
    from.connect(0, to, "model_negative")
}"""


def test_a_guider_of_two_models_is_said_to_stop_as_it_then_does(comfy, drawn):
    bare = Bare(comfy, "KSampler")
    guider = comfy.evaluate(TWO_MODELS, bare.ids)
    line = "Dual Model CFG Guider: the sampler will stop."
    bare.says(line)
    bare.says_not("standard CFG")
    comfy.fit()
    comfy.keep_screenshot(f"two_models_{drawn}")
    end, message = comfy.run()
    assert end == "execution_error"
    comfy.dismiss_alerts()
    bare.says(f"{line} {message.strip()}")
    comfy.evaluate(ONE_MODEL, [bare.ids["router"], guider])
    bare.says_not(line)
    bare.says("Dual Model CFG Guider: standard CFG")
    assert comfy.run() == ["execution_success", ""]


@ONCE
def test_a_sampler_without_one_of_ours_is_named_without_a_click(comfy, drawn):
    bare = Bare(comfy, "KSamplerAdvanced")
    bare.says("KSampler (Advanced): standard CFG, so the LoRAs act on both halves of guidance")
    assert comfy.page.get_by_role("button", name="Use ACFG").count() == 0


# A sweep in place of the Router, with all that a sampler takes of it.
SWEEP = """({ router, sampler }) => {
    const { graph } = app
    const [old, behind] = [router, sampler].map((id) => graph.getNodeById(id))
    const loader = graph.nodes.find((node) => node.type === "CheckpointLoaderSimple")
    const sweep = LiteGraph.createNode("CRAFTMethodSweep")
    graph.add(sweep)
    sweep.pos = old.pos
    for (const name of ["prompt", "content_lora", "style_lora"])
        sweep.widgets.find((one) => one.name === name).value =
            old.widgets.find((one) => one.name === name).value
    graph.remove(old)
    loader.connect(0, sweep, "model")
    loader.connect(1, sweep, "clip")
    const to = { model: 0, positive: 1, seed: 2, asymmetric: 3, cfg: 8 }
    for (const [name, output] of Object.entries(to)) sweep.connect(output, behind, name)
    return Number(sweep.id)
}"""


def test_a_sweep_says_which_settings_burn_and_a_click_mends_them(comfy, drawn):
    bare = Bare(comfy, "CRAFTACFGKSampler")
    bare.ids["router"] = comfy.evaluate(SWEEP, bare.ids)
    bare.set("router", "methods", "craft\ndirect: guidance = cfg")
    bare.says_not("guided too far")
    bare.set("router", "cfgs", "1, 2, 8")
    bare.says("LoRAs are guided too far in 1 of 6 settings, farthest in craft, cfg 8.")
    comfy.fit()
    comfy.keep_screenshot(f"sweep_burns_{drawn}")
    comfy.page.get_by_role("button", name="Set to 0.2").click()
    bare.says_not("guided too far")
    assert bare.value("router", "content_strength") == bare.value("router", "style_strength") == 0.2


@ONCE
def test_no_strength_of_a_lora_that_is_off_is_warned_of(comfy, drawn):
    bare = Bare(comfy, "CRAFTACFGKSampler", content_strength=0.1, style_strength=3)
    bare.says("With style_strength, bring the strength to")
    bare.set("router", "prompt", "<c>a sks animal</c> in zwx style")
    bare.says("so the style LoRA is off")
    bare.says_not("pictures burn")
    assert "distort" not in bare.text()
    bare.set("router", "method", "direct")
    bare.says("pictures burn")


@ONCE
def test_quiet_lines_say_what_is_odd_about_the_loras(comfy, drawn):
    bare = Bare(comfy, "CRAFTACFGKSampler", style_lora=PAIR["content_lora"])
    bare.says(f"{PAIR['content_lora']} is both content and style")
    bare.set("router", "content_strength", 0)
    bare.says("content_strength is 0: content is off")
    bare.set("sampler", "asymmetric", False)
    bare.set("router", "style_strength", 1.75)
    bare.says("style_strength is 1.75: above 1.5, most LoRAs distort pictures")
    comfy.keep_screenshot(f"quiet_lines_{drawn}")


def test_a_node_that_fails_says_why_in_place_of_what_it_said_before(comfy, drawn):
    bare = Bare(comfy, "CRAFTACFGKSampler")
    bare.set("sampler", "steps", 1)
    bare.set("router", "style_strength", next(fresh))
    assert comfy.run() == ["execution_success", ""]
    bare.says("Method: craft.", REPORT)
    comfy.keep_screenshot(f"report_{drawn}")
    bare.set("router", "layer_sets", "custom")
    bare.set("router", "layer_sets.patterns", "content: nowhere.1")
    end, message = comfy.run()
    assert end == "execution_error"
    comfy.dismiss_alerts()
    bare.says(message.strip(), REPORT)
    assert message.count(". ") >= 2 and "Method: craft" not in bare.text(REPORT)
    comfy.keep_screenshot(f"error_{drawn}")
    bare.set("router", "layer_sets", "all")
    assert comfy.run() == ["execution_success", ""]
    bare.says("Method: craft.", REPORT)
    bare.says_not("nowhere.1", REPORT)


# The noise levels of a whole that begins below the sampler's own; the node that makes them.
ANOTHER_WHOLE = """(id) => {
    const { graph } = app
    const router = graph.getNodeById(id)
    const scheduler = LiteGraph.createNode("BasicScheduler")
    graph.add(scheduler)
    scheduler.pos = [0, 720]
    scheduler.widgets.find((one) => one.name === "denoise").value = 0.5
    graph.nodes.find((one) => one.type === "CheckpointLoaderSimple").connect(0, scheduler, "model")
    scheduler.connect(0, router, "whole_sigmas")
    return Number(scheduler.id)
}"""


def test_why_a_node_of_the_host_fails_by_the_loras_stands_on_their_router(comfy, drawn):
    bare = Bare(comfy, "KSampler")
    bare.set("sampler", "steps", 2)
    scheduler = comfy.evaluate(ANOTHER_WHOLE, bare.ids["router"])
    end, message = comfy.run()
    assert end == "execution_error"
    comfy.dismiss_alerts()
    bare.says(f"KSampler: {message.strip()}", REPORT)
    comfy.fit()
    comfy.keep_screenshot(f"host_error_{drawn}")
    comfy.evaluate(SET, [scheduler, "denoise", 1.0])
    assert comfy.run() == ["execution_success", ""]
    bare.says_not("KSampler:", REPORT)


def test_the_line_about_trigger_words_puts_them_into_the_prompt(comfy, drawn):
    words = {PAIR["content_lora"]: ["sks animal", "long tail"], PAIR["style_lora"]: []}

    def answer(route: Any) -> None:
        (name,) = (name for name in words if name in route.request.url)
        route.fulfill(json={"words": words[name]})

    other = type(comfy).load(comfy.page.context.browser, comfy.page.url, comfy.artifacts)
    with other.drawing(drawn):  # a new page: another keeps what it was told of the files
        other.page.route(TRIGGER_WORDS, answer)
        bare = Bare(other, "CRAFTACFGKSampler", prompt="<c>a fox</c> in <s>zwx style</s>")
        bare.says("was trained with “sks animal, long tail”, which is not in the content phrase.")
        other.keep_screenshot(f"words_{drawn}")
        other.page.get_by_role("button", name="Put into the prompt").click()
        bare.says_not("was trained with")
        wanted = "<c>a fox, sks animal, long tail</c> in <s>zwx style</s>"
        assert bare.value("router", "prompt") == wanted
    other.page.close()


SPEAK = "(language) => app.extensionManager.setting.set('Comfy.Locale', language)"
QUEUE = "() => app.queuePrompt(0)"
REFUSALS = """() => Object.values(app.lastNodeErrors ?? {})
    .flatMap(({ errors }) => errors.map(({ details }) => details))"""


@pytest.fixture
def in_chinese(comfy) -> Iterator[None]:
    comfy.evaluate(SPEAK, "zh")
    yield
    comfy.evaluate(SPEAK, "en")


def test_a_refused_prompt_is_explained_in_the_pages_language(comfy, drawn, in_chinese):
    bare = Bare(comfy, "CRAFTACFGKSampler")
    bare.set("sampler", "steps", 1)
    bare.set("router", "prompt", "a dog</c> in ink")
    comfy.evaluate(QUEUE)
    bare.says("没有与之对应的起始标记", REPORT)
    comfy.keep_screenshot(f"refused_{drawn}")
    details = comfy.evaluate(REFUSALS)
    assert details and all("没有与之对应的起始标记" in one for one in details)
    comfy.dismiss_alerts()
    bare.set("router", "prompt", f"{PAIR['prompt']}, {next(fresh)}")
    assert comfy.run() == ["execution_success", ""]
    bare.says("craft", REPORT)
    assert "没有与之对应的起始标记" not in bare.text(REPORT)


@ONCE
def test_a_report_shows_in_no_other_workflow_and_no_other_page(comfy, drawn, live_server):
    other = type(comfy).load(comfy.page.context.browser, live_server.url, comfy.artifacts)
    foreign = Bare(other, "CRAFTACFGKSampler")
    bare = Bare(comfy, "CRAFTACFGKSampler")
    bare.set("sampler", "steps", 1)
    bare.set("router", "style_strength", next(fresh))
    assert comfy.run() == ["execution_success", ""]
    bare.says("Method: craft.", REPORT)
    beside = Bare(comfy, "CRAFTACFGKSampler")
    assert beside.ids == bare.ids == foreign.ids
    for one in (beside, foreign):
        one.says("zwx style")
        one.says_not("Method", REPORT)
    other.page.close()


FOUND = """() => [...document.querySelectorAll(".p-autocomplete-option, [role='option']")]
    .map((one) => one.innerText)"""


@pytest.mark.parametrize(
    ("words", "title"),
    [
        ("mix loras", "Content/Style LoRA Router"),
        ("combine two loras", "Content/Style LoRA Router"),
        ("lora stack", "Content/Style LoRA Router"),
        ("style lora", "Content/Style LoRA Router"),
        ("xy plot", "Method Sweep"),
        ("xy plot", "Comparison Grid"),
        ("xy plot", "XY Grid"),
    ],
)
def test_the_pages_search_finds_the_nodes_by_what_people_ask_for(comfy, words, title):
    comfy.open_workflow({**EMPTY, "id": str(uuid.uuid4())}, "search")
    comfy.evaluate("() => { app.extensionManager.command.execute('Workspace.SearchBox.Toggle') }")
    comfy.page.locator("input:focus").wait_for()
    comfy.page.keyboard.type(words)
    found = comfy.until(lambda: comfy.evaluate(FOUND), lambda all: any(title in one for one in all))
    comfy.keep_screenshot(f"search_{words.replace(' ', '_')}")
    comfy.page.keyboard.press("Escape")
    assert any(title in one for one in found), found


@pytest.mark.parametrize("name", ["ablation_small_world", "demo_small_world"])
def test_a_template_opens_so_that_it_can_be_read(comfy, drawn, name):
    workflow = read_workflow(ROOT / "workflows" / f"{name}.json")
    open_ = "([graph, name]) => app.loadGraphData(graph, true, true, name, " \
        "{ openSource: 'template' })"  # fmt: skip
    comfy.evaluate(open_, [workflow, name])
    comfy.evaluate(TWO_FRAMES)
    comfy.keep_screenshot(f"template_{name}_{drawn}")
    assert comfy.evaluate("() => app.canvas.ds.scale") >= 0.7
    comfy.dismiss_alerts()
