"""The shipped workflows run in a real server, which refuses a wrong prompt before it runs.

A workflow that names files we do not ship runs with the small world's, and all run few steps.
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from craft_lora_pack.client.client import PromptResult
from craft_lora_pack.client.errors import RemoteError
from craft_lora_pack.client.widgets import widget_values
from craft_lora_pack.client.workflow import read_workflow
from PIL import Image
from small_world_models import CHECKPOINT, CONTENT, STYLE
from workflow_prompts import FOLDER, STEPS, base_folder, ids, in_few_steps, inputs, linked, refusal

from launcher.run.workspace import REFERENCES

WORKFLOWS = sorted(FOLDER.glob("*.json"))
DEMO = FOLDER / "demo_small_world.json"
FUSION = FOLDER / "fusion_sdxl.json"
ABLATION = FOLDER / "ablation_small_world.json"
PAIRS = FOLDER / "pair_building_small_world.json"
TRAINING = FOLDER / "training_small_world.json"
EXTENSION = FOLDER / "semantic_extension_small_world.json"
COMPARISON = FOLDER / "method_comparison_small_world.json"
FILES = FOLDER / "fuse_to_file_small_world.json"
MERGES = FOLDER / "learned_merge_small_world.json"
ROLE = FOLDER / "role_guidance_small_world.json"
WEIGHTS = FOLDER / "role_weights_small_world.json"
HIRES = FOLDER / "hires_second_pass_small_world.json"
BEST = FOLDER / "find_best_small_world.json"
XY = FOLDER / "xy_small_world.json"
WAN = FOLDER / "wan22_two_experts.json"
SAVED = {
    DEMO: 5,
    FUSION: 1,
    ABLATION: 1,
    PAIRS: 1,
    TRAINING: 4,
    EXTENSION: 16,
    COMPARISON: 3,
    FILES: 16,
    MERGES: 12,
    ROLE: 1,
    WEIGHTS: 2,
    HIRES: 2,
    BEST: 5,
    XY: 2,
    WAN: 0,  # it saves a video
}  # pictures that each one saves
LEAST_SIDE = 128  # pixels: the classic canvas draws no picture larger than it is
TWINS = {FILES: 4}  # pictures that may come out the same: at run time, and from an exact file
NOTES = {"Note", "MarkdownNote"}
MAIN_NODES = {
    "CRAFTLoadRankLimitedUNet",
    "CRAFTRouter",
    "CRAFTTimestepSchedule",
    "CRAFTACFGKSampler",
    "CRAFTPairBuilder",
}
PROMPT = "<c>a sks animal</c> in <s>zwx style</s>"
STAND_INS = {
    "ckpt_name": CHECKPOINT,
    "source.ckpt_name": CHECKPOINT,
    "content_lora": CONTENT,
    "style_lora": STYLE,
    "prompt": PROMPT,
    "width": 64,
    "height": 64,
}
MISSPELT = "crfat"

every_workflow = pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
every_running = pytest.mark.parametrize(  # test_wan22_workflow.py runs the other one
    "path", [path for path in WORKFLOWS if path != WAN], ids=lambda path: path.stem
)


def with_our_files(prompt: dict[str, Any]) -> dict[str, Any]:
    for node in prompt.values():
        for name in STAND_INS.keys() & node["inputs"].keys():
            if not linked(node["inputs"][name]):
                node["inputs"][name] = STAND_INS[name]
    return prompt


def runnable(live_server, path: Path) -> dict[str, Any]:
    """The workflow's prompt, quick, and with weights that are there."""
    prompt = in_few_steps(live_server.prompt_of(path))
    return prompt if path.stem.endswith("small_world") else with_our_files(prompt)


def is_a_picture(image: np.ndarray) -> bool:
    """More than a plain area and a margin. (The host saves NaN as black.)"""
    return len(np.unique(image.reshape(-1, 3), axis=0)) > 16


@pytest.fixture(scope="module")
def ran(live_server):
    """Run a workflow once and remember what it gave."""
    done: dict[Path, tuple[dict[str, Any], PromptResult]] = {}

    def run(path: Path) -> tuple[dict[str, Any], PromptResult]:
        if path not in done:
            prompt = runnable(live_server, path)
            done[path] = prompt, live_server.run(prompt)
        return done[path]

    return run


# The files


def test_the_promised_workflows_are_shipped_and_no_others():
    assert set(WORKFLOWS) == SAVED.keys()


@every_workflow
def test_a_workflow_explains_itself_in_a_note(path):
    notes = [node for node in read_workflow(path)["nodes"] if node["type"] == "MarkdownNote"]
    assert notes and all(node["widgets_values"][0].strip() for node in notes)


@every_workflow
def test_a_workflow_has_a_thumbnail(path):
    with Image.open(path.with_suffix(".jpg")) as picture:
        assert picture.format == "JPEG" and min(picture.size) >= 64


def test_all_five_main_nodes_are_in_the_demo():
    assert {node["type"] for node in read_workflow(DEMO)["nodes"]} >= MAIN_NODES


@every_workflow
def test_the_server_has_every_node_slot_and_link_of_a_workflow(live_server, path):
    workflow, info = read_workflow(path), live_server.object_info()
    nodes = {node["id"]: node for node in workflow["nodes"]}
    assert {node["type"] for node in nodes.values()} - NOTES <= info.keys()
    assert len(workflow["links"]) > 0
    for _, origin, slot, target, entry, kind in workflow["links"]:
        assert info[nodes[origin]["type"]]["output"][slot] == kind
        taken = nodes[target]["inputs"][entry]["type"].split(",")
        assert kind in taken or taken == ["*"]


@every_workflow
def test_the_server_has_every_widget_of_a_workflow_and_a_value_for_each(live_server, path):
    info = live_server.object_info()
    for node in read_workflow(path)["nodes"]:
        if node["type"] not in NOTES:
            entries = [entry for entry in node.get("inputs") or [] if entry.get("widget")]
            shown = {e["name"] for e in entries if e["type"] != "IMAGEUPLOAD"}  # a button
            assert shown == widget_values(node, info[node["type"]]).keys(), node["type"]


@pytest.mark.parametrize("path", [TRAINING, MERGES], ids=lambda path: path.stem)
def test_a_workflow_that_trains_leaves_the_precision_to_the_device(live_server, path):
    given = [node["inputs"] for node in live_server.prompt_of(path).values()]
    assert {one["precision"] for one in given if "precision" in one} == {"auto"}


@every_workflow
def test_every_link_of_a_workflow_reaches_the_prompt(live_server, path):
    workflow, prompt = read_workflow(path), live_server.prompt_of(path)
    nodes = {node["id"]: node for node in workflow["nodes"]}
    for _, origin, slot, target, entry, _ in workflow["links"]:
        name = nodes[target]["inputs"][entry]["name"]
        assert prompt[str(target)]["inputs"][name] == [str(origin), slot]


# Running them


@every_running
def test_a_workflow_runs_to_its_pictures_and_no_two_are_the_same(live_server, ran, path):
    prompt, result = ran(path)
    assert all(result.outputs[node]["images"] for node in ids(prompt, "SaveImage"))
    pictures = live_server.images(result)
    assert len(pictures) == SAVED[path]
    assert all(is_a_picture(image) for image in pictures)
    if path.stem.endswith("small_world"):
        assert min(min(image.shape[:2]) for image in pictures) >= LEAST_SIDE
    different = len({image.tobytes() for image in pictures})
    assert len(pictures) - TWINS.get(path, 0) <= different <= len(pictures)
    assert "invalid value encountered" not in live_server.log()  # what NaN makes of a picture


def test_the_exact_file_gives_the_pictures_of_the_run_time(live_server, ran):
    prompt, result = ran(FILES)
    saved = {prompt[node]["inputs"]["filename_prefix"]: node for node in ids(prompt, "SaveImage")}

    def pictures(name: str) -> np.ndarray:
        node = saved[f"craft/fused_{name}"]
        own = replace(result, outputs={node: result.outputs[node]})
        return np.stack(live_server.images(own)).astype(int)

    at_run_time, exact, ties = map(pictures, ("at_run_time", "direct", "ties"))
    assert np.abs(exact - at_run_time).mean() < 1 < np.abs(ties - at_run_time).mean()


def test_the_four_pictures_of_the_ablation_differ(live_server, ran):
    _, result = ran(ABLATION)
    (sheet,) = live_server.images(result)
    height, width = (side // 2 for side in sheet.shape[:2])
    left, right = slice(0, width - 16), slice(width + 16, None)
    top, bottom = slice(0, height - 16), slice(height + 16, None)
    panels = [sheet[rows, columns] for rows in (top, bottom) for columns in (left, right)]
    assert len({panel.tobytes() for panel in panels}) == 4


def test_the_pairs_are_saved_as_a_dataset_that_the_host_reads_back(live_server, ran):
    prompt, _ = ran(PAIRS)
    name = inputs(prompt, "SaveImageTextDataSetToFolder")["folder_name"]
    saved = base_folder(live_server) / "output" / name
    written = {
        text.read_text("utf-8"): np.asarray(Image.open(text.with_suffix(".png")).convert("RGB"))
        for text in saved.glob("*.txt")
    }
    contents, styles = (
        [text.read_text("utf-8").strip() for text in (REFERENCES / side).glob("*.txt")]
        for side in ("content", "style")
    )
    assert len(contents) == len(styles) == 4
    assert written.keys() == {f"{c} in {s}" for c in contents for s in styles}
    assert all(is_a_picture(image) for image in written.values())

    shutil.copytree(saved, base_folder(live_server) / "input" / name, dirs_exist_ok=True)
    load = {"class_type": "LoadImageTextDataSetFromFolder", "inputs": {"folder": name}}
    preview = {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}}
    texts = {"class_type": "PreviewAny", "inputs": {"source": ["1", 1]}}
    result = live_server.run({"1": load, "2": preview, "3": texts})
    read = dict(zip(result.outputs["3"]["text"], live_server.images(result), strict=True))
    assert read.keys() == written.keys()
    for caption, image in written.items():
        assert np.abs(read[caption].astype(int) - image).max() <= 1  # the host rounds down


# What is wrong is said


@pytest.mark.parametrize(
    ("prompt_text", "sentence"),
    [
        ("a </c> dog", "The prompt has </c> at character 3 with no marker to close."),
        ("<c></c> a dog", "The marker <c> at character 1 marks no words."),
        ("<c>a <s>dog</s></c>", "Move </c> before <s>."),
    ],
)
def test_a_wrongly_marked_prompt_is_answered_before_queueing(live_server, prompt_text, sentence):
    prompt = runnable(live_server, FUSION)
    inputs(prompt, "CRAFTRouter")["prompt"] = prompt_text
    said = refusal(live_server, prompt)
    assert "(CRAFTRouter)" in said and sentence in said


def test_a_caption_template_with_an_unknown_name_is_answered_before_queueing(live_server):
    prompt = runnable(live_server, PAIRS)
    inputs(prompt, "CRAFTPairBuilder")["caption_template"] = "{contents} in {style}"
    assert "{contents}" in refusal(live_server, prompt)


@pytest.mark.parametrize("menu", ["method", "layer_sets"])
def test_an_unknown_entry_of_a_router_menu_is_answered_before_queueing(live_server, menu):
    prompt = runnable(live_server, FUSION)
    inputs(prompt, "CRAFTRouter")[menu] = MISSPELT
    said = refusal(live_server, prompt)
    assert menu in said and "Error" not in said


def test_an_unknown_shape_of_a_schedule_is_answered_before_queueing(live_server):
    prompt = runnable(live_server, FUSION)
    inputs(prompt, "CRAFTTimestepSchedule")["shape"] = MISSPELT
    said = refusal(live_server, prompt)
    assert "shape" in said and "Error" not in said


def test_an_unknown_mode_of_the_pair_builder_is_answered_before_queueing(live_server):
    prompt = runnable(live_server, PAIRS)
    inputs(prompt, "CRAFTPairBuilder")["mode"] = MISSPELT
    said = refusal(live_server, prompt)
    assert "mode" in said and "Error" not in said


def test_an_unknown_source_of_the_rank_limited_model_is_answered_before_queueing(live_server):
    prompt = runnable(live_server, FUSION)
    basis = live_server.object_info()["CRAFTLoadRankLimitedUNet"]["input"]["required"]["basis"]
    limited = {"source": MISSPELT, "basis": basis[1]["options"][0], "which": "both", "strength": 1}
    prompt["limited"] = {"class_type": "CRAFTLoadRankLimitedUNet", "inputs": limited}
    inputs(prompt, "CRAFTRouter")["model"] = ["limited", 0]
    said = refusal(live_server, prompt)
    assert "source" in said and "Error" not in said


@pytest.mark.parametrize(
    ("patterns", "sentence"),
    [
        ("content: up_blocks.77", "No content pattern matches this model: up_blocks.77."),
        ("contents up_blocks.0", "contents up_blocks.0"),
    ],
)
def test_a_failing_run_says_why_and_the_next_one_works(live_server, patterns, sentence):
    prompt = runnable(live_server, FUSION)
    menu = {"layer_sets": "custom", "layer_sets.patterns": patterns}
    inputs(prompt, "CRAFTRouter").update(menu)
    with pytest.raises(RemoteError, match=r"\(CRAFTRouter\) failed: ") as failed:
        live_server.run(prompt)
    assert sentence in str(failed.value) and "Error" not in str(failed.value)

    (image,) = live_server.images(live_server.run(runnable(live_server, FUSION)))
    assert is_a_picture(image)


def test_a_prompt_from_before_the_guidance_menu_makes_the_same_picture(live_server):
    prompt = runnable(live_server, FUSION)
    pictures = []
    for given in ({"guidance": "acfg/cfg"}, {}):
        inputs(prompt, "CRAFTACFGKSampler").pop("guidance", None)
        inputs(prompt, "CRAFTACFGKSampler").update(given)
        pictures.append(live_server.images(live_server.run(prompt))[0])
    assert np.array_equal(*pictures)


def test_role_guidance_works_where_cfg_is_1_and_says_nothing_against_it(live_server):
    prompt = runnable(live_server, FUSION)
    menu = {"guidance": "role", "guidance.content_weight": 2.0, "guidance.style_weight": 1.5}
    menu |= {"guidance.weight": 1.0, "guidance.norm": "off", "cfg": 1.0}
    plain = live_server.images(live_server.run(prompt))[0]
    inputs(prompt, "CRAFTACFGKSampler").update(menu)
    before = len(live_server.log())
    (image,) = live_server.images(live_server.run(prompt))
    assert is_a_picture(image) and not np.array_equal(image, plain)
    assert "At cfg 1" not in live_server.log()[before:]


def test_an_unknown_guidance_is_answered_with_those_that_there_are(live_server):
    prompt = runnable(live_server, FUSION)
    inputs(prompt, "CRAFTACFGKSampler")["guidance"] = MISSPELT
    with pytest.raises(RemoteError) as failed:
        live_server.run(prompt)
    said = f"{MISSPELT!r} is no guidance. Known are acfg/cfg, role, weak"
    assert said in str(failed.value)


@pytest.mark.parametrize(
    ("kind", "name", "value", "sentence"),
    [
        ("CRAFTRouter", "prompt", "<c>a sks animal</c>", "The prompt has no <s>"),
        ("CRAFTACFGKSampler", "cfg", 1.0, "At cfg 1 most samplers run no unconditional pass"),
        ("CRAFTACFGKSampler", "model", ["1", 0], "This MODEL carries no routed LoRAs"),
    ],
)
def test_a_warning_is_logged_and_does_not_stop_the_run(live_server, kind, name, value, sentence):
    prompt = runnable(live_server, FUSION)
    inputs(prompt, kind)[name] = value
    before = len(live_server.log())
    (image,) = live_server.images(live_server.run(prompt))
    assert is_a_picture(image)
    assert sentence in live_server.log()[before:]


def test_an_interrupted_run_leaves_the_model_as_it_was(live_server):
    client = live_server.server.client
    loader, sampler = "1", "plain"

    def plain(denoise: float) -> dict[str, Any]:
        """The host's own sampler on the loader's model."""
        nodes = {
            loader: ("CheckpointLoaderSimple", {"ckpt_name": CHECKPOINT}),
            "text": ("CLIPTextEncode", {"clip": [loader, 1], "text": "a cat in ink style"}),
            "none": ("CLIPTextEncode", {"clip": [loader, 1], "text": ""}),
            "empty": ("EmptyLatentImage", {"width": 64, "height": 64, "batch_size": 1}),
            sampler: (
                "KSampler",
                {
                    "model": [loader, 0], "positive": ["text", 0], "negative": ["none", 0],
                    "latent_image": ["empty", 0], "seed": 5, "steps": STEPS, "cfg": 4.0,
                    "sampler_name": "euler", "scheduler": "normal", "denoise": denoise,
                },
            ),
            "decode": ("VAEDecode", {"samples": [sampler, 0], "vae": [loader, 2]}),
            "save": ("SaveImage", {"images": ["decode", 0], "filename_prefix": "plain"}),
        }  # fmt: skip
        return {
            name: {"class_type": kind, "inputs": given} for name, (kind, given) in nodes.items()
        }

    (before,) = live_server.images(live_server.run(plain(1.0)))

    routed = runnable(live_server, FUSION)
    assert ids(routed, "CheckpointLoaderSimple") == [loader]
    inputs(routed, "CRAFTACFGKSampler")["steps"] = 10000
    stopped_at: list[int] = []

    def interrupt_at_the_third_step(kind: str, data: dict[str, Any]) -> None:
        if kind == "progress" and data["value"] >= 3 and not stopped_at:
            stopped_at.append(data["value"])
            client.interrupt()

    with pytest.raises(RemoteError, match="interrupted"):
        client.run(routed, show=interrupt_at_the_third_step, limit=600)
    assert stopped_at and stopped_at[0] < 10000

    cached: set[str] = set()

    def note_cached(kind: str, data: dict[str, Any]) -> None:
        if kind == "execution_cached":
            cached.update(data["nodes"])

    # The host takes a denoise above 0.9999 as 1, but runs the node again.
    again = client.run(plain(0.99995), show=note_cached, limit=600)
    assert loader in cached and sampler not in cached  # the same model, sampled again
    (after,) = live_server.images(again)
    assert is_a_picture(before) and np.array_equal(after, before)
