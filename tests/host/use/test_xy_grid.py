"""XY Grid: every cell is the picture of the nodes set by hand, a stop loses nothing."""

import json

import comfy.model_management
import nodes
import pytest
import small_world_models as small
import torch
from craft_lora_pack.comfy_adapter.use import kept_cells
from craft_lora_pack.comfy_adapter.use.xy_grid import progress_line
from craft_lora_pack.craft_core.errors import CraftError
from craft_lora_pack.craft_core.fusion import FUSION
from craft_lora_pack.craft_core.presets import node_values
from craft_lora_pack.craft_core.search import GridSetting
from craft_lora_pack.nodes import compare
from craft_lora_pack.nodes.acfg import ACFGKSampler
from craft_lora_pack.nodes.compare import XYGrid
from craft_lora_pack.nodes.router import Router
from craft_lora_pack.nodes.schedule import TimestepSchedule

from small_world.judge_node import SmallWorldJudge

PROMPT = "<c>a sks animal</c> in <s>zwx style</s>"
ALL = {"layer_sets": "all"}
STEPS = 2
GIVEN = {
    "prompt": PROMPT, "content_lora": small.CONTENT, "style_lora": small.STYLE,
    "content_strength": 0.6, "style_strength": 0.4, "layer_sets": ALL,
    "method": {"method": "direct"}, "guidance": {"guidance": "acfg"}, "seed": 5, "steps": STEPS,
    "cfg": 3.0, "sampler_name": "euler", "scheduler": "normal", "cell": 64,
}  # fmt: skip
AXES = {
    "method": ("method: craft\nk_lora: pattern = s*", ""),
    "content_strength": ("content_strength: 0.2, 1", "style_strength: 0.8"),
    "style_strength": ("style_strength: 0, 1", ""),
    "strength": ("strength: -0.5, 0.6", "seed: 4"),
    "guidance": ("guidance: cfg\nrole: weight = 1.5", "cfg: 2.5"),
    "cfg": ("cfg: 1, 4", ""),
    "schedule": ("schedule: linear\ncosine: content_floor = 0.5, clock = model", ""),
    "layer_sets": ("layer_sets: all, auto", "method: craft"),
    "seed": ("seed: 0, 12", ""),
}


@pytest.fixture(scope="module")
def world():
    return small.load()


@pytest.fixture
def kept(tmp_path, monkeypatch):
    monkeypatch.setattr(kept_cells, "_root", lambda: tmp_path)
    return tmp_path


@pytest.fixture
def told(monkeypatch):
    """(text, grid) of everything that the page is told."""
    found = []
    monkeypatch.setattr(compare, "tell", lambda _, text, grid: found.append((text, grid)))
    return found


def empty_latent():
    return nodes.EmptyLatentImage().generate(64, 64)[0]


def grid(world, x_axis, y_axis="", model=None, **others):
    with torch.inference_mode():
        result = XYGrid.execute(
            model or world.model, world.clip, world.vae, world.encode(""), empty_latent(),
            **{**GIVEN, "x_axis": x_axis, "y_axis": y_axis, **others},
        ).result  # fmt: skip
    return dict(zip(("grid", "images", "rows", "columns", "scores"), result, strict=True))


def menu(values, name):
    """A menu's value as the host passes it, from what a preset sets."""
    inner = {
        key.partition(".")[2]: one for key, one in values.items() if key.startswith(f"{name}.")
    }
    return {name: values[name], **inner}


def by_hand(world, preset):
    """The picture of Router, Timestep Schedule and ACFG KSampler with a preset's values."""
    values = node_values(json.loads(preset))
    router, course, guide = values.router, values.schedule, values.guidance
    with torch.inference_mode():
        floors = [course[name] for name in ("content_floor", "style_floor", "clock")]
        schedule = TimestepSchedule.execute(menu(course, "shape"), *floors).result[0]
        model, positive, *_ = Router.execute(
            world.model, world.clip, PROMPT, small.CONTENT, small.STYLE,
            router["content_strength"], router["style_strength"], menu(router, "layer_sets"),
            menu(router, "method"), schedule,
        ).result  # fmt: skip
        latent = ACFGKSampler.execute(
            model, values.sampler["seed"], STEPS, guide["cfg"], "euler", "normal", positive,
            world.encode(""), empty_latent(), 1.0, guide.get("asymmetric", True),
            menu(guide, "guidance"),
        ).result[0]["samples"]  # fmt: skip
        return world.vae.decode(latent)


def shown(told):
    """The cells that the page got, in order."""
    return [cell for _, grid in told for cell in grid["cells"]]


@pytest.mark.parametrize("kind", AXES)
def test_a_cell_sent_back_to_the_nodes_gives_its_picture(world, kept, told, kind):
    found = grid(world, *AXES[kind])
    cells = shown(told)
    assert len(cells) == len(found["images"]) == len(found["rows"]) >= 2
    for cell, picture in zip(cells, found["images"], strict=True):
        assert torch.equal(picture, by_hand(world, cell["preset"]))
    different = {picture.numpy().tobytes() for picture in found["images"]}
    assert len(different) > 1


def test_rows_and_columns_are_the_axes(world, kept, told):
    found = grid(world, "seed: 3, 4", "method: craft, direct")
    assert found["rows"] == ["craft", "craft", "direct", "direct"]
    assert found["columns"] == ["seed 3", "seed 4"] * 2
    _, frame = told[0]
    assert (frame["rows"], frame["columns"]) == (["craft", "direct"], ["seed 3", "seed 4"])
    assert [(cell["row"], cell["column"]) for cell in shown(told)] == [
        (0, 0), (0, 1), (1, 0), (1, 1),
    ]  # fmt: skip
    assert all(cell["picture"].startswith("data:image/jpeg;base64,") for cell in shown(told))
    texts = [text for text, _ in told]
    assert texts[0] == "cell 1 of 4" and texts[-1] == "4 cells are done."
    assert any(text.startswith("cell 2 of 4, about ") for text in texts)


def test_cells_that_guidance_takes_too_far_are_told_while_they_are_made_and_kept(world, kept, told):
    said = (
        "LoRAs are guided too far in 2 of 6 settings, farthest in craft, cfg 8.\n"
        "Strength 0.75 times cfg 8 is 6; above 2, pictures burn. With content_strength, bring the "
        "strength to 0.2, or lower cfg."
    )
    for first in ("cell 1 of 6", "One cell is made again, to see that the model is the same."):
        told.clear()
        grid(
            world, "cfg: 1, 2, 8", "method: craft, direct", content_strength=0.75,
            style_strength=0.2,
        )  # fmt: skip
        assert told[0][0] == f"{first}\n{said}"
        assert told[-1][0] == f"{said}\n6 cells are done."
        assert all(said in text for text, _ in told)


@pytest.mark.parametrize(
    ("axes", "others"),
    [
        (("cfg: 1, 2", ""), {"content_strength": 0.75}),
        (("cfg: 8", ""), {"guidance": {"guidance": "cfg"}}),
        (("cfg: 8", "method: craft"), {"prompt": "an animal"}),  # both LoRAs are off
    ],
)
def test_what_guidance_does_not_take_too_far_is_not_told(world, kept, told, axes, others):
    grid(world, *axes, **others)
    assert not any("guided too far" in text for text, _ in told)


def test_a_stopped_grid_keeps_its_cells_and_goes_on(world, kept, told, made):
    axes = ("seed: 1, 2, 3", "method: craft, direct")
    whole = grid(world, *axes)
    for path in kept.rglob("*.safetensors"):
        path.unlink()
    made.clear()
    told.clear()
    made.stop = 4
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        grid(world, *axes)
    assert len(shown(told)) == 4
    assert told[-1][0] == "Stopped: 4 of 6 cells are done. Run goes on from there."
    made.clear()
    made.stop = 0  # while the first is made again
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        grid(world, *axes)
    assert told[-1][0] == "Stopped: 4 of 6 cells are done. Run goes on from there."
    made.stop = 10**9
    again = grid(world, *axes)
    assert made == [1, 2, 3]  # the first is made again
    assert torch.equal(again["grid"], whole["grid"])
    for one, other in zip(again["images"], whole["images"], strict=True):
        assert torch.equal(one, other)
    made.clear()
    grid(world, "seed: 1, 2, 3, 4", axes[1])
    assert made == [1, 4, 4]  # and what another grid has in common with it is used


def test_cells_of_another_model_are_not_taken(world, kept, told, made):
    axes = ("seed: 1, 2", "")
    grid(world, *axes)
    other = world.with_loras((small.STYLE, 1.0)).model
    made.clear()
    of_other = grid(world, *axes, model=other)
    assert made == [1, 2]
    for path in kept.rglob("*.safetensors"):
        path.unlink()
    alone = grid(world, *axes, model=other)
    for one, two in zip(of_other["images"], alone["images"], strict=True):
        assert torch.equal(one, two)


def under_guidance(world, more):
    """The MODEL with a change that shows only where guidance goes beyond the prediction under the
    prompt."""
    model = world.model.clone()
    model.set_model_sampler_post_cfg_function(
        lambda given: given["denoised"] + more * (given["denoised"] - given["cond_denoised"])
    )
    return model


@pytest.mark.parametrize(
    "grids",
    [
        [("cfg: 1, 4", "")],
        [("cfg: 1, 4", "seed: 1"), ("cfg: 1", "seed: 1, 2"), ("cfg: 1, 4", "seed: 2"),
         ("cfg: 4", "seed: 2, 1")],
        [("cfg: 1.001, 4", "seed: 1"), ("cfg: 1.001", "seed: 1, 2"), ("cfg: 1.001, 4", "seed: 2"),
         ("cfg: 4", "seed: 2, 1")],
        [("guidance: acfg\nrole: weight = 3", "cfg: 1")],
        [("guidance: role\nrole: weight = 3", "cfg: 1")],
    ],
    ids=lambda grids: "; ".join(" x ".join(filter(None, axes)) for axes in grids),
)  # fmt: skip
def test_cells_of_a_model_that_differs_under_guidance_alone_are_not_taken(world, kept, told, grids):
    """The first grid is made by one MODEL, then all by another, the first one last."""

    def by_other():
        all_axes = (*grids[1:], grids[0])
        model = under_guidance(world, 2.0)
        return [image for axes in all_axes for image in grid(world, *axes, model=model)["images"]]

    before = grid(world, *grids[0], model=under_guidance(world, 0.0))["images"]
    found = by_other()
    for path in kept.rglob("*.safetensors"):
        path.unlink()
    alone = by_other()
    same = kept_cells.agree  # as far as it can be seen, which at cfg 1.001 is not everything
    assert all(same(*pair) for pair in zip(found, alone, strict=True))
    assert not all(same(*pair) for pair in zip(before, alone[-len(before) :], strict=True))


@pytest.mark.parametrize(
    "change", [{"steps": 3}, {"prompt": "<c>a cat</c> in <s>ink</s>"}, {"style_lora": "None"}]
)
def test_what_all_cells_share_is_part_of_what_is_kept(world, kept, told, made, change):
    grid(world, "seed: 1, 2")
    made.clear()
    if "style_lora" in change:
        change = {"style_lora": compare.pair_inputs("", "", 1.0)[0].options[0]}
    grid(world, "seed: 1, 2", **change)
    assert made == [1, 2]


def test_cells_have_short_paths(kept):
    """Windows takes paths of 259 letters, of which a portable ComfyUI's folder may be 100."""
    setting = GridSetting(FUSION["craft"], {}, "all", 1.0, 1.0, None, "weak", {}, 1.23456, 1)
    cells = kept_cells.KeptCells.of(["a"])
    cells.put(setting, torch.ones(1, 4, 8, 8))
    (path,) = kept.rglob("*.safetensors")
    assert len(f"__craft_lora/xy_grid/{path.relative_to(kept)}") < 150
    assert kept_cells.KeptCells.of(["a"]).get(setting) is not None


def test_damaged_cells_are_made_again(world, kept, told, made):
    whole = grid(world, "seed: 1, 2, 3")
    for path in kept.rglob("*.safetensors"):
        path.write_bytes(b"damaged")
    made.clear()
    again = grid(world, "seed: 1, 2, 3")
    assert made == [1, 2, 3]
    assert torch.equal(again["grid"], whole["grid"])


def test_of_all_that_is_kept_the_longest_unused_is_removed(world, kept, told, made, monkeypatch):
    grid(world, "seed: 1, 2")
    (size,) = {path.stat().st_size for path in kept.rglob("*.safetensors")}
    monkeypatch.setattr(kept_cells, "_MOST_BYTES", 3 * size)
    grid(world, "seed: 3, 4", steps=STEPS + 1)
    assert len(list(kept.rglob("*.safetensors"))) == 3
    made.clear()
    grid(world, "seed: 1, 2")
    assert made == [2, 1]  # the second is made again, to see that the model is the same


def test_a_picture_that_cannot_be_decoded_is_kept_as_a_latent(world, kept, told, monkeypatch):
    def full(*_):
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(world.vae, "decode", full)
        with pytest.raises(CraftError, match="not enough memory") as raised:
            grid(world, "seed: 1, 2")
    assert isinstance(raised.value.__cause__, MemoryError)
    assert len(list(kept.rglob("*.safetensors"))) == 1
    assert told[-1][0] == "Stopped: 1 of 2 cells are done. Run goes on from there."


def test_cells_are_scored_and_rows_sorted(world, kept, told):
    content_judge, style_judge = SmallWorldJudge.execute("first").result
    generator = torch.Generator().manual_seed(0)
    content, style = torch.rand(2, 1, 64, 64, 3, generator=generator).split(1)
    found = grid(
        world, "seed: 1, 2", "strength: 0, 1", clip_vision=content_judge,
        style_clip_vision=style_judge, content_reference=content[0], style_reference=style[0],
        sort_by="style",
    )  # fmt: skip
    for cell in shown(told):
        assert "content 0" in cell["scores"] or "content -0" in cell["scores"]
    assert "strength 0" in found["scores"]
    with pytest.raises(CraftError, match="nothing is scored"):
        grid(world, "seed: 1, 2", sort_by="style")


def test_axes_are_refused_before_a_run():
    menus = {"layer_sets": ALL, "method": GIVEN["method"], "guidance": GIVEN["guidance"]}
    checked = {"prompt": PROMPT, "x_axis": "cfg: 1", "y_axis": "", **menus}
    assert XYGrid.validate_inputs(**checked) is True
    assert "x_axis, line 2" in XYGrid.validate_inputs(**{**checked, "x_axis": "cfg: 1\nx"})
    seeds = ", ".join(map(str, range(300)))
    assert "256" in XYGrid.validate_inputs(**{**checked, "y_axis": f"seed: {seeds}"})
    for name in menus:
        assert f"{name}: choose" in XYGrid.validate_inputs(**{**checked, name: None})


@pytest.mark.parametrize(
    ("took", "missing", "said"),
    [
        ([], 9, "cell 2 of 10"),
        ([60.0], 9, "cell 2 of 10, about 9 min left"),
        ([60.0, 2.0, 4.0], 8, "cell 2 of 10, about 24 s left"),
        ([1.0, 1200.0], 8, "cell 2 of 10, about 2 h 40 min left"),
        ([0.1], 0, "cell 2 of 10, about 1 s left"),
    ],
)
def test_the_time_left_is_that_of_the_pictures_to_make(took, missing, said):
    assert progress_line(1, 10, took, missing) == said
