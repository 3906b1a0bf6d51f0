"""A training in the page: its progress, what Cancel leaves, and the button that goes on."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from conftest import NOTE_THE_END, RUN_LIMIT
from scenes import TWO_FRAMES, once

ONCE = once("drawn")
EMPTY = {"last_node_id": 0, "last_link_id": 0, "nodes": [], "links": [], "version": 0.4}
STEPS = 150

# A loader, a plain picture, a training that takes some seconds, and its report.
TRAINING = """([type, values]) => {
    const { graph } = app
    const add = (type, place) => {
        const node = LiteGraph.createNode(type)
        graph.add(node)
        node.pos = place
        return node
    }
    const set = (node, name, value) => {
        const widget = node.widgets.find((one) => one.name === name)
        widget.value = value
        widget.callback?.(value)
    }
    const loader = add("CheckpointLoaderSimple", [0, 0])
    set(loader, "ckpt_name", "craft_small_world.safetensors")
    const picture = add("EmptyImage", [0, 200])
    set(picture, "width", 64)
    set(picture, "height", 64)
    const train = add(type, [400, 0])
    for (const [slot, name] of ["model", "clip", "vae"].entries())
        loader.connect(slot, train, name)
    for (const { name } of train.inputs)
        if (/^(content_|style_)?images$/.test(name)) picture.connect(0, train, name)
    for (const [name, value] of Object.entries(values)) set(train, name, value)
    const report = add("PreviewAny", [900, 0])
    train.connect(3, report, 0)
    return Number(train.id)
}"""
# What is set on either node that learns from pictures alone.
FROM_PICTURES = {
    "CRAFTLoRAFromPictures": {
        "role": "content", "trigger": "sks", "class_word": "animal", "captions": "[trigger] here",
    },
    "CRAFTPairFromPictures": {
        "content_trigger": "sks", "content_class_word": "animal", "content_captions": "[trigger]",
        "style_trigger": "zwx", "style_class_word": "style", "style_captions": "a cat in [trigger]",
    },
}  # fmt: skip
PRESS_RUN = "() => void app.queuePrompt(0)"
STOP = "() => app.api.interrupt()"
REPORT = """(id) => app.graph.getNodeById(id).widgets
    .find((one) => one.name === "craft_report").element.innerText"""
VALUES = """(id) => Object.fromEntries(app.graph.getNodeById(id).widgets
    .filter((one) => ["save_name", "resume", "size", "resize"].includes(one.name))
    .map((one) => [one.name, one.value]))"""
# What the host's own preview of a text shows.
OUTPUT = """() => app.graph.findNodesByType("PreviewAny")[0].widgets
    .map((one) => String(one.value)).join(" ")"""
SHOWN = "() => [...document.querySelectorAll('textarea')].map((one) => one.value).join(' ')"
# Of the last run: its prompt, with the workflow, and what its nodes gave.
HISTORY = """async () => {
    const runs = Object.values(await (await app.api.fetchApi("/history")).json())
    return runs.at(-1)
}"""
SET = """([id, name, value]) => {
    app.graph.getNodeById(id).widgets.find((one) => one.name === name).value = value
}"""
# Width to height of the picture that the node shows while it trains: more with a sample beside the
# loss.
PREVIEW_SHAPE = """async (id) => {
    const [url] = app.nodePreviewImages[id] ?? []
    if (!url) return 0
    const image = Object.assign(new Image(), { src: url })
    return image.decode().then(() => image.naturalWidth / image.naturalHeight, () => 0)
}"""
SPEAK = "(language) => app.extensionManager.setting.set('Comfy.Locale', language)"
LONG = 20_000  # steps; for longer than the page loads
ASKED = re.compile("/craft_lora/kept_training")
UNDO = "() => app.extensionManager.workflow.activeWorkflow.changeTracker.undo()"


@pytest.fixture(params=["classic", "vue"])
def drawn(comfy, request) -> Iterator[str]:
    with comfy.drawing(request.param):
        yield request.param


@pytest.fixture
def in_chinese(comfy) -> Iterator[None]:
    """A change of the language opens the workflow anew, as it was last saved."""
    comfy.evaluate(SPEAK, "zh")
    yield
    comfy.evaluate(SPEAK, "en")


@pytest.fixture
def training(comfy, drawn) -> Iterator[tuple[int, str]]:
    """(the node of a training that does not run yet, its save_name). Ended in the end."""
    name = f"craft/browser_{uuid.uuid4().hex[:8]}"
    comfy.open_workflow(EMPTY, "training")
    values = {
        "captions": "a <c>sks animal</c>", "layer_sets": "duolora-prior", "save_name": name,
        "rank": 2, "steps": STEPS, "warmup": 0, "precision": "fp32",
        "gradient_checkpointing": False,
    }  # fmt: skip
    node = comfy.evaluate(TRAINING, ["CRAFTTrainLoRA", values])
    comfy.fit()
    yield node, name
    comfy.evaluate(STOP)


def ends(comfy, press: Any) -> list[str]:
    """How a run ends that was begun by pressing something."""
    comfy.evaluate(NOTE_THE_END)
    press()
    comfy.page.wait_for_function("() => window.ended", timeout=RUN_LIMIT)
    return comfy.evaluate("() => window.ended")


def says(comfy, node: int, pattern: str) -> str:
    said = comfy.until(lambda: comfy.evaluate(REPORT, node), lambda text: re.search(pattern, text))
    assert re.search(pattern, said), said
    return said


@ONCE
def test_a_stopped_training_says_what_it_left_and_goes_on_with_one_click(comfy, training):
    node, name = training
    assert comfy.evaluate(VALUES, node) == {
        "save_name": name, "resume": False, "size": 0, "resize": "area",
    }  # fmt: skip

    def stop_midway() -> None:
        comfy.evaluate(PRESS_RUN)
        says(comfy, node, rf"step \d+ of {STEPS}, loss [\d.]+, about .+ left")
        comfy.evaluate(STOP)

    assert ends(comfy, stop_midway)[0] == "execution_interrupted"
    said = says(comfy, node, rf"Stopped after step (\d+) of {STEPS}\. Kept: output/loras/{name}_")
    done = re.search(r"step (\d+)", said)[1]
    comfy.keep_screenshot("training_stopped")
    button = comfy.page.get_by_role("button", name="Resume")
    assert ends(comfy, button.click) == ["execution_success", ""]
    assert comfy.evaluate(VALUES, node)["resume"] is True
    assert button.count() == 0
    says(comfy, node, f"step {STEPS} of {STEPS}")
    assert f"{done} of them resumed" in comfy.evaluate(OUTPUT)
    comfy.evaluate(UNDO)
    comfy.becomes("(id) => app.graph.getNodeById(id).widgets.find("
                  "(one) => one.name === 'resume').value", False, node)  # fmt: skip


@ONCE
@pytest.mark.parametrize("node_type", FROM_PICTURES)
def test_a_lora_is_learned_from_pictures_and_trigger_words_alone(comfy, drawn, node_type):
    """Pictures, triggers and captions on one node; it is stopped, and goes on, as any training."""
    name = f"craft/browser_{uuid.uuid4().hex[:8]}"
    comfy.open_workflow(EMPTY, "from_pictures")
    values = FROM_PICTURES[node_type] | {
        "layer_sets": "duolora-prior", "effort": "quick", "save_name": name,
    }  # fmt: skip
    node = comfy.evaluate(TRAINING, [node_type, values])
    comfy.fit()
    running = r"step (\d+) of 300, loss [\d.]+, about .+ left"

    def stopped(press: Any) -> int:
        def stop_midway() -> None:
            press()
            says(comfy, node, running)
            comfy.evaluate(STOP)

        assert ends(comfy, stop_midway)[0] == "execution_interrupted"
        said = says(comfy, node, rf"Stopped after step \d+ of 300\. Kept: output/loras/{name}")
        return int(re.search(r"step (\d+)", said)[1])

    done = stopped(lambda: comfy.evaluate(PRESS_RUN))
    comfy.keep_screenshot(f"stopped_{node_type}")
    prompt = comfy.evaluate(HISTORY)["prompt"][2][str(node)]["inputs"]
    assert {key: prompt[key] for key in values} == values
    assert stopped(comfy.page.get_by_role("button", name="Resume").click) > done
    assert comfy.our_errors() == []


@ONCE
def test_a_stopped_training_is_offered_again_when_the_page_is_loaded_again(comfy, training):
    node, name = training

    def stop_early() -> None:
        comfy.evaluate(PRESS_RUN)
        says(comfy, node, rf"step \d+ of {STEPS}")
        comfy.evaluate(STOP)

    assert ends(comfy, stop_early)[0] == "execution_interrupted"
    done = int(re.search(r"step (\d+)", says(comfy, node, r"Stopped after step \d+"))[1])
    comfy.reload()
    says(comfy, node, rf"Stopped after step {done} of {STEPS}\. Resume goes on from there\.")
    comfy.keep_screenshot("training_stopped_reloaded")
    button = comfy.page.get_by_role("button", name="Resume")

    comfy.evaluate(SET, [node, "save_name", f"{name}_other"])  # of which nothing is kept
    comfy.until(button.count, lambda count: count == 0)
    assert button.count() == 0
    comfy.evaluate(SET, [node, "save_name", name])
    comfy.evaluate(SET, [node, "steps", done + 2])
    says(comfy, node, rf"Stopped after step {done} of {done + 2}\.")
    assert ends(comfy, button.click) == ["execution_success", ""]
    says(comfy, node, f"step {done + 2} of {done + 2}")
    assert f"{done} of them resumed" in comfy.evaluate(OUTPUT)

    with comfy.page.expect_response(ASKED) as asked:
        comfy.reload()
    assert asked.value.json() == {"kept": None}  # it has all its steps
    comfy.evaluate(TWO_FRAMES)
    assert button.count() == 0
    assert comfy.our_errors() == []


@ONCE
def test_a_page_that_is_loaded_again_while_a_training_runs_follows_it_stops_it_and_goes_on(
    comfy, training
):
    node, _ = training
    running = rf"step (\d+) of {LONG}, loss [\d.]+, about .+ left"
    button = comfy.page.get_by_role("button", name="Resume")
    stop = comfy.page.get_by_role("button", name="Stop and keep what is done")

    def stopped() -> int:
        assert ends(comfy, stop.click)[0] == "execution_interrupted"
        said = says(comfy, node, rf"Stopped after step \d+ of {LONG}\. Kept: .*Resume goes on")
        comfy.until(stop.count, lambda count: count == 0)
        assert stop.count() == 0
        return int(re.search(r"step (\d+)", said)[1])

    comfy.evaluate(SET, [node, "steps", LONG])
    comfy.evaluate(SET, [node, "sample_every", 25])
    comfy.evaluate(PRESS_RUN)
    before = int(re.search(running, says(comfy, node, running))[1])
    alone = comfy.until(lambda: comfy.evaluate(PREVIEW_SHAPE, node), bool)
    assert alone
    comfy.reload()
    shown = int(re.search(running, says(comfy, node, running))[1])
    assert shown >= before
    shape = comfy.until(lambda: comfy.evaluate(PREVIEW_SHAPE, node), lambda it: it > alone + 0.5)
    assert shape > alone + 0.5
    comfy.keep_screenshot("training_reloaded_while_it_runs")
    done = stopped()
    assert done >= shown

    button.click()
    further = comfy.until(lambda: comfy.evaluate(REPORT, node), lambda it: re.match(running, it))
    assert int(re.match(running, further)[1]) > done
    comfy.reload()
    says(comfy, node, running)
    done = stopped()
    comfy.reload()
    comfy.evaluate(SET, [node, "steps", done + 2])
    says(comfy, node, rf"Stopped after step {done} of {done + 2}\.")
    assert ends(comfy, button.click) == ["execution_success", ""]
    assert f"{done} of them resumed" in comfy.evaluate(OUTPUT)
    assert comfy.our_errors() == []


@ONCE
def test_a_training_says_its_progress_and_what_it_left_in_chinese(comfy, in_chinese, training):
    node, name = training
    stop = comfy.page.get_by_role("button", name="停止并保留已完成的部分")

    def stop_midway() -> None:
        comfy.evaluate(SET, [node, "steps", LONG])
        comfy.evaluate(PRESS_RUN)
        says(comfy, node, rf"第 \d+ / {LONG} 步，损失 [\d.]+，约剩 \d+ (秒|分钟|小时)")
        comfy.keep_screenshot("training_in_chinese")
        stop.click()

    assert ends(comfy, stop_midway)[0] == "execution_interrupted"
    kept = rf"已停在第 \d+ / {LONG} 步。已保存：output/loras/{name}_\d+_\.safetensors，"
    says(comfy, node, rf"{kept}可像训练完成的文件一样加载。“继续训练”可从那里接着训练。")

    comfy.evaluate(SET, [node, "steps", STEPS])
    assert ends(comfy, lambda: comfy.evaluate(PRESS_RUN)) == ["execution_success", ""]
    shown = comfy.until(lambda: comfy.evaluate(SHOWN), lambda text: "损失" in text)
    assert re.search(rf"已保存 \S+：{STEPS} 步；每步 \d+ 毫秒\n损失", shown), shown
    comfy.keep_screenshot("training_report_in_chinese")
    assert "毫秒" not in json.dumps(comfy.evaluate(HISTORY), ensure_ascii=False)
    assert comfy.our_errors() == []
