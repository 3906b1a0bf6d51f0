"""Pair Builder, the node: what it pairs, shows, refuses, and that the host can save and read it."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import comfy_extras.nodes_dataset as dataset
import execution
import folder_paths
import nodes
import pytest
import tiny
import torch
from comfy_api.latest import io
from craft_lora_pack.comfy_adapter.draw.contact_sheet import GAP, SHEET, THUMBNAIL, contact_sheet
from craft_lora_pack.comfy_adapter.pairs.modes import GENERATE, MIX, MODES, REFERENCES
from craft_lora_pack.craft_core.errors import CraftError
from craft_lora_pack.craft_core.frequency import low_high
from craft_lora_pack.nodes.pair_builder import PairBuilder
from pair_parts import references, tiny_clip, tiny_vae
from PIL import Image

CONTENTS, STYLES = references(2, "content", 16).images, references(3, "style", 16).images
OUTPUTS = [output.id for output in PairBuilder.GET_SCHEMA().outputs]
SETTINGS = {
    "cutoff": 0.25,
    "domain": "dct",
    "caption_template": "{content}, {style}",
    "width": 0,
    "height": 0,
    "crop": "center",
    "resize_method": "lanczos",
}


def build(mode: str, content=(CONTENTS,), style=(STYLES,), captions=((), ()), **changes) -> dict:
    """The node's outputs by id; every input a list, as the host hands them to it."""
    settings = {name: [value] for name, value in (SETTINGS | changes).items()}
    found = PairBuilder.execute(
        content_images=list(content),
        style_images=list(style),
        mode={"mode": [mode]},
        content_captions=list(captions[0]),
        style_captions=list(captions[1]),
        **settings,
    )
    return dict(zip(OUTPUTS, found.args, strict=True))


def test_every_input_and_output_says_what_it_is():
    schema = PairBuilder.GET_SCHEMA()
    inputs = [nested for one in schema.inputs for nested in one.get_all()]
    assert len(inputs) > 20
    assert all(found.tooltip for found in (*inputs, *schema.outputs))
    assert schema.search_aliases and schema.description


def test_references_pairs_every_content_with_every_style_content_major():
    found = build(REFERENCES)
    pairs = [(i, j) for i in range(2) for j in range(3)]
    for image, (i, _) in zip(found["content_images"], pairs, strict=True):
        assert torch.equal(image, CONTENTS[i : i + 1])
    for image, (_, j) in zip(found["style_images"], pairs, strict=True):
        assert torch.equal(image, STYLES[j : j + 1])
    alternating = [picture for i, j in pairs for picture in (CONTENTS[i], STYLES[j])]
    assert torch.equal(torch.cat(found["pair_images"]), torch.stack(alternating))
    assert "2 content x 3 style references = 6 pairs" in found["report"]


def test_a_mix_is_the_low_band_of_the_content_and_the_high_band_of_the_style():
    found = build(MIX, cutoff=0.2)
    for number, picture in enumerate(found["pair_images"]):
        low, _ = low_high(CONTENTS[number // 3].movedim(-1, 0), 0.2, "dct")
        _, high = low_high(STYLES[number % 3].movedim(-1, 0), 0.2, "dct")
        expected = (low + high).clamp(0, 1).movedim(0, -1)
        assert (picture[0] - expected).abs().max() < 1e-6
    assert len(found["pair_images"]) == 6
    assert "left [0, 1] and were cut" in found["report"]


@pytest.mark.parametrize("domain", ["dct", "fft"])
def test_an_image_mixed_with_itself_is_itself(domain):
    found = build(MIX, content=[CONTENTS[:1]], style=[CONTENTS[:1]], domain=domain)
    assert (found["pair_images"][0] - CONTENTS[:1]).abs().max() < 1e-6


@pytest.mark.parametrize(("cutoff", "kept"), [(1.0, CONTENTS[:1]), (0.0, STYLES[:1])])
def test_the_end_stops_of_a_mix_are_the_references(cutoff, kept):
    found = build(MIX, cutoff=cutoff)
    assert torch.equal(found["pair_images"][0], kept)
    assert "cut." not in found["report"]


def test_the_previews_are_the_two_bands():
    found = build(REFERENCES)
    assert found["low_previews"].shape == CONTENTS.shape
    assert found["high_previews"].shape == STYLES.shape
    again = build(REFERENCES, content=[STYLES])["low_previews"]
    both = again + 2 * (found["high_previews"] - 0.5)
    assert (both - STYLES).abs().max() < 1e-6
    assert found["high_previews"].min() >= 0 and found["high_previews"].max() <= 1


@pytest.mark.parametrize(("mode", "width"), [(REFERENCES, 2 * 16 + GAP), (MIX, 16)])
def test_the_contact_sheet_has_the_references_in_its_margins(mode, width):
    found = build(mode)
    sheet = found["contact_sheet"]
    assert sheet.shape == (1, 3 * 16 + 2 * GAP, 16 + 3 * (width + GAP), 3)
    for i in range(2):
        top = (i + 1) * (16 + GAP)
        assert torch.equal(sheet[0, top : top + 16, :16], CONTENTS[i])
        for j in range(3):
            left = 16 + GAP + j * (width + GAP)
            column = left + (width - 16) // 2
            assert torch.equal(sheet[0, :16, column : column + 16], STYLES[j])
            shown = found["pair_images"][(2 if mode == REFERENCES else 1) * (3 * i + j)]
            assert torch.equal(sheet[:, top : top + 16, left : left + 16], shown)
    assert (sheet[0, :16, :16] == 1).all()


def test_a_large_sheet_shrinks_its_thumbnails():
    picture = torch.rand(1, 10, 300, 3)
    cells = [[[picture, picture]] * 40]
    sheet = contact_sheet([picture], [picture] * 40, cells)
    assert 4096 < sheet.shape[2] <= SHEET + 41  # a pixel of rounding a thumbnail
    assert contact_sheet([picture], [picture], [[[picture]]]).shape[2] == 2 * THUMBNAIL + GAP


# --- sizes, captions


def test_images_of_any_sizes_become_one_size_and_right_sized_ones_stay_bitwise():
    odd = [torch.rand(1, 20, 30, 4), torch.rand(2, 16, 16, 3)]
    found = build(REFERENCES, style=odd)
    assert all(image.shape == (1, 16, 16, 3) for image in found["pair_images"])
    assert torch.equal(found["style_images"][1], odd[1][:1])
    assert "1 references were resized (lanczos, cropped" in found["report"]
    assert "Alpha channels were left out" in found["report"]


def test_width_and_height_are_what_was_asked_for():
    found = build(REFERENCES, width=24, height=10, crop="disabled", resize_method="area")
    assert all(image.shape == (1, 10, 24, 3) for image in found["pair_images"])
    assert "5 references were resized (area, stretched)" in found["report"]


LINES = ("a red car\na dog", "in ink\nin oil\nas mosaic\n")


def test_references_carry_their_own_captions():
    found = build(REFERENCES, captions=([LINES[0]], [LINES[1]]))
    assert found["content_captions"] == ["a red car"] * 3 + ["a dog"] * 3
    assert found["style_captions"] == ["in ink", "in oil", "as mosaic"] * 2
    assert found["captions"][:4] == ["a red car", "in ink", "a red car", "in oil"]
    assert len(found["captions"]) == len(found["pair_images"]) == 12


def test_a_picture_that_shows_both_is_captioned_by_the_template():
    template = "<c>{content}</c> {style} <s>"
    found = build(MIX, captions=([LINES[0]], [LINES[1]]), caption_template=template)
    assert found["captions"][1] == "<c>a red car</c> in oil <s>"
    assert found["captions"] == found["content_captions"] == found["style_captions"]
    assert build(MIX, captions=([LINES[0]], [""]))["captions"][3] == "a dog"
    assert build(MIX)["captions"] == [""] * 6


def test_captions_may_come_as_lists():
    lists = (["a red car\nin the sun", " a dog "], "in ink in oil as".split())
    found = build(REFERENCES, style=[references(5, "style", 16).images], captions=lists)
    assert found["content_captions"][::5] == ["a red car\nin the sun", "a dog"]
    assert found["style_captions"][:5] == ["in", "ink", "in", "oil", "as"]


# --- mistakes


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"content": [CONTENTS[:0]]}, "no content image.*at least one"),
        ({"style": []}, "no style image"),
        ({"style": [STYLES[..., :1]]}, "three colours"),
        ({"captions": (["one"], [""])}, "1 content captions for 2 content images"),
        ({"captions": ([""], ["a", "b"])}, "2 style captions for 3 style images"),
        ({"cutoff": 1.2}, "from 0 to 1"),
        ({"cutoff": float("nan")}, "from 0 to 1"),
        ({"domain": "haar"}, "dct or fft"),
        ({"caption_template": "{subject}"}, "{subject}.*{content} and {style}"),
        ({"mode": "train"}, "'train'.*references, frequency mix, generate"),
        ({"mode": GENERATE}, "generate has no model"),
    ],
)
def test_a_mistake_is_named_before_any_work(changes, message):
    with pytest.raises(CraftError, match=message):
        build(changes.pop("mode", MIX), **changes)


def test_two_values_for_one_setting_are_refused():
    settings = {name: [value] for name, value in SETTINGS.items()} | {"cutoff": [0.1, 0.2]}
    with pytest.raises(CraftError, match="cutoff got 2 values"):
        PairBuilder.execute([CONTENTS], [STYLES], {"mode": [MIX]}, [], [], **settings)


@pytest.mark.parametrize("mode", MODES)
def test_what_needs_no_image_is_answered_before_queueing(mode):
    chosen = {"mode": {"mode": [mode]}}
    assert PairBuilder.validate_inputs(**chosen, content_captions=["a"], style_captions=["b"])
    unlinked = PairBuilder.validate_inputs(**chosen)
    assert unlinked is True if mode != GENERATE else "no content captions" in unlinked
    linked = {"content_captions": (None,), "style_captions": (None,)}
    assert PairBuilder.validate_inputs(**chosen, **linked) is True
    assert "{x}" in PairBuilder.validate_inputs(**chosen, caption_template=["{x}"], **linked)
    assert "'train'" in PairBuilder.validate_inputs({"mode": ["train"]})
    assert "No mode" in PairBuilder.validate_inputs()


# --- in the host's own executor


class Parts(io.ComfyNode):
    """Gives the tiny MODEL, CLIP and VAE to a graph."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        outputs = [io.Model.Output(), io.Clip.Output(), io.Vae.Output()]
        return io.Schema(node_id="PairTestParts", inputs=[], outputs=outputs)

    @classmethod
    def execute(cls) -> io.NodeOutput:
        return io.NodeOutput(tiny.sd15(), tiny_clip(), tiny_vae())


class Kept(io.ComfyNode):
    """Keeps the lists that it is given."""

    found: dict = {}

    @classmethod
    def define_schema(cls) -> io.Schema:
        names = ("images", "texts", "sheet", "report")
        kinds = (io.Image, io.String, io.Image, io.String)
        inputs = [
            kind.Input(name, optional=True, **({"force_input": True} if kind is io.String else {}))
            for name, kind in zip(names, kinds, strict=True)
        ]
        return io.Schema(
            node_id="PairTestKept", inputs=inputs, is_input_list=True, is_output_node=True
        )

    @classmethod
    def execute(cls, **inputs) -> io.NodeOutput:
        cls.found.update(inputs)
        return io.NodeOutput()


@pytest.fixture
def host(monkeypatch, tmp_path):
    """Runs API prompts in the host's executor; input and output are one new folder."""
    for node in (
        PairBuilder,
        Parts,
        Kept,
        dataset.SaveImageTextDataSetToFolderNode,
        dataset.LoadImageTextDataSetFromFolderNode,
    ):
        monkeypatch.setitem(nodes.NODE_CLASS_MAPPINGS, node.GET_SCHEMA().node_id, node)
    monkeypatch.setattr(folder_paths, "get_output_directory", lambda: str(tmp_path))
    monkeypatch.setattr(folder_paths, "get_input_directory", lambda: str(tmp_path))
    monkeypatch.setattr(Kept, "found", {})
    for name, images in (("contents", CONTENTS), ("styles", STYLES)):
        write_dataset(tmp_path / name, images)
    return run_prompt


def write_dataset(folder, images: torch.Tensor) -> None:
    folder.mkdir()
    for index, image in enumerate(images):
        Image.fromarray((image * 255).byte().numpy()).save(folder / f"{index}.png")
        (folder / f"{index}.txt").write_text(f"{folder.name} {index}")


def run_prompt(prompt: dict) -> list[str]:
    """Validate and run; the messages of all errors, none on success."""
    valid, error, outputs, node_errors = asyncio.run(execution.validate_prompt("id", prompt, None))
    if not valid:
        return [
            f"{e['message']}: {e['details']}" for n in node_errors.values() for e in n["errors"]
        ]
    server = SimpleNamespace(client_id=None, last_node_id=None, send_sync=lambda *sent: None)
    executor = execution.PromptExecutor(
        server, cache_args={"lru": 0, "ram": 0.0, "ram_inactive": 0.0}
    )
    executor.execute(prompt, "id", execute_outputs=outputs)
    return [
        sent["exception_message"] for event, sent in executor.status_messages if "error" in event
    ]


def graph(mode: str, settings: dict, **sinks) -> dict:
    """Two datasets read by the host's loader -> Pair Builder -> sinks."""

    def load(folder: str) -> dict:
        return {"class_type": "LoadImageTextDataSetFromFolder", "inputs": {"folder": folder}}

    chosen = {"mode": mode} | {f"mode.{name}": value for name, value in settings.items()}
    inputs = SETTINGS | chosen
    for number, side in enumerate(("content", "style"), start=1):
        inputs |= {f"{side}_images": [str(number), 0], f"{side}_captions": [str(number), 1]}
    return {
        "1": load("contents"),
        "2": load("styles"),
        "3": {"class_type": "CRAFTPairBuilder", "inputs": inputs},
        **sinks,
    }


def link(output: str) -> list:
    return ["3", OUTPUTS.index(output)]


SAVE = {
    "class_type": "SaveImageTextDataSetToFolder",
    "inputs": {
        "images": link("pair_images"),
        "texts": link("captions"),
        "folder_name": "pairs",
        "filename_prefix": "pair",
        "mode": "overwrite",
    },
}
KEEP = {
    "class_type": "PairTestKept",
    "inputs": {
        "images": link("pair_images"),
        "texts": link("captions"),
        "sheet": link("contact_sheet"),
        "report": link("report"),
    },
}


@pytest.mark.parametrize(("mode", "count"), [(REFERENCES, 12), (MIX, 6)])
def test_the_hosts_dataset_nodes_save_and_read_the_pairs(host, mode, count):
    assert host(graph(mode, {}, **{"8": SAVE, "9": KEEP})) == []
    kept = Kept.found
    assert len(kept["images"]) == len(kept["texts"]) == count
    assert len(kept["sheet"]) == len(kept["report"]) == 1
    read = dataset.LoadImageTextDataSetFromFolderNode.execute("pairs")
    images, texts = read.args
    assert len(images) == len(texts) == count

    def by_caption(pictures, captions):
        order = sorted(range(count), key=lambda k: (captions[k], pictures[k].sum().item()))
        return [captions[k] for k in order], torch.cat([pictures[k] for k in order])

    (saved_texts, saved), (read_texts, found) = (
        by_caption(kept["images"], kept["texts"]),
        by_caption(images, texts),
    )
    assert read_texts == saved_texts
    assert (found - saved).abs().max() <= 1 / 255 + 1e-6  # the host saves 8 bits, rounded down


GENERATION = {
    "model": ["4", 0],
    "clip": ["4", 1],
    "vae": ["4", 2],
    "keep_references": True,
    "negative_prompt": "",
    "seed": 1,
    "steps": 1,
    "cfg": 2.0,
    "sampler_name": "euler",
    "scheduler": "normal",
    "denoise": 1.0,
}
PARTS = {"class_type": "PairTestParts", "inputs": {}}


def test_generate_runs_in_the_hosts_executor(host):
    prompt = graph(GENERATE, GENERATION, **{"4": PARTS, "9": KEEP})
    prompt["3"]["inputs"] |= {"width": 37, "height": 33}
    assert host(prompt) == []
    assert len(Kept.found["images"]) == 12
    assert all(image.shape == (1, 32, 32, 3) for image in Kept.found["images"])
    assert "cutoff 0.03125" in Kept.found["report"][0]  # 8 pixels a latent cell


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mode.model": None}, "Required input is missing: model"),
        ({"mode.vae": None}, "Required input is missing: vae"),
        ({"style_captions": ""}, "no style captions"),
        ({"cutoff": 1.5}, "bigger than max"),
        ({"domain": "haar"}, "not in list"),
        ({"mode.sampler_name": "eulre"}, "not in list"),
        ({"mode": "train"}, "It can be references, frequency mix, generate"),
        ({"caption_template": "{both}"}, "{both}"),
    ],
)
def test_the_host_refuses_a_mistake_before_queueing(host, changes, message):
    prompt = graph(GENERATE, GENERATION, **{"4": PARTS, "9": KEEP})
    inputs = prompt["3"]["inputs"] | changes
    prompt["3"]["inputs"] = {name: value for name, value in inputs.items() if value is not None}
    assert any(message in said for said in host(prompt)), host(prompt)
    assert not Kept.found
