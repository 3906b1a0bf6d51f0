"""What the nodes themselves say of a run is shown in Chinese, none of its words left in English."""

from __future__ import annotations

import json
import re
import subprocess
import time
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import comfy.model_management
import nodes
import pytest
import small_world_models as small
import torch
from craft_lora_pack.comfy_adapter.guide.acfg import objections
from craft_lora_pack.comfy_adapter.model.lora_files import BranchFile
from craft_lora_pack.comfy_adapter.pairs.modes import GENERATE, MIX, REFERENCES
from craft_lora_pack.comfy_adapter.score.scoring import ROLES
from craft_lora_pack.comfy_adapter.score.vision import CROPS, VisionEncoder
from craft_lora_pack.comfy_adapter.train.data import marked_captions, training_images
from craft_lora_pack.comfy_adapter.train.precision import decide
from craft_lora_pack.comfy_adapter.train.run import PageWatch, StoppedTraining
from craft_lora_pack.comfy_adapter.train.start import start_training
from craft_lora_pack.comfy_adapter.train.train import Captioned, FilledSlots, How, ModelParts
from craft_lora_pack.comfy_adapter.use import kept_cells, search_journal
from craft_lora_pack.comfy_adapter.use.fuse_file import FuseRequest, fuse_branches
from craft_lora_pack.comfy_adapter.use.router import with_own_loras
from craft_lora_pack.comfy_adapter.use.search_report import (
    Outcome,
    Stop,
    TriedSetting,
    search_report,
)
from craft_lora_pack.craft_core.errors import CraftError
from craft_lora_pack.craft_core.evaluation import Point, mean_score
from craft_lora_pack.craft_core.evaluation.pair_columns import HARMONIC
from craft_lora_pack.craft_core.fusion import FUSION
from craft_lora_pack.craft_core.guidance import GUIDANCE
from craft_lora_pack.craft_core.guidance.reach import Guided, overdriven_places
from craft_lora_pack.craft_core.lora.stated_scales import stated_scales_note
from craft_lora_pack.craft_core.lora.storage import KIND
from craft_lora_pack.craft_core.search import Setting, settings_of
from craft_lora_pack.craft_core.tensor_file import read
from craft_lora_pack.craft_core.training import LEARNED, TRAINING
from craft_lora_pack.craft_core.training.slots import NO_FILE, TEXT, PictureSlot
from craft_lora_pack.nodes import NODES, compare, router, score
from craft_lora_pack.nodes.compare import MethodSweep, XYGrid
from craft_lora_pack.nodes.pair_builder import PairBuilder
from craft_lora_pack.nodes.router import Router
from craft_lora_pack.nodes.score import ContentStyleScore, FindBest
from playwright._impl._driver import compute_driver_executable

from launcher.paths import ROOT
from small_world.judge_node import SmallWorldJudge

PREVIEWS = ROOT / "web" / "js" / "lib" / "page" / "previews.js"
# Texts that a node gives for other nodes and for programs: no preview of the page translates them.
FOR_OTHERS = {
    "captions", "clean_prompt", "columns", "content captions", "json", "preset", "rows",
    "style captions",
}  # fmt: skip
NODE, _ = compute_driver_executable()  # node as the browser tier brings it
SCRIPT = ROOT / "tests" / "web" / "say_of_server.mjs"
PROMPT = "<c>a sks animal</c> in <s>zwx style</s>"
LORAS = {"content_lora": small.CONTENT, "style_lora": small.STYLE}
ALL = {"layer_sets": {"layer_sets": "all"}}
SAMPLING = {"steps": 1, "cfg": 2.0, "sampler_name": "euler", "scheduler": "normal"}
ENGLISH = re.compile(r"(?<![\w./'-])[a-z]+ (?:[a-z]+ )+[a-z]+")  # three words in a row
CLEAN = (  # prompts, which stay as they are
    "a sks animal in zwx style",
    "a sks animal in ink",
    "a photo of sks dog",
)


def in_chinese(texts: list[str]) -> list[str]:
    done = subprocess.run(
        [NODE, str(SCRIPT)], input=json.dumps(texts), capture_output=True, text=True, cwd=ROOT,
        check=False, encoding="utf-8",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


def assert_in_chinese(texts: list[str]) -> None:
    assert texts
    for english, said in zip(texts, in_chinese(texts), strict=True):
        for line, own in zip(english.split("\n"), said.split("\n"), strict=True):
            rest = own
            for prompt in CLEAN:
                rest = rest.replace(prompt, "")
            assert not re.search("[A-Za-z]", line) or re.search(r"[\u4e00-\u9fff]", own), line
            assert not ENGLISH.search(rest), own


@pytest.fixture(scope="module")
def world():
    return small.load()


def empty_latent() -> Any:
    return nodes.EmptyLatentImage().generate(64, 64)[0]


def trained(monkeypatch, steps: int, seconds: float, warning: str) -> list[str]:
    """What a training whose steps take so many seconds tells the page, stopped in the end."""
    said: list[str] = []
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    shown = PageWatch(steps, lambda text, **more: said.append(text))
    shown.warn(warning)
    for step in range(1, steps + 1):
        now[0] += seconds
        pace = SimpleNamespace(steps=steps)
        shown(SimpleNamespace(step=step, losses=[0.25], pace=pace))
    for resume, earlier in (("craft/dog", False), ("craft/dog", True), ("", False)):
        file = "loras/craft/dog_00001_.safetensors"
        shown.kept(StoppedTraining(file, steps // 2, steps, resume, earlier))
    return said


def test_the_progress_of_a_training_and_what_it_left(monkeypatch):
    monkeypatch.setattr(comfy.model_management, "should_use_bf16", lambda device: False)
    slow = decide("bf16", torch.device("cuda:0")).warning
    for seconds in (3.0, 200.0):
        assert_in_chinese(trained(monkeypatch, 40, seconds, slow))
    line = "step 120 of 400, loss 0.2500, about 14 min left"
    left = "step 1 of 400, loss 0.2500, about 2 h 30 min left"
    kept = (
        "Stopped after step 40 of 400. Kept: output/loras/craft/dog_00001_.safetensors, which "
        "loads like a whole one. Resume goes on from there."
    )
    assert in_chinese([line, left, kept]) == [
        "第 120 / 400 步，损失 0.2500，约剩 14 分钟",
        "第 1 / 400 步，损失 0.2500，约剩 2 小时 30 分钟",
        "已停在第 40 / 400 步。已保存：output/loras/craft/dog_00001_.safetensors，"
        "可像训练完成的文件一样加载。“继续训练”可从那里接着训练。",
    ]


def test_the_progress_of_a_grid_and_what_is_done_when_it_is_stopped(world, tmp_path, monkeypatch):
    said: list[str] = []
    stop_at = ["cell 3"]
    monkeypatch.setattr(kept_cells, "_root", lambda: tmp_path)

    def tell(node: Any, text: str, grid: Any) -> None:
        said.append(text)
        if text.startswith(tuple(stop_at)):
            raise comfy.model_management.InterruptProcessingException

    monkeypatch.setattr(compare, "tell", tell)

    def grid() -> None:
        with torch.inference_mode():
            XYGrid.execute(
                world.model, world.clip, world.vae, world.encode(""), empty_latent(),
                prompt="a sks animal in <s>zwx style</s>", x_axis="seed: 1, 2",
                y_axis="strength: 0.5, 1", content_strength=1, style_strength=1, seed=1, cell=64,
                method={"method": "craft"}, guidance={"guidance": "acfg"}, **LORAS, **ALL,
                **SAMPLING,
            )  # fmt: skip

    with pytest.raises(comfy.model_management.InterruptProcessingException):
        grid()
    stop_at.clear()
    grid()
    assert any(text.startswith("Stopped: ") for text in said)
    assert any("made again" in text for text in said)
    assert "4 cells are done." in said[-1]
    assert_in_chinese(said)


def test_the_progress_and_the_report_of_a_search(world, tmp_path, monkeypatch):
    said: list[str] = []
    monkeypatch.setattr(search_journal, "_folder", lambda: tmp_path)
    monkeypatch.setattr(score, "tell", lambda _, text, preset="": said.append(text))
    judges = SmallWorldJudge.execute("first").result
    with torch.inference_mode():
        FindBest.execute(
            world.model, world.clip, world.vae, world.encode(""), empty_latent(),
            prompt=PROMPT, methods="craft", guidances="acfg", strengths="0.5, 1",
            schedules="constant", content_weight=0.5, budget=4, first_seed=1,
            clip_vision=judges[0], style_clip_vision=judges[1],
            content_reference=torch.rand(1, 64, 64, 3), style_reference=torch.rand(1, 64, 64, 3),
            **LORAS, **ALL, **SAMPLING,
        )  # fmt: skip
    *progress, report = said
    assert progress and all(" pictures; best so far: " in text for text in progress)
    for text in in_chinese(progress):
        assert re.match(r"已完成 \d+ 张图，最多 \d+ 张；目前最佳：", text)
    assert report.startswith("Best: ") and "\nPrompt as encoded: " in report  # with the Router's
    assert_in_chinese([report])


@pytest.mark.parametrize("crop", CROPS)
@pytest.mark.parametrize("kind", ["clip_vision_model", "siglip_vision_model", "dinov2"])
@pytest.mark.parametrize("size", [224, 0])
def test_every_form_of_the_report_of_a_search(kind, crop, size):
    encoder = VisionEncoder(vision(kind, size), crop)
    first, other = settings_of("craft", "acfg", "0.5, 1", "constant", ("auto",), GUIDANCE)[:2]
    rows = [tried(setting) for setting in (first, other)]
    for best, found, gain in (
        (first, first, None), (first, other, tried(other).together),
        (other, other, tried(other).together),
    ):  # fmt: skip
        outcome = Outcome(
            best, found, first, rows, rows, gain, 0.5, 12, 2, 9, dict.fromkeys(ROLES, encoder)
        )
        early = [replace(outcome, stop=Stop(64, goes_on)) for goes_on in (True, False)]
        uncompared = replace(early[0], best=other, found=other, gain=None)
        assert_in_chinese([search_report(one) for one in (outcome, *early, uncompared)])


def vision(kind: str, size: int) -> Any:
    """What Load CLIP Vision gives, as far as an encoder's name and preparation need it."""
    config = {"num_hidden_layers": 2, "hidden_size": 8, "num_patches": 4}
    if kind == "clip_vision_model":
        config["projection_dim"] = 4
    return SimpleNamespace(
        config=config, model_type=kind, image_size=size, get_sd=lambda: {"w": torch.ones(2)}
    )


def tried(setting: Setting) -> TriedSetting:
    scores = [
        mean_score(measure, [0.5, 0.75, 0.625], {"seeds": [1, 2, 3]}, "an encoder", "as it is")
        for measure in (*ROLES, HARMONIC)
    ]
    return TriedSetting(setting, Point(setting.label, *scores[:2]), scores[2])


@pytest.mark.parametrize("method", FUSION.keys())
def test_the_warnings_and_the_report_of_a_router(world, monkeypatch, method):
    prompts = (PROMPT, "a sks animal in <s>zwx style</s>", "a sks animal <c> in ink")
    for prompt in prompts if method == "craft" else (PROMPT,):
        said: list[str] = []
        monkeypatch.setattr(router, "warn", lambda _, *texts, then, said=said: said.extend(texts))
        try:
            report = Router.execute(
                world.model, world.clip, prompt, content_strength=0.9, style_strength=0.6,
                method={"method": method}, second_content_lora=small.CONTENT, **LORAS, **ALL,
            ).result[3]  # fmt: skip
        except CraftError as error:
            assert method == "b_lora"  # which is for SDXL
            said.append(str(error))
        else:
            said.append(report)
        assert_in_chinese(said)


def test_what_is_wrong_with_the_pictures_of_a_training():
    slots = [slot for method in TRAINING for slot in method.traits.slots.of(PictureSlot)]
    for noun in {slot.noun for slot in slots}:
        said = []
        for ask in (
            lambda noun=noun: training_images([], noun),
            lambda noun=noun: training_images([torch.zeros(1, 4, 4, 1)], noun),
            lambda noun=noun: marked_captions(["a dog", "a cat"], 3, noun),
            lambda noun=noun: marked_captions(["a dog", " "], 2, noun),
        ):
            with pytest.raises(CraftError) as error:
                ask()
            said.append(str(error.value))
        assert_in_chinese(said)
        assert not [text for text in in_chinese(said) if noun in text]


def test_a_file_whose_name_and_folder_have_full_stops_in_them(tmp_path):
    """Its text is cut into sentences elsewhere, and the names are as they were."""
    folder = tmp_path / "my. own. files"
    folder.mkdir()
    file = folder / "a dog. Choose one. v1.safetensors"
    said = []
    for content in (None, b"", b"PK a pickled model"):
        if content is not None:
            file.write_bytes(content)
        with pytest.raises(CraftError) as error:
            read(file, KIND)
        said.append(str(error.value))
    assert_in_chinese(said)
    assert all(file.name in text for text in in_chinese(said))
    assert str(file) in in_chinese(said)[0]


def test_settings_that_guidance_takes_too_far():
    by = {"content": ("cfg", 8.0), "style": ("cfg", 8.0)}
    settings = [
        Guided(place, {"content": 1.0, "style": 0.7}, by)
        for place in ("craft, cfg 8", "direct, guidance = acfg; content 1, style 0.7; constant")
    ]
    found = overdriven_places(settings)
    assert len(found) == 3
    assert_in_chinese([*found, "\n".join(["cell 1 of 2", *found])])


def test_what_the_sampler_objects_to(world):
    found = [*objections(world.model, 1.0, True), *objections(world.model, 2.0, True)]
    assert_in_chinese(found)


@pytest.mark.parametrize("method", ["svd", "direct", "k_lora"])
def test_the_report_of_a_fused_file(world, method):
    branches = with_own_loras((small.CONTENT, small.STYLE), (1.0, 0.5), ())
    request = FuseRequest(branches, "all", {"method": method}, rank=4)
    made = fuse_branches(world.model, request, lambda done, total: None)
    assert_in_chinese([f"Saved craft/dog_00001_.safetensors\n{made.report}"])


def test_the_page_translates_every_text_that_a_node_gives_but_those_for_other_nodes():
    outputs = [one for node in NODES for one in node.GET_SCHEMA().outputs]
    given = {one.display_name or one.id for one in outputs if one.io_type == "STRING"}
    (known,) = re.findall(r"REPORTS = new Set\(\[(.*)\]\)", PREVIEWS.read_text("utf-8"))
    assert given - FOR_OTHERS == {name.strip(' "') for name in known.split(",")}
    assert given >= FOR_OTHERS


MERGED = [one for one in LEARNED if one.key != "b4m"]  # which takes LoRAs of its own kind alone


@pytest.mark.parametrize("recipe", [*TRAINING, *MERGED], ids=lambda one: one.key)
def test_the_report_of_a_training(world, recipe):
    files = [BranchFile(small.CONTENT, "content", 1.0), BranchFile(small.STYLE, "style", 1.0)]
    pictures = Captioned([torch.rand(1, 96, 64, 3), torch.rand(1, 64, 64, 3)], [PROMPT])
    slots = recipe.traits.slots
    choices = {"layer_sets": "b-lora", "role": "style", "vgg": NO_FILE, TEXT: PROMPT}
    filled = FilledSlots(
        {slot.key: pictures for slot in slots.of(PictureSlot)}, files,
        {slot.key: choices.get(slot.key, False) for slot in slots.slots},
    )  # fmt: skip
    steps = {"steps": 1, "warmup": 1}
    knobs = {one.name: steps[one.name] for one in recipe.parameters if one.name in steps}
    said = []
    for resume in (False, True):
        how = How(f"reports/{recipe.key}", resume, "fp32", False)
        with torch.inference_mode():
            source = ModelParts(world.model, world.clip, world.vae)
            made = start_training(source, recipe, filled, knobs, how, lambda training: None)
        said.append(re.sub("^Settings: .*", "Settings: seed 0", made.report, flags=re.M))
    assert_in_chinese(said)


@pytest.mark.parametrize("mode", [REFERENCES, MIX, GENERATE])
def test_the_report_of_pairs(world, mode):
    given = {"model": world.model, "clip": world.clip, "vae": world.vae, "steps": 1, "cfg": 2.0}
    parts = {name: [value] for name, value in given.items() if mode == GENERATE}
    for crop in ("center", "disabled"):
        settings = {
            "cutoff": 0.25, "domain": "dct", "caption_template": "{content}, {style}", "width": 64,
            "height": 64, "crop": crop, "resize_method": "lanczos",
        }  # fmt: skip
        with torch.inference_mode():
            found = PairBuilder.execute(
                [torch.rand(2, 64, 64, 4)], [torch.rand(1, 96, 64, 3)],
                {"mode": [mode], **parts}, ["a sks animal"] * 2, ["zwx style"],
                **{name: [value] for name, value in settings.items()},
            )  # fmt: skip
        assert_in_chinese([found.args[-1]])


@pytest.mark.parametrize("given", [("content",), ("style",), ROLES])
def test_the_report_of_scores(given):
    judges = SmallWorldJudge.execute("first").result
    references = {f"{role}_reference": [torch.rand(1, 64, 64, 3)] for role in given}
    said = []
    for second, names in (([], []), ([], ["craft, 1", "craft, 1"]), (judges[1:2], ["1", "2"])):
        with torch.inference_mode():
            said.append(ContentStyleScore.execute(
                [torch.rand(2, 64, 64, 3)], judges[:1], style_clip_vision=second, names=names,
                **references,
            ).result[0])  # fmt: skip
    assert_in_chinese([text.replace("craft, 1", "1, 1") for text in said])


def test_the_report_of_a_method_sweep(world):
    """Its headings are the methods' lines, as they are written."""
    methods = "\n".join(key for key in FUSION.keys() if key != "b_lora")
    with torch.inference_mode():
        report = MethodSweep.execute(
            world.model, world.clip, "a sks animal in zwx style", small.CONTENT, small.STYLE,
            0.7, 0.3, {"layer_sets": "all"}, methods, 0, 1, 4, True,
        ).result[-2]  # fmt: skip
    said = re.sub(r"^\[\w+\]$", "", report, flags=re.MULTILINE)
    assert said != report
    assert_in_chinese([said])


def test_what_is_said_of_scales_that_only_metadata_states():
    alphas = {"r": 2, "lora_alpha": 8, "alpha_pattern": {"fc1": 1}}
    stated = {
        f"{of}.{name}": one for of in ("unet", "text_encoder") for name, one in alphas.items()
    }
    said = []
    for layers, texts in ((1, 0), (2, 0), (0, 1), (0, 2), (1, 1), (3, 2)):
        stems = [f"unet.down_blocks.{k}.to_q" for k in range(layers)]
        stems += [f"text_encoder.text_model.encoder.layers.{k}.mlp.fc1" for k in range(texts)]
        state = {
            f"{stem}.lora_{part}.weight": torch.ones(shape)
            for stem in stems for part, shape in (("A", (2, 4)), ("B", (4, 2)))
        }  # fmt: skip
        said.append(stated_scales_note(state, {"lora_adapter_metadata": json.dumps(stated)}))
    assert said[0].startswith("1 layer is") and said[-1].startswith("3 layers and 2 text-")
    assert_in_chinese([f"dog.safetensors: {text}" for text in said])
