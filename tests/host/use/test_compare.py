"""Method Sweep, Comparison Grid and the map of which LoRA acts where, in the real host."""

from pathlib import Path
from types import SimpleNamespace

import folder_paths
import nodes
import pair_parts
import pytest
import safetensors.torch
import small_world_models as small
import tiny
import torch
from craft_lora_pack.comfy_adapter.draw.activity import HEADING, Activity, activity_sheet
from craft_lora_pack.comfy_adapter.draw.pictures import CONTENT, STYLE
from craft_lora_pack.comfy_adapter.draw.runs import log_of, runs_sheet
from craft_lora_pack.comfy_adapter.engine.engine import set_guidance
from craft_lora_pack.comfy_adapter.engine.modules import model_layers
from craft_lora_pack.craft_core.errors import CraftError
from craft_lora_pack.craft_core.fusion import FUSION
from craft_lora_pack.craft_core.schedule.schedule import Schedule
from craft_lora_pack.craft_core.time import Moment
from craft_lora_pack.craft_core.types import Bank, Branch, Factors, Gates
from craft_lora_pack.nodes import compare
from craft_lora_pack.nodes.acfg import ACFGKSampler
from craft_lora_pack.nodes.compare import ComparisonGrid, MethodSweep
from craft_lora_pack.nodes.router import Router

PROMPT = "<c>a sks animal</c> in <s>zwx style</s>"
ALL = {"layer_sets": "all"}
GRAY = torch.full((1, 8, 8, 3), 0.5)


def moments(steps):
    return [Moment(i / (steps - 1), steps) for i in range(steps)]


@pytest.fixture(scope="module")
def world():
    return small.load()


def sample(model, positive, negative, steps=2, denoise=1.0, cfg=3.0):
    latent = nodes.EmptyLatentImage().generate(64, 64)[0]
    with torch.inference_mode():
        arguments = (1, steps, cfg, "euler", "normal", positive, negative, latent, denoise)
        return nodes.common_ksampler(model, *arguments)[0]["samples"]


def sweep(world, methods, seeds=1, first_seed=5, asymmetric=True, steps=6, **others):
    with torch.inference_mode():
        return MethodSweep.execute(
            world.model, world.clip, PROMPT, small.CONTENT, small.STYLE, 0.7, 0.3, ALL, methods,
            first_seed, seeds, steps, asymmetric, **others,
        ).result  # fmt: skip


def test_a_sweep_is_a_router_for_each_method_and_a_cell_for_each_seed(world):
    models, positives, seeds, guidance, rows, columns, activity, report, scales = sweep(
        world, "\n".join(FUSION.keys()), seeds=3
    )
    assert scales == [4.0] * len(rows)
    assert rows == [key for key in FUSION.keys() for _ in range(3)]
    assert seeds == [5, 6, 7] * len(FUSION.keys())
    assert columns == [f"seed {seed}" for seed in seeds]
    assert guidance == [True] * len(rows) and len(positives) == len(rows)
    assert len({id(model) for model in models}) == len(FUSION.keys())
    assert activity.shape[0] == 1 and activity.shape[-1] == 3
    for key in FUSION.keys():
        assert f"[{key}]\nMethod: {key}. " in report


def test_lines_that_guidance_takes_too_far_are_told_and_in_the_report(world, monkeypatch):
    told = []
    monkeypatch.setattr(compare, "warn", lambda _, *texts: told.append("\n".join(texts)))
    lines = "craft\ndirect: guidance = cfg\ndirect: guidance = role, weight = 3"
    report = sweep(world, lines, cfgs="2, 4, 8")[-2]
    said = (
        "LoRAs are guided too far in 5 of 9 settings, farthest in craft, cfg 8.\n"
        "Strength 0.7 times cfg 8 is 5.6; above 2, pictures burn. With content_strength, bring the "
        "strength to 0.2, or lower cfg.\n"
        "Strength 0.3 times cfg 8 is 2.4; above 2, pictures burn. With style_strength, bring the "
        "strength to 0.2, or lower cfg."
    )
    assert report.startswith(f"{said}\n\n[craft]") and told == [said]
    for quiet in ({"cfgs": "2"}, {"cfgs": "8", "asymmetric": False}):
        assert "guided too far" not in sweep(world, "craft", **quiet)[-2]
    monkeypatch.setattr(compare, "_gives_cfg", lambda hidden: False)
    report = sweep(world, lines, cfgs="8")[-2]
    assert report.startswith("LoRAs are guided too far in 1 of 3 settings, farthest in direct, g")


@pytest.mark.parametrize(
    ("inputs", "gives"),
    [
        ({"cfg": ["5", 8], "model": ["5", 0]}, True),
        ({"cfg": 8.0, "model": ["5", 0]}, False),
        ({"cfg": ["6", 8]}, False),
    ],
)
def test_the_cfgs_of_a_sweep_count_where_a_node_takes_them(inputs, gives):
    hidden = SimpleNamespace(unique_id="5", prompt={"5": {"inputs": {}}, "7": {"inputs": inputs}})
    assert compare._gives_cfg(hidden) == gives


def test_each_model_of_a_sweep_samples_as_the_routers(world):
    models, positives, *_ = sweep(world, "k_lora\ncomposite", asymmetric=False)
    for index, key in enumerate(("k_lora", "composite")):
        with torch.inference_mode():
            alone, positive, *_ = Router.execute(
                world.model, world.clip, PROMPT, small.CONTENT, small.STYLE, 0.7, 0.3, ALL,
                {"method": key},
            ).result  # fmt: skip
        ours = sample(models[index], positives[index], world.encode(""))
        assert torch.equal(ours, sample(alone, positive, world.encode("")))


def test_a_line_can_name_its_own_guidance_and_layer_sets(world):
    *_, guidance, _, _, _, report, _ = sweep(
        world, "craft: guidance = cfg\ncraft: layer_sets = b-lora\nk_lora: pattern = s*"
    )
    assert guidance == [False, True, True]
    assert "Layer sets: all" in report and "Layer sets: b-lora" in report
    heads = [line for line in report.splitlines() if line.startswith("[")]
    assert heads == [
        "[craft, guidance = cfg]",
        "[craft, layer_sets = b-lora]",
        "[k_lora, pattern = s*]",
    ]


def test_the_models_of_a_sweep_share_the_loras(world):
    """But for a method that changes a LoRA's updates: NP-LoRA's content is a third module."""
    for methods, modules in ((set(FUSION.keys()) - {"np_lora"}, 2), (FUSION.keys(), 3)):
        models, *_ = sweep(world, "\n".join(methods))
        held = {id(one.model) for m in models for one in m.get_nested_additional_models()}
        assert len(held) == modules


def test_a_sweep_says_once_what_a_router_would_warn_of(world, caplog):
    with torch.inference_mode():
        *_, report, _ = MethodSweep.execute(
            world.model, world.clip, "an animal", small.CONTENT, small.STYLE, 0.7, 0.3, ALL,
            "direct\ncraft\nk_lora", 0, 1, 4, True,
        ).result  # fmt: skip
    assert caplog.text.count("has no <c>") == caplog.text.count("has no <s>") == 1
    assert report.startswith("The prompt has no <c>")


def test_a_method_whose_blocks_the_model_lacks_is_left_out_and_the_others_run(world, caplog):
    """The default text on a model that is not SDXL's: B-LoRA has no blocks there."""
    flux, lora = tiny.flux(), "compare_flux.safetensors"
    folder = Path(folder_paths.get_folder_paths("loras")[0])
    state = tiny.random_lora(model_layers(flux), 2, 1)
    safetensors.torch.save_file(state, folder / lora)
    default = next(i for i in MethodSweep.GET_SCHEMA().inputs if i.id == "methods").default
    *_, rows, _, _, report, _ = MethodSweep.execute(
        flux, pair_parts.tiny_clip(), PROMPT, lora, lora, 1.0, 1.0, ALL, default, 0, 1, 4, True
    ).result
    assert rows == [key for key in FUSION.keys() if key != "b_lora"]
    assert report.startswith("b_lora is left out: ") and "b_lora is left out" in caplog.text
    with pytest.raises(CraftError, match="None of the methods"):
        MethodSweep.execute(
            flux, pair_parts.tiny_clip(), PROMPT, lora, lora, 1.0, 1.0, ALL, "b_lora", 0, 1, 4, True
        )


def test_a_sampler_that_does_not_ask_keeps_a_lines_guidance(world):
    models, positives, *_ = sweep(world, "direct: guidance = acfg\ndirect: guidance = cfg")
    asymmetric, symmetric = (
        sample(model, positive, world.encode(""))
        for model, positive in zip(models, positives, strict=True)
    )
    assert not torch.equal(asymmetric, symmetric)


LINES = "\n".join(
    ["direct", "direct: guidance = role, weight = 2.5", "direct: guidance = weak, weight = 2"]
)


def ksampled(world, model, positive, cfg, **menu):
    latent = nodes.EmptyLatentImage().generate(64, 64)[0]
    with torch.inference_mode():
        return ACFGKSampler.execute(
            model, 1, 2, cfg, "euler", "normal", positive, world.encode(""), latent, 1.0, True,
            **menu,
        ).result[0]["samples"]  # fmt: skip


def test_a_sampler_keeps_the_rule_that_a_line_names_unless_its_own_menu_names_one(world):
    models, positives, *_, guidance, _, _, _, _, _ = sweep(world, LINES)
    assert guidance == [True] * 3
    rules = [None, ("role", {"weight": 2.5}), ("weak", {"weight": 2.0})]
    for model, positive, rule in zip(models, positives, rules, strict=True):
        expected = set_guidance(models[0], *(rule or ("acfg",)))
        found = ksampled(world, model, positive, 1.0)
        assert torch.equal(found, sample(expected, positive, world.encode(""), cfg=1.0))
        assert torch.equal(found, sample(model, positive, world.encode(""), cfg=1.0))
        chosen = ksampled(world, model, positive, 1.0, guidance={
            "guidance": "role", "weight": 1.0, "content_weight": 1.0, "style_weight": 1.0,
            "norm": "off",
        })  # fmt: skip
        assert torch.equal(chosen, ksampled(world, models[0], positive, 1.0))


def test_each_cfg_is_a_column_with_each_seed(world):
    *_, seeds, _, rows, columns, _, _, scales = sweep(world, "direct", seeds=2, cfgs="1, 2.5")
    assert rows == ["direct"] * 4 and seeds == [5, 6, 5, 6] and scales == [1.0, 1.0, 2.5, 2.5]
    assert columns == ["cfg 1, seed 5", "cfg 1, seed 6", "cfg 2.5, seed 5", "cfg 2.5, seed 6"]


@pytest.mark.parametrize("text", ["", "a", "1,,b", "nan", "-1", "101", "1, 1", "1," * 17 + "2"])
def test_cfgs_that_cannot_be_are_answered_before_queueing(text):
    assert "cfgs is" in MethodSweep.validate_inputs(PROMPT, "direct", text, layer_sets=ALL)


def test_the_map_shows_the_weights_of_the_rule_that_acted(world):
    """Beside the map of a run with weights stand their curves; those of another course differ."""
    models, positives, *_ = sweep(world, LINES)
    plain = runs_sheet([sampled_model(world, models[0], positives[0])])
    role = runs_sheet([sampled_model(world, models[1], positives[1])])
    assert plain.shape == role.shape and not torch.equal(plain, role)
    ((_, activity),) = log_of(models[1]).maps()
    assert torch.equal(activity.weights, torch.full((2, 2), 2.5))
    assert log_of(models[0]).maps()[0][1].weights is None


def sampled_model(world, model, positive):
    sample(model, positive, world.encode(""), cfg=1.0)
    return model


def test_weights_with_a_course_are_drawn_row_by_row():
    amounts = torch.ones(4, 3, 2) / 2
    rising = torch.tensor([[1.0, 3.0], [1.5, 2.5], [2.0, 2.0], [3.0, 1.0]])
    sheets = [
        activity_sheet(["a"], [Activity(amounts, ("a", "b", "c"), weights=one)])
        for one in (None, rising, rising.flip(0))
    ]
    assert not any(torch.equal(sheets[i], sheets[j]) for i, j in ((0, 1), (0, 2), (1, 2)))
    left = sheets[1][:, :, :540], sheets[2][:, :, :540]
    assert torch.equal(*left)  # the map itself is the same


def test_static_mistakes_are_answered_before_queueing():
    answer = MethodSweep.validate_inputs(PROMPT, "direct\nklora", layer_sets=ALL)
    assert "Line 2" in answer and "k_lora" in answer
    assert MethodSweep.validate_inputs(PROMPT, "direct", layer_sets=ALL) is True
    assert "</c>" in MethodSweep.validate_inputs("a </c>", None, layer_sets=ALL)


def test_a_sweep_without_loras_says_so(world):
    with pytest.raises(CraftError, match="No LoRA is chosen"):
        MethodSweep.execute(
            world.model, world.clip, PROMPT, "none", "none", 1.0, 1.0, ALL, "direct", 0, 1, 4, True
        )


def grid(images, rows, columns, cell=8, **references):
    return ComparisonGrid.execute(images, rows, columns, [cell], **references).result[0]


def test_every_picture_of_a_grid_stands_whole_in_its_row_and_column():
    colours = torch.tensor([[0.1, 0, 0], [0.2, 0, 0], [0.3, 0, 0], [0.4, 0, 0]])
    images = [colour.expand(1, 8, 8, 3) for colour in colours]
    sheet = grid(images, ["a", "a", "b", "b"], ["x", "y", "x", "y"])[0]
    found = []
    for colour in colours:
        mask = ((sheet - (colour * 255).round() / 255).abs().amax(dim=-1) < 1e-3).nonzero()
        assert len(mask) == 64
        low, high = mask.amin(dim=0), mask.amax(dim=0)
        assert (high - low).tolist() == [7, 7]
        found.append(low.tolist())
    (a_x, a_y, b_x, b_y) = found
    assert a_x[0] == a_y[0] < b_x[0] == b_y[0] and a_x[1] == b_x[1] < a_y[1] == b_y[1]


def test_pictures_of_one_cell_stand_side_by_side_and_missing_cells_stay_empty():
    twice = grid([GRAY, GRAY, GRAY], ["a", "a", "b"], ["x", "x", "y"])
    once = grid([GRAY, GRAY], ["a", "b"], ["x", "y"])
    assert twice.shape[2] == once.shape[2] + 8 + 6
    batch = grid([torch.cat([GRAY, GRAY]), GRAY], ["a", "b"], ["x", "y"])
    assert torch.equal(batch, twice)


def test_references_stand_above_the_grid():
    plain = grid([GRAY], ["a"], ["x"])
    headed = grid([GRAY], ["a"], ["x"], content_reference=[GRAY], style_reference=[GRAY])
    assert headed.shape[1] > plain.shape[1] + 8


@pytest.mark.parametrize(("cell", "side"), [(0, 40), (20, 20), (64, 40), (160, 160)])
def test_a_cell_is_shrunk_to_its_size_or_enlarged_by_whole_numbers(cell, side):
    sheet = grid([torch.zeros(1, 40, 40, 3)], ["a"], ["x"], cell)
    dark = (sheet[0].amax(dim=-1) == 0).nonzero()
    assert (dark.amax(dim=0) - dark.amin(dim=0) + 1).tolist() == [side, side]


def test_labels_that_do_not_fit_the_images_are_an_error():
    with pytest.raises(CraftError, match="3 images and 2 rows"):
        grid([GRAY] * 3, ["a", "b"], ["x"])
    with pytest.raises(CraftError, match="pixels"):
        grid([GRAY] * 40, [f"m{i}" for i in range(40)], ["x"], 4096)


def test_a_grid_of_nothing_is_an_error_and_grey_pictures_are_shown():
    with pytest.raises(CraftError, match="no image"):
        grid([], ["a"], ["x"])
    with pytest.raises(CraftError, match="no image"):
        grid([GRAY[:0]], ["a"], ["x"])
    assert torch.equal(grid([GRAY[..., :1]], ["a"], ["x"]), grid([GRAY], ["a"], ["x"]))
    assert torch.equal(
        grid([GRAY], ["a"], ["x"], style_reference=[None]), grid([GRAY], ["a"], ["x"])
    )


def test_the_maps_of_a_sheet_have_one_scale():
    factors = (Factors(torch.ones(1, 1), torch.ones(1, 1)),)
    bank = Bank.of([Branch("c", "content", {"a": factors})], ["a"])
    strong, weak = (
        Activity.of(bank, Gates(lambda m, v=value: torch.full((1, 1, 1), v)), moments(2))
        for value in (1.0, 0.25)
    )
    pixels = (activity_sheet(["1", "2"], [strong, weak])[0] * 255).round().int()
    paler = [round(255 + 0.25 * (part - 255)) for part in CONTENT]
    for colour in (list(CONTENT), paler):
        assert (pixels == torch.tensor(colour)).all(dim=-1).any()


def test_the_activity_map_colours_who_acts():
    """Content early, style late, both at half strength in between, neither in the last layer."""
    factors = (Factors(torch.ones(1, 1), torch.ones(1, 1)),)
    paths = ["input_blocks.0", "input_blocks.1"]
    bank = Bank.of(
        [Branch(r, r, dict.fromkeys(paths, factors)) for r in ("content", "style")], paths
    )

    def at(moment):
        table = torch.zeros(1, 2, 2)
        table[0, 0] = torch.tensor([1.0 - moment.progress, moment.progress])
        return table

    activity = Activity.of(bank, Gates(at), moments(3))
    assert activity.amounts[:, 0].tolist() == [[1.0, 0.0], [0.5, 0.5], [0.0, 1.0]]
    assert not activity.amounts[:, 1].any()
    pixels = (activity_sheet(["toy"], [activity])[0] * 255).round().int().flatten(0, 1).tolist()
    between = [round((a + b) / 2) for a, b in zip(CONTENT, STYLE, strict=True)]
    for colour in (CONTENT, STYLE):
        assert list(colour) in pixels
    assert any(all(abs(a - b) <= 1 for a, b in zip(p, between, strict=True)) for p in pixels)


def test_the_map_of_a_model_without_acting_branches_says_so():
    activity = Activity.of(Bank.of([], []), Gates(lambda m: torch.zeros(1, 0, 0)), moments(4))
    assert activity_sheet(["nothing"], [activity]).shape[-1] == 3


HALF = 0.5  # denoise


def amounts(activity):
    """(steps, roles) of a map whose layers are all alike."""
    rows = activity.amounts[:, activity.amounts.any(dim=2).any(dim=0)]
    return rows[:, 0]


@pytest.mark.parametrize("clock", ["steps", "model"])
def test_the_map_of_a_sweep_is_drawn_from_what_ran(world, clock):
    """An img2img run by the model's clock has half of a schedule; the plan shows all of it."""
    schedule = Schedule("linear", clock=clock)
    models, positives, *_ = sweep(world, "direct", schedule=schedule, steps=4)
    sample(models[0], positives[0], world.encode(""), 4, HALF)
    ((label, ran),) = log_of(models[0]).maps()
    assert label == "direct" and ran.row == "step"
    content, style = amounts(ran).T / torch.tensor([[0.7], [0.3]])
    left = {"steps": [1.0, 2 / 3, 1 / 3, 0.0], "model": [3 / 7, 2 / 7, 1 / 7, 0.0]}  # of 8 steps
    assert content.tolist() == pytest.approx(left[clock], abs=0.002)
    torch.testing.assert_close(style, 1.0 - content)


def test_the_grid_shows_the_maps_of_its_models(world):
    models, positives, _, _, rows, columns, *_ = sweep(world, "switch: every = 1\ncraft", seeds=2)
    for model, positive in zip(models, positives, strict=True):
        sample(model, positive, world.encode(""), 3)
    images = [GRAY] * len(models)
    sheet, acted, *_ = ComparisonGrid.execute(images, rows, columns, [8], models=models).result
    assert torch.equal(sheet, grid(images, rows, columns))
    logs = [log_of(model) for model in models]
    assert logs[0] is logs[1] is not logs[2]
    ((switch, turns),), ((craft, _),) = logs[0].maps(), logs[2].maps()  # of two seeds, once
    assert (switch, craft) == ("switch\nevery = 1", "craft")
    assert [bool(content) for content, _ in amounts(turns)] == [True, False, True]
    titles = [log.maps()[0] for log in (logs[0], logs[2])]
    assert torch.equal(acted, activity_sheet(*zip(*titles, strict=True), heading=HEADING))


def test_a_model_that_did_not_run_and_one_in_which_nothing_acts_say_so(world):
    models, positives, *_ = sweep(world, "direct\ncraft")
    none = runs_sheet(models[:1])
    sample(models[1], positives[1], world.encode(""))
    assert log_of(models[0]).maps() == [] and len(log_of(models[1]).maps()) == 1
    assert none.shape[1] < runs_sheet(models).shape[1]
    with torch.inference_mode():
        models, positives, *_ = MethodSweep.execute(
            world.model, world.clip, "an animal", small.CONTENT, small.STYLE, 0.7, 0.3, ALL,
            "craft", 0, 1, 4, True,
        ).result  # fmt: skip
    sample(models[0], positives[0], world.encode(""))
    ((_, activity),) = log_of(models[0]).maps()
    assert not activity.amounts.any()


def test_a_grid_without_models_and_one_with_other_models(world):
    images, labels = [GRAY], (["a"], ["x"])
    for models in ([], [None]):
        _, acted, *_ = ComparisonGrid.execute(images, *labels, [8], models=models).result
        assert acted.shape[0] == 1 and acted.shape[-1] == 3
    with pytest.raises(CraftError, match="no log of its sampling runs"):
        ComparisonGrid.execute(images, *labels, [8], models=[world.model])


def test_the_planned_map_is_of_the_whole_run_where_its_sigmas_are_given(world):
    sigmas = torch.tensor([14.0, 8.0, 4.0, 2.0, 1.0, 0.5, 0.0])
    *_, planned, _, _ = sweep(world, "switch: every = 2", whole_sigmas=sigmas)
    *_, other, _, _ = sweep(world, "switch: every = 2", steps=20)
    assert planned.shape != other.shape or not torch.equal(planned, other)
    with pytest.raises(CraftError, match="whole_sigmas is empty"):
        sweep(world, "switch", whole_sigmas=sigmas[:0])
