"""The table of gates and the choice of the pairs that are shown, as far as they need no host."""

import itertools
import json
from collections import Counter
from pathlib import Path

import pytest

from small_world.train.measuring import gates, shown, starting
from small_world.train.measuring.worlds import SMALL_WORLD
from small_world.train.references import STYLE
from small_world.world import held_out
from small_world.world.objects import OBJECTS


def plan(out: Path = Path(), **settings) -> gates.GatePlan:
    checkpoint = out / "checkpoint.safetensors"
    return gates.GatePlan(checkpoint, out, out, **settings)


def fused(pair, geo: float) -> dict:
    figures = {f"{name} {k}": [geo] for name in ("geo", "truth geo", "both", "truth both")
               for k in (1, 2)}  # fmt: skip
    return {"asked": [pair], "excess": [2.0], **figures}


def test_every_object_and_style_is_fused_equally_often():
    pairs = plan().pairs()
    assert len(set(pairs)) == len(pairs) == 18 * 3
    for axis in (0, 1):
        assert set(Counter(pair[axis] for pair in pairs).values()) == {3}
    assert len(plan(limit=2).pairs()) == 4  # two styles at most


@pytest.mark.parametrize("half", gates.HALVES)
def test_only_words_of_the_half_are_measured(half):
    contents, styles = gates.HALVES[half]
    jobs = plan(half=half, parts=("alone", "one", "fused")).jobs()
    assert len({job.key for job in jobs}) == len(jobs)
    for job in jobs:
        assert set(job.names) <= {*contents, *styles}


def test_a_lora_alone_is_asked_24_times_and_never_for_what_it_was_shown():
    for role in ("content", "style"):
        asked = SMALL_WORLD.asked_alone(role, "spider" if role == "content" else "knit")
        assert len(asked) * SMALL_WORLD.alone_each(role) == 24 and len(set(asked)) == len(asked)
    assert STYLE[0] not in {name for name, _ in SMALL_WORLD.asked_alone("style", "knit")}


def test_results_are_kept_and_belong_to_one_checkpoint(tmp_path):
    path = tmp_path / "checkpoint.safetensors"
    path.write_bytes(b"one")
    gates.Kept(plan(tmp_path)).add("fused/spider/knit/4", fused(("spider", "knit"), 0.5))
    assert list(gates.Kept(plan(tmp_path)).results) == ["fused/spider/knit/4"]
    path.write_bytes(b"another")
    with pytest.raises(SystemExit, match="Name another with --out"):
        gates.Kept(plan(tmp_path))


def test_the_table_has_a_row_for_what_was_measured_and_for_nothing_else():
    jobs = plan(limit=1, parts=("fused",)).jobs()
    results = {job.key: fused(job.names, 0.5) for job in jobs}
    rows = gates.table(plan(limit=1, parts=("fused",)), results).splitlines()
    assert len(rows) == 2 + 5 and all(row.count("|") == 6 for row in rows)
    assert "| two LoRAs, geo | 1 (1 objects, 1 styles) | 0.50 [0.50, 0.50] |" in rows[4]
    assert len(gates.table(plan(), {}).splitlines()) == 2


def test_a_lora_of_one_picture_counts_once():
    asked = plan(limit=2, parts=("alone", "one"))
    rights = [1.0] * 24
    results = {
        job.key: {"asked": [(job.names[0], f"style {k}") for k in range(24)],
                  "right 1": rights, "right 2": rights}
        for job in asked.jobs()
    }  # fmt: skip
    rows = gates.table(asked, results).splitlines()
    (row,) = [row for row in rows if "content LoRA alone (1 picture), right" in row]
    assert "| 48 (2 objects, 24 styles) |" in row
    (row,) = [row for row in rows if "content LoRA alone (1 picture), share" in row]
    assert "| 2 LoRAs |" in row


def test_a_plan_of_some_objects_takes_each_style_of_the_half():
    animals = plan(objects=("spider", "bee"), each=18)
    assert animals.contents() == ("spider", "bee")
    assert set(animals.pairs()) == set(itertools.product(animals.contents(), animals.styles()))
    alone = [job.part for job in plan(objects=("bee",), parts=("alone",)).jobs()]
    assert alone.count("content") == 1 and alone.count("style") == len(animals.styles())
    with pytest.raises(SystemExit, match="owl: no object of the report half. It has spider"):
        plan(objects=("owl",)).contents()


def test_the_pairs_shown_are_nearest_the_median_each_word_once():
    scored = {("spider", "knit"): 0.1, ("gem", "knit"): 0.5, ("bee", "lava"): 0.52,
              ("gem", "sepia"): 0.45, ("drum", "cork"): 0.9}  # fmt: skip
    demo, pairs = shown.chosen(scored)
    assert demo == ("bee", "lava") and OBJECTS[demo[0]].family == shown.FAMILY
    assert pairs == [("gem", "knit"), ("bee", "lava"), ("drum", "cork")]
    assert shown.chosen({("gem", "knit"): 1.0})[0] is None


def test_the_demo_shows_the_best_pair_with_an_animal():
    scored = {("bee", "lava"): 0.5, ("bee", "sepia"): 0.8, ("gem", "knit"): 0.9}
    assert shown.chosen(scored)[0] == ("bee", "sepia")


def test_a_choice_needs_scores_and_is_written_where_the_references_read_it(tmp_path, monkeypatch):
    target = tmp_path / "shown.json"
    target.write_text(json.dumps({"demo": ["owl", "vapor"], "pairs": []}))
    monkeypatch.setattr(shown, "SHOWN", target)
    with pytest.raises(SystemExit, match="gates --parts fused"):
        shown.choose(tmp_path)
    results = {"fused/bee/knit/4": fused(("bee", "knit"), 0.5)}
    (tmp_path / "gates.json").write_text(json.dumps({"results": results}))
    shown.choose(tmp_path)
    assert json.loads(target.read_text()) == {"demo": ["bee", "knit"], "pairs": [["bee", "knit"]]}


def test_what_is_shown_was_never_trained():
    kept = json.loads(shown.SHOWN.read_text("utf-8"))
    for content, style in [kept["demo"], *kept["pairs"]]:
        assert content in held_out.OBJECTS and style in held_out.STYLES
    assert OBJECTS[kept["demo"][0]].family == shown.FAMILY  # the workflows say `a sks animal`


def measured(style: float, content_right: list[float]) -> dict[str, list[float]]:
    values = {"style cosine": [style] * 2, "content right": content_right, "geo": [0.5] * 2,
              "both right": [1.0, 0.0]}  # fmt: skip
    return {f"{name} {judge}": held for name, held in values.items() for judge in (1, 2)}


def test_the_most_style_is_looked_for_where_contents_are_right():
    rows = starting.ROWS["style"]
    of_pair = [measured(0.1 * place, [1.0, 1.0]) for place in range(len(rows))]
    of_pair[-1] = measured(0.9, [1.0, 0.5])
    assert starting.most_style([of_pair, of_pair]) == rows[-2]
    of_pair[-1] = measured(0.9, [1.0, 0.7])
    assert starting.most_style([of_pair, of_pair]) == rows[-1]
    none = [measured(0.9, [0.5, 0.5])] * len(rows)
    assert starting.most_style([none]) is None


def test_what_a_fusion_starts_with_is_a_row_each_the_best_first():
    pairs = [("owl", "vapor"), ("fox", "quilt")]
    of_pair = [measured(0.1 * place, [1.0, 1.0]) for place in range(len(starting.ROWS["style"]))]
    head, _, first, *others = starting.table(pairs, [of_pair] * 2, "style").splitlines()
    assert head == "| | style cosine, judge 1 | judge 2 | content right, judge 1 | judge 2 |"
    assert first.startswith("| ACFG, cfg 3, strength 0.5, constant | 0.60 [0.60, 0.60] |")
    assert len(others) == len(of_pair) - 1
    assert any(line.startswith("| standard, cfg 3, 0.7 and 1, constant |") for line in others)
