"""Content/Style Score in the real host, on small encoders of the host's own classes."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import comfy.clip_vision
import pytest
import torch
from craft_lora_pack.comfy_adapter.draw.score_table import MOST_ROWS
from craft_lora_pack.comfy_adapter.score.scoring import (
    lines_by_group,
    picture_names,
    score_pictures,
)
from craft_lora_pack.comfy_adapter.score.vision import VisionEncoder, encoders_by_role
from craft_lora_pack.craft_core.errors import CraftError
from craft_lora_pack.craft_core.evaluation import crossed_interval, harmonic_mean
from craft_lora_pack.nodes.compare import ComparisonGrid
from craft_lora_pack.nodes.score import ContentStyleScore
from pair_parts import random_weights

from small_world.judge import JUDGES, as_images, load_judge
from small_world.judge_node import SmallWorldJudge
from small_world.world.render import render

_COMMON = {
    "hidden_size": 32, "image_size": 16, "num_attention_heads": 2, "num_hidden_layers": 2,
    "num_channels": 3, "patch_size": 4,
}  # fmt: skip
_CLIP = {"intermediate_size": 64, "hidden_act": "quick_gelu"}
CONFIGS = {
    "CLIP": {**_COMMON, **_CLIP, "model_type": "clip_vision_model", "projection_dim": 24},
    "SigLIP": {**_COMMON, **_CLIP, "model_type": "siglip_vision_model"},
    "DINOv2": {
        **_COMMON, "model_type": "dinov2", "layer_norm_eps": 1e-6, "use_swiglu_ffn": False,
        "mlp_ratio": 4,
    },
}  # fmt: skip


class Counting:
    """Stands for a CLIP_VISION."""

    def __init__(self):
        self.counts = []

    def encode_image(self, pictures, crop):
        self.counts.append(len(pictures))
        return {"image_embeds": pictures[:, 0, 0]}


@pytest.mark.parametrize(("side", "counts"), [(8, [16, 4]), (2048, [4] * 5), (8192, [1] * 20)])
def test_a_card_gets_no_more_pictures_at_once_than_it_has_room_for(side, counts):
    encoder = Counting()
    pictures = torch.rand(20, 1, 1, 3).expand(20, side, side, 3)
    found = VisionEncoder(encoder).features(pictures)
    assert encoder.counts == counts
    torch.testing.assert_close(found, pictures[:, 0, 0])


def tiny_vision(family: str = "CLIP", seed: int = 7) -> comfy.clip_vision.ClipVisionModel:
    """What Load CLIP Vision gives for a small file of that family."""
    with tempfile.TemporaryDirectory() as folder:  # older ComfyUI takes a file only
        config = Path(folder, "config.json")
        config.write_text(json.dumps(CONFIGS[family]))
        made = comfy.clip_vision.ClipVisionModel(str(config))
    missing, unexpected = made.load_sd(random_weights(made.get_sd(), seed))
    assert not missing and not unexpected
    return made


def pictures(count: int, seed: int, height: int = 16, width: int = 16) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, height, width, 3, generator=generator)


def run(images, **others):
    given = {"clip_vision": [tiny_vision()], **{name: [one] for name, one in others.items()}}
    if "names" in others:
        given["names"] = others["names"]
    with torch.inference_mode():
        report, table, data = ContentStyleScore.execute(images, **given).result
    return report, table, json.loads(data)


def column(data, measure):
    return [one[measure] for one in data["pictures"]]


@pytest.mark.parametrize("family", CONFIGS)
def test_a_picture_is_like_itself_and_an_encoder_says_which_it_is(family):
    images = pictures(3, 0)
    vision = tiny_vision(family)
    with torch.inference_mode():
        _, _, data = ContentStyleScore.execute(
            [images], [vision], content_reference=[images[1:2]]
        ).result
    found = json.loads(data)
    assert column(found, "content")[1] == pytest.approx(1, abs=1e-4)
    assert max(column(found, "content")) <= 1 + 1e-5
    name = found["encoders"]["content"]["name"]
    assert name.startswith(f"{family} (2 layers of width 32, ")
    assert ("mean of its tokens" in name) == (family == "SigLIP")
    assert found["encoders"]["content"]["preprocessing"] == "16 x 16, cropped in the middle"
    assert {one["encoder"] for one in found["means"]} == {name}


def test_two_files_of_one_class_have_two_names_in_every_precision():
    first, again, second = tiny_vision(seed=7), tiny_vision(seed=7), tiny_vision(seed=8)
    name = VisionEncoder(first).name
    again.model.half()
    assert name == VisionEncoder(again).name != VisionEncoder(second).name


def test_a_score_is_the_cosine_of_the_hosts_own_embeddings():
    images, content, style = pictures(2, 0), pictures(3, 1), pictures(1, 2)
    _, _, data = run([images], content_reference=content, style_reference=style)
    vision = tiny_vision()
    with torch.inference_mode():
        made, own, other = (
            vision.encode_image(one)["image_embeds"] for one in (images, content, style)
        )
    expected = torch.cosine_similarity(made[:, None], own[None], dim=-1).mean(1)
    torch.testing.assert_close(torch.tensor(column(data, "content")), expected)
    expected = torch.cosine_similarity(made, other)
    torch.testing.assert_close(torch.tensor(column(data, "style")), expected)
    both = [torch.tensor(column(data, role)) for role in ("content", "style")]
    together = torch.tensor(column(data, "harmonic mean"))
    torch.testing.assert_close(together, harmonic_mean(both))
    between = torch.cosine_similarity(own, other).mean()
    assert data["likeness_of_references"]["content"] == pytest.approx(float(between), abs=1e-5)


def test_pictures_of_all_sizes_keep_their_order_and_do_not_touch_each_other():
    batches = [pictures(2, 0), pictures(1, 1, 32, 24), pictures(20, 2)]
    reference = pictures(1, 3)
    _, _, data = run(batches, style_reference=reference)
    found = column(data, "style")
    singles = [one for batch in batches for one in batch.split(1)]
    alone = [column(run([one], style_reference=reference)[2], "style")[0] for one in singles]
    assert found == pytest.approx(alone, abs=1e-5)
    assert [one["name"] for one in data["pictures"]] == [str(k + 1) for k in range(23)]


def test_a_crop_looks_at_the_middle_and_none_at_the_whole():
    wide = torch.cat([torch.ones(1, 16, 16, 3), pictures(1, 0), torch.ones(1, 16, 16, 3)], 2)
    middle = wide[:, :, 16:32]
    for crop, equal in (("center", True), ("none", False)):
        _, _, data = run([wide], content_reference=middle, crop=crop)
        assert (column(data, "content")[0] == pytest.approx(1, abs=1e-4)) == equal


def test_an_encoder_for_each_role_shows_what_leaked():
    content, style = pictures(1, 1), pictures(1, 2)
    second = tiny_vision("DINOv2")
    images = torch.cat([pictures(2, 0), style])
    _, _, data = run([images], content_reference=content, style_reference=style,
                     style_clip_vision=second)  # fmt: skip
    measures = ["content", "style", "harmonic mean", "content leak", "style leak"]
    assert [key for key in data["pictures"][0] if key != "name"] == measures
    copied = data["pictures"][2]  # the style reference itself
    assert copied["style"] == pytest.approx(1, abs=1e-4)
    assert copied["content leak"] == pytest.approx(1, abs=1e-4)
    assert copied["content"] == pytest.approx(data["likeness_of_references"]["content"], abs=1e-5)
    made_by = {one["measure"]: one["encoder"] for one in data["means"]}
    assert made_by["content"].startswith("CLIP") and made_by["style leak"].startswith("DINOv2")
    assert made_by["harmonic mean"] == f"{made_by['content']}; {made_by['style']}"


def test_one_encoder_given_twice_is_one_encoder():
    vision, images, reference = tiny_vision(), pictures(2, 0), pictures(1, 1)
    with torch.inference_mode():
        found, expected = (
            ContentStyleScore.execute(
                [images], [vision], content_reference=[reference], style_reference=[images],
                style_clip_vision=second,
            ).result[0]
            for second in ([vision], [])
        )  # fmt: skip
    assert found == expected and "leak" not in found


def test_pictures_of_one_name_have_a_mean_with_an_interval():
    batches = [pictures(1, seed) for seed in range(6)]
    names = ["craft", "craft", "direct", "craft", "direct", "alone"]
    report, _, data = run(batches, content_reference=pictures(1, 9), names=names)
    scores = column(data, "content")
    means = {one["name"]: one for one in data["means"]}
    assert list(means) == ["craft", "direct", "alone"]
    craft = [scores[k] for k in (0, 1, 3)]
    assert (means["craft"]["n"], means["craft"]["over"]) == (3, ["pictures"])
    assert means["craft"]["mean"] == pytest.approx(sum(craft) / 3)
    low, high = crossed_interval(craft, [range(3)])
    assert (means["craft"]["low"], means["craft"]["high"]) == (low, high)
    assert (means["alone"]["low"], means["alone"]["high"]) == (None, None)
    assert f"[{low:.3f}, {high:.3f}]" in report


def test_the_report_has_every_picture_and_every_encoder():
    report, table, data = run([pictures(3, 0)], content_reference=pictures(1, 1), names=["a\nb\nc"])
    assert report.startswith("content is scored by CLIP (2 layers of width 32, projected, weights ")
    for name, value in zip("abc", column(data, "content"), strict=True):
        assert any(line.split() == [name, f"{value:.3f}"] for line in report.split("\n"))
    assert "mean of" in report and "all pictures" in report
    assert table.shape[0] == 1 and table.shape[-1] == 3 and table.min() < 0.5


def test_a_name_of_two_lines_is_one_line_of_the_report():
    names = ["direct\nguidance = cfg"]
    report, _, data = run([pictures(1, 0)], content_reference=pictures(1, 1), names=names)
    value = column(data, "content")[0]
    assert f"direct, guidance = cfg    {value:.3f}" in report


def test_a_table_shows_only_as_many_pictures_as_fit():
    tall = [run([pictures(n, 0)], content_reference=pictures(1, 1))[1].shape[1] for n in (2, 4, 90)]
    row = (tall[1] - tall[0]) // 2
    assert tall[2] < tall[0] + (MOST_ROWS + 1) * row


def test_names_are_for_pictures_batches_or_all():
    assert picture_names([], [2, 1]) == ("1", "2", "3")
    assert picture_names(["a", "b"], [2, 1]) == ("a", "a", "b")
    assert picture_names(["a", "b", "c"], [2, 1]) == ("a", "b", "c")
    assert picture_names(["a\nb\nc"], [3]) == ("a", "b", "c")
    assert picture_names(["one"], [2, 1]) == ("one",) * 3
    assert picture_names(["of two\nlines"], [1]) == ("of two\nlines",)
    assert picture_names([" "], [2]) == picture_names([], [2]) == ("1", "2")


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({}, "There is no reference"),
        ({"content_reference": pictures(0, 0)}, "There is no reference"),
        ({"content_reference": pictures(1, 0), "names": ["a", "b"]}, "2 names for 3 pictures"),
        ({"style_reference": pictures(1, 0) * torch.nan}, "Picture 1 of style_reference"),
    ],
)
def test_what_cannot_be_scored_is_said_in_three_parts(given, why):
    with pytest.raises(CraftError, match=why) as caught:
        run([pictures(3, 0)], **given)
    assert caught.value.given and caught.value.possible and caught.value.action


def test_no_picture_and_two_encoders_for_one_role_are_refused():
    with pytest.raises(CraftError, match="There is no picture"):
        run([pictures(0, 0)], content_reference=pictures(1, 0))
    with pytest.raises(CraftError, match="clip_vision got 2 encoders"):
        ContentStyleScore.execute([pictures(1, 0)], [tiny_vision()] * 2)


def test_the_small_worlds_judges_score_as_any_other_encoder():
    with torch.inference_mode():
        content_judge, style_judge = SmallWorldJudge.execute("second").result
        content, style = ("house", "flat"), ("tree", "neon")
        shown = [(content[0], style[1]), content, style]
        renders = [torch.from_numpy(render(*pair, seed=k)).float()[None] / 255
                   for k, pair in enumerate(shown)]  # fmt: skip
        _, _, data = ContentStyleScore.execute(
            renders, [content_judge], content_reference=[renders[1]], style_reference=[renders[2]],
            style_clip_vision=[style_judge],
        ).result  # fmt: skip
    found = json.loads(data)
    name = "small world's second judge, content"
    assert found["encoders"]["content"] == {"name": name, "preprocessing": "64 x 64, squeezed"}
    asked, copy_of_content, copy_of_style = found["pictures"]
    assert copy_of_content["content"] == pytest.approx(1, abs=1e-4)
    assert copy_of_style["style"] == pytest.approx(1, abs=1e-4)
    others = max(one["harmonic mean"] for one in (copy_of_content, copy_of_style))
    assert asked["harmonic mean"] > others
    assert asked["content leak"] < 0.5 < copy_of_style["content leak"]
    judge = load_judge(JUDGES[1])
    same = judge.content_similarity(*(as_images([render(*shown[k], seed=k)]) for k in (0, 1)))
    assert asked["content"] == pytest.approx(float(same), abs=1e-3)


def grid(images, rows, columns, **others):
    with torch.inference_mode():
        return ComparisonGrid.execute(images, rows, columns, [64], **others).result


BOTH = {"content_reference": [pictures(1, 9)], "style_reference": [pictures(1, 8)],
        "clip_vision": [tiny_vision()]}  # fmt: skip


def test_a_grid_prints_the_scores_of_each_cell():
    images = [pictures(n, n) for n in (1, 2, 1)]
    rows, columns = ["craft", "craft", "direct"], ["seed 1", "seed 2", "seed 1"]
    reference = pictures(1, 9)
    plain, _, none, _ = grid(images, rows, columns, content_reference=[reference])
    shown, _, report, _ = grid(images, rows, columns, content_reference=[reference],
                            clip_vision=[tiny_vision()])  # fmt: skip
    named = [row for row, batch in zip(rows, images, strict=True) for _ in batch]
    expected, _, data = run(images, content_reference=reference, names=named)
    assert (none, report) == ("", expected)
    assert shown.shape[1] > plain.shape[1]
    scores = score_pictures(images, {"content": [reference]}, encoders_by_role([tiny_vision()], []))
    lines = lines_by_group(scores, ["a", "b", "b", "c"])
    values = column(data, "content")
    means = {"a": values[0], "b": (values[1] + values[2]) / 2, "c": values[3]}
    assert lines == {name: f"content {mean:.3f}" for name, mean in means.items()}


def test_a_grid_scores_only_with_an_encoder_and_a_reference():
    for given, why in (
        ({"clip_vision": [tiny_vision()]}, "There is no reference"),
        ({"style_clip_vision": [tiny_vision()]}, "There is no clip_vision"),
    ):
        with pytest.raises(CraftError, match=why):
            grid([pictures(1, 0)], ["a"], ["b"], **given)


def test_a_grid_puts_the_best_row_first_where_it_is_asked():
    images = [pictures(2, seed) for seed in range(4)]
    rows = ["a", "b", "c", "d"]
    _, _, data = run(images, names=rows, content_reference=BOTH["content_reference"][0],
                     style_reference=BOTH["style_reference"][0])  # fmt: skip
    for measure in ("harmonic mean", "content", "style"):
        means = {one["name"]: one["mean"] for one in data["means"] if one["measure"] == measure}
        best = sorted(rows, key=lambda name: -means[name])
        assert best != rows
        by_hand = [rows.index(name) for name in best]
        expected = grid([images[k] for k in by_hand], best, ["x"], **BOTH)
        found = grid(images, rows, ["x"], sort_by=[measure], **BOTH)
        assert torch.equal(found[0], expected[0]) and torch.equal(found[3], expected[3])
    given = grid(images, rows, ["x"], sort_by=["as given"], **BOTH)
    assert torch.equal(given[0], grid(images, rows, ["x"], **BOTH)[0])


def test_a_row_of_a_grid_says_its_means():
    images = [pictures(1, seed) for seed in range(4)]
    alike = grid([images[0]] * 4, ["a", "a", "b", "b"], ["x", "y", "x", "y"], **BOTH)[0]
    apart = grid(images, ["a", "a", "b", "b"], ["x", "y", "x", "y"], **BOTH)[0]
    assert alike.shape == apart.shape
    left = slice(0, 100)
    assert not torch.equal(alike[:, :, left], apart[:, :, left])


def test_a_grid_plots_its_rows_where_both_roles_are_scored():
    images, rows = [pictures(2, seed) for seed in range(3)], ["a", "b", "c"]
    plot = grid(images, rows, ["x"], **BOTH)[3]
    nothing = grid(images, rows, ["x"])[3]
    assert plot.shape[1] > 500 > nothing.shape[1]
    for role in ("content_reference", "style_reference"):
        one_role = {name: given for name, given in BOTH.items() if name != role}
        assert torch.equal(grid(images, rows, ["x"], **one_role)[3], nothing)


@pytest.mark.parametrize("lacking", ["clip_vision", "content_reference", "style_reference"])
def test_a_grid_is_not_sorted_by_what_is_not_scored(lacking):
    given = {name: one for name, one in BOTH.items() if name != lacking}
    with pytest.raises(CraftError, match="sort_by is harmonic mean"):
        grid([pictures(1, 0)], ["a"], ["x"], sort_by=["harmonic mean"], **given)
