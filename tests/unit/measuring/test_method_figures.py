"""The figures of benchmarks/methods.py, on results made by hand."""

import json

import numpy as np
import pytest
import torch

from benchmarks.methods import (
    FRAME,
    GRIDS,
    STEPS,
    beyond,
    choose,
    design,
    failures,
    grid,
    held,
    jobs_at,
    named,
    said,
    strangers,
    tune,
    tuned_ways,
)
from benchmarks.parts.method_figures import (
    Row,
    best_point,
    columns,
    correlation,
    differences,
    draws,
    levels,
    p_value,
    smallest_found,
    table,
)
from benchmarks.parts.method_pictures import EDGE, best_of_each, median_pairs, pairs_sheet
from benchmarks.parts.method_runs import CHANCE, TRUTH, WAYS, Job, Journal, alone_key

CONTENTS, STYLES = "abcd", "wxyz"
PAIRS = [(c, STYLES[(k + turn) % 4]) for turn in range(3) for k, c in enumerate(CONTENTS)]


def result(content: float, style: float, right: int = 1) -> list:
    """Two pictures by two judges, all alike."""
    return [[[content, style, right, right]] * 2] * 2


def world(**means: float) -> dict:
    """Each name's pairs around its mean, the same luck of a pair in every name."""
    luck = dict(zip(PAIRS, np.random.default_rng(0).normal(0, 0.05, len(PAIRS)), strict=True))
    return {
        name: {pair: result(mean + luck[pair], mean + luck[pair]) for pair in PAIRS}
        for name, mean in means.items()
    }


def test_geo_and_both_right_are_taken_picture_by_picture():
    rows = [[[0.25, 1.0, 1, 0]], [[1.0, 0.25, 0, 1]]]
    geo, content, style, both = columns(rows, None)
    assert (geo, content, style, both) == (0.5, 0.625, 0.625, 0)


def test_a_judge_by_itself():
    rows = [[[0.2, 0.2, 1, 1], [0.6, 0.6, 0, 0]]]
    assert columns(rows, 0)[0] == pytest.approx(0.2) and columns(rows, 1)[0] == pytest.approx(0.6)
    assert columns(rows, None)[0] == pytest.approx(0.4)


def test_draws_weigh_pairs_by_their_objects_and_styles():
    weights = draws(PAIRS, 500)
    assert np.allclose(weights.sum(1), 1) and np.allclose(weights[0], 1 / len(PAIRS))
    assert np.allclose(weights[1:].mean(0), 1 / len(PAIRS), atol=0.02)
    gone = weights[1:][:, [pair[0] == "a" for pair in PAIRS]].sum(1) == 0
    assert 0.2 < gone.mean() < 0.45  # (3 / 4)^4 of the draws leave an object out


def test_the_way_is_nothing_without_loras_and_whole_at_the_truth():
    results = world(nothing=0.2, direct=0.5, better=0.6, truth=0.8)
    rows = {row.name: row for row in table(results, "nothing", "truth", "direct")}
    assert rows["nothing"].way.value == pytest.approx(0)
    assert rows["truth"].way.value == pytest.approx(1)
    assert rows["direct"].way.value == pytest.approx(0.5)
    assert rows["direct"].less is None and rows["direct"].p is None
    assert rows["better"].less.low > 0 and rows["better"].p < 0.01
    assert rows["better"].less.value == pytest.approx(1 / 6)


def test_a_difference_of_pure_luck_is_not_found():
    rng = np.random.default_rng(1)
    found = 0
    for _ in range(20):
        results = world(nothing=0.2, direct=0.5, truth=0.8)
        results["other"] = {
            pair: result(*(0.5 + rng.normal(0, 0.05, 2)).clip(0, 1)) for pair in PAIRS
        }
        rows = {row.name: row for row in table(results, "nothing", "truth", "direct")}
        found += rows["other"].p < 0.01
    assert found <= 2


def test_only_pairs_that_every_way_has_are_compared():
    results = world(nothing=0.2, direct=0.5, truth=0.8)
    del results["direct"][PAIRS[0]]
    results["truth"][PAIRS[0]] = result(0.0, 0.0)
    rows = {row.name: row for row in table(results, "nothing", "truth", "direct")}
    assert rows["truth"].content.value > 0.7
    with pytest.raises(AssertionError, match="no pair"):
        table(results | {"empty": {}}, "nothing", "truth", "direct")


@pytest.mark.parametrize(
    ("contents", "styles", "each"), [(18, 18, 6), (18, 4, 4), (3, 3, 2), (12, 3, 1)]
)
@pytest.mark.parametrize("spreads", [(1.0, 1.0), (0.2, 1.0), (1.0, 0.2)])
def test_no_difference_is_found_in_at_most_one_measurement_of_twenty(
    contents, styles, each, spreads
):
    """However few the objects and styles are, and whichever differ more."""
    pairs = design(range(contents), [f"s{k}" for k in range(styles)], each)
    weights = draws(pairs, 300)
    places = [np.unique([str(pair[k]) for pair in pairs], return_inverse=True)[1] for k in (0, 1)]
    rng, found, by_percentiles = np.random.default_rng(3), [], []
    for _ in range(400):
        by = [rng.normal(0, spread, place.max() + 1)[place]
              for spread, place in zip(spreads, places, strict=True)]  # fmt: skip
        values = weights @ (by[0] + by[1] + rng.normal(0, 0.5, len(pairs)))
        found.append(p_value(values, levels(pairs)) < 0.05)
        low, high = np.quantile(values[1:], (0.025, 0.975))
        by_percentiles.append(low > 0 or high < 0)
    assert np.mean(found) < 0.08
    if styles < 5 and spreads != (1.0, 0.2):  # what Student's intervals are for
        assert np.mean(by_percentiles) > 0.1


def test_a_difference_that_never_varies_is_one():
    assert p_value(np.zeros(100), 5) == 1.0 and p_value(np.ones(100), 5) == 0.0
    assert p_value(np.array([0.5, *np.linspace(-1, 2, 99)]), 1) == 1.0  # one object tells nothing


def test_the_strength_is_chosen_on_pairs_that_all_strengths_have():
    results = {0.5: {PAIRS[0]: result(0.4, 0.4)}, 1.0: {PAIRS[0]: result(0.5, 0.5)}}
    results[0.5][PAIRS[1]] = result(1.0, 1.0)
    assert best_point(results) == 1.0


@pytest.mark.parametrize("which", GRIDS)
def test_every_rule_has_as_many_points(which):
    assert len({len(points) for points in GRIDS[which].values()}) == 1
    assert all(len(set(points)) == len(points) for points in GRIDS[which].values())


def test_either_rule_is_tuned_at_two_cfgs_unless_strengths_alone_are():
    for points in GRIDS["cfg"].values():
        assert {cfg for cfg, _ in points} == {2, 3}
    assert grid("ACFG", 3.0, "strength") == [(None, s) for s in (0.25, 0.35, 0.5, 0.7)]


def test_runs_at_the_cfg_of_a_journal_have_the_keys_of_older_journals():
    assert grid("standard", 3.0)[0] == (None, 0.7)
    (job,) = jobs_at("direct", "ACFG", (None, 0.7), [("owl", "glass")]).values()
    assert job.key == Job("direct", "ACFG", 0.7, "owl", "glass").key == "direct/ACFG/0.7/owl/glass"
    (other,) = jobs_at("direct", "ACFG", (2.0, 0.7), [("owl", "glass")]).values()
    assert other.key == "direct/ACFG/0.7 at cfg 2/owl/glass"
    assert grid("ACFG", 2.0)[-1] == (None, 1.25) and grid("ACFG", 2.0)[0] == (3.0, 0.5)


def test_the_choice_names_its_cfg(tmp_path):
    journal = Journal(tmp_path / "methods.jsonl", {})
    best_at = {"standard": (None, 1.3), "ACFG": (2.0, 0.75), "role": (2.0, 1.5)}
    for rule, best in best_at.items():
        for point in grid(rule, 3.0):
            for job in jobs_at("direct", rule, point, PAIRS).values():
                journal.add(job.key, result(*[0.8 if point == best else 0.5] * 2))
    grids = {("direct", rule): grid(rule, 3.0) for rule in best_at}
    chosen = choose(journal, grids, PAIRS)
    assert {rule: named(point, 3.0, rule) for (_, rule), point in chosen.items()} == {
        "standard": "cfg 3, strength 1.3", "ACFG": "cfg 2, strength 0.75",
        "role": "cfg 2, weight 1.5",
    }  # fmt: skip


def test_the_difference_that_is_said_to_be_found_is_found_in_about_four_of_five():
    rng = np.random.default_rng(2)
    pairs = [(c, (c + turn) % 12) for c in range(12) for turn in range(4)]

    def other(true: float) -> Row:
        """Whose true difference differs between objects and between styles."""
        by = rng.normal(0, 0.04, (2, 12))
        shares = {"nothing": 0.0, "direct": 0.5, "truth": 1.0}
        results = {n: dict.fromkeys(pairs, result(share, share)) for n, share in shares.items()}
        results["other"] = {
            (c, s): result(*[0.5 + true + by[0, c] + by[1, s]] * 2) for c, s in pairs
        }
        return table(results, "nothing", "truth", "direct")[-1]

    errors = [other(0.0).error for _ in range(20)]
    smallest = smallest_found(float(np.median(errors)), 12)
    assert smallest_found(1.0, 12, 30) > 1.3 * smallest_found(1.0, 12)
    found = np.mean([other(smallest).p < 0.05 for _ in range(60)])
    assert 0.65 < found < 0.95


def test_the_order_of_two_lists_agrees_by_rank_alone():
    assert correlation([1, 2, 3, 4], [10, 20, 30, 1000]) == pytest.approx(1)
    assert correlation([1, 2, 3, 4], [4, 3, 2, 1]) == pytest.approx(-1)
    assert correlation([1, 1, 2], [5, 5, 9]) == pytest.approx(1)


def test_runs_of_another_training_of_the_loras_are_kept_apart():
    (job,) = jobs_at("direct", "ACFG", (2.0, 0.7), [("owl", "glass")], 1).values()
    assert job.key == "direct/ACFG/0.7 at cfg 2/owl/glass/seed 1"
    assert job.against(("bee", "knit")) == (
        f"{CHANCE}/ACFG/0.7 at cfg 2/owl/glass/seed 1/as/bee/knit"
    )
    assert alone_key("style", "glass") == "alone/style/glass"
    assert alone_key("style", "glass", 1) == "alone/style/glass/seed 1"
    (job,) = jobs_at(TRUTH, "", (None, 0.0), [("owl", "glass")], 1).values()
    assert job.lora_seed == 0  # neither LoRAs nor noise are in a render


def test_a_pair_counts_once_all_its_trainings_are_measured(tmp_path):
    journal = Journal(tmp_path / "methods.jsonl", {})
    point = (2.0, 0.75)
    for seed, pairs in ((0, PAIRS[:2]), (1, PAIRS[:1])):
        for job in jobs_at("direct", "ACFG", point, pairs, seed).values():
            journal.add(job.key, result(0.5 + seed / 10, 0.5))
    both = held(journal, "direct", "ACFG", point, PAIRS, (0, 1))
    assert list(both) == PAIRS[:1] and len(both[PAIRS[0]]) == 4
    assert columns(both[PAIRS[0]], None)[1] == pytest.approx(0.55)
    assert list(held(journal, "direct", "ACFG", point, PAIRS)) == PAIRS[:2]


def test_the_table_has_a_column_for_every_judge_and_every_training(tmp_path):
    class Options:
        cfg, pictures, steps, lora_seeds = 3.0, 2, 12, 2

    journal = Journal(tmp_path / "methods.jsonl", {})
    ways = {"direct": 0.6, "craft, auto": 0.7, "switch": 0.5}
    points = {(way, "standard"): (None, 1.0) for way in ways}
    shares = {**dict.fromkeys(FRAME, 0.2), **ways, TRUTH: 0.9}
    for way, level in shares.items():
        for seed in (0, 1):
            for job in jobs_at(
                way,
                "" if way == TRUTH else "standard",
                (None, 0.0 if way == TRUTH else 1.0),
                PAIRS,
                seed,
            ).values():
                if job.key not in journal.results:
                    journal.add(job.key, result(level - seed / 10, level - seed / 10))
                if way == "direct":
                    journal.add(job.against(strangers(PAIRS)[job.content, job.style]),
                                result(0.2, 0.2))  # fmt: skip
    rows, text = said(Options, journal, points, PAIRS)
    head = next(line for line in text.splitlines() if line.startswith("| method"))
    assert head.endswith("| judge 1 | judge 2 | LoRAs 1 | LoRAs 2 |")
    assert "4 pictures a pair" in text
    assert "rank correlation of LoRAs 1 and LoRAs 2 over 3 rows: 1.00" in text
    (best,) = [line for line in text.splitlines() if line.startswith("| craft, auto")]
    assert best.endswith("| 0.67 | 0.67 | 0.71 | 0.63 |")  # (0.7 - 0.2) / 0.7, 0.5 / 0.8
    Options.lora_seeds = 1
    assert "LoRAs" not in said(Options, journal, points, PAIRS)[1]


def test_a_lora_that_fails_is_named_with_its_training(tmp_path):
    journal = Journal(tmp_path / "methods.jsonl", {})
    for name in ("owl", "bee"):
        for role, seed in (("content", 0), ("content", 1), ("style", 0), ("style", 1)):
            fine = (name, role, seed) != ("bee", "content", 1)
            journal.add(alone_key(role, name, seed), [1.0, 1.0] if fine else [0.5, 0.6])
    halves = {"report": (("owl", "bee"), ("owl", "bee"))}
    text = failures(journal, halves, 0.8, range(2))
    many = "LoRAs right in 80% of their pictures or more"
    assert f"content {many}: 3 of 4; left out: bee (seed 1) 0.55\n" in text
    assert f"style {many}: 4 of 4\n" in text


def test_a_grid_goes_on_where_the_best_lies_at_its_end(tmp_path):
    assert beyond((None, 1.6), grid("standard", 3.0)) == (None, 2.0)
    assert beyond((None, 0.7), grid("standard", 3.0)) == (None, 0.56)
    assert beyond((2.0, 1.3), grid("standard", 3.0)) == (2.0, 1.625)
    assert beyond((None, 1.0), grid("standard", 3.0)) is None

    class Options:
        cfg, grid, pictures, beyond = 3.0, "cfg", 2, STEPS

    class Workers:
        """Pictures whose score is highest at a strength."""

        def __init__(self, best):
            self.best = best

        def do(self, jobs, journal, say):
            for job in jobs:
                off = abs(job.strength - self.best) / 100 + (job.cfg == 2.0) / 10
                journal.add(job.key, result(0.9 - off, 0.9 - off))

    def go(best):
        journal = Journal(tmp_path / f"{best}.jsonl", {})
        return tune(Workers(best), journal, ["switch"], PAIRS, Options, lambda _: None)

    points, at_end = go(2.4)
    assert points["switch", "standard"] == (None, 2.5) and at_end == [("switch", "ACFG")]
    assert points["switch", "ACFG"][1] == pytest.approx(0.7 * 1.25**STEPS, abs=1e-2)
    points, at_end = go(0.6)
    assert points == {("switch", "standard"): (None, 0.56), ("switch", "ACFG"): (None, 0.5)} or (
        points["switch", "ACFG"] == (None, 0.7)
    )
    assert not at_end


def test_the_direct_merge_alone_is_measured_under_role_guidance():
    under = {}
    for way, rule in tuned_ways(list(WAYS)):
        under.setdefault(way, []).append(rule)
    assert under.pop("direct") == ["standard", "ACFG", "role"]
    assert all(rules == ["standard", "ACFG"] for rules in under.values())


def test_every_pair_has_a_stranger_of_its_own():
    pairs = design([f"c{k}" for k in range(18)], [f"s{k}" for k in range(18)], 6)
    others = strangers(pairs)
    assert set(others) == set(pairs) and len(set(others.values())) == len(pairs)
    assert all(not set(pair) & set(other) for pair, other in others.items())
    two = [("a", "x"), ("b", "y"), ("a", "y")]
    assert strangers(two) == {("a", "x"): ("b", "y"), ("b", "y"): ("a", "x")}


def test_two_rules_are_compared_pair_by_pair():
    results = world(nothing=0.2, one=0.6, other=0.5, truth=0.8)
    ((way, content, style),) = differences(results, [("one", "other")], "nothing",
                                           "truth").values()  # fmt: skip
    assert way.value == pytest.approx(1 / 6) and 0 < way.low < way.high
    assert content.value == pytest.approx(0.1) and style.low > 0


def test_a_journal_goes_on_after_a_line_that_was_cut_short(tmp_path):
    path = tmp_path / "methods.jsonl"
    Journal(path, {"steps": 1}).add("a", [1])
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(["b", [2]])[:5])
    again = Journal(path, {"steps": 1})
    again.add("c", [3])
    assert Journal(path, {"steps": 1}).results == {"a": [1], "c": [3]}
    with pytest.raises(SystemExit, match="--out"):
        Journal(path, {"steps": 2})


def test_a_journal_says_where_some_of_its_results_were_made_for_something_else(tmp_path):
    path = tmp_path / "methods.jsonl"
    Journal(path, {}).pledge("ways", {"basis": "a", "steps": (1, 2)})
    journal = Journal(path, {})
    journal.pledge("ways", {"basis": "a", "steps": (1, 2)})
    journal.pledge("others", {"basis": "b"})
    assert len(path.read_text("utf-8").splitlines()) == 3
    with pytest.raises(SystemExit, match="ways were measured for.*--out"):
        journal.pledge("ways", {"basis": "b", "steps": (1, 2)})


def test_the_plot_has_a_point_for_every_tuned_row(tmp_path):
    from PIL import Image

    from benchmarks.methods import write_plot

    rows = table(world(none=0.1, direct=0.5, other=0.6, true=0.9), "none", "true", "direct")
    write_plot(tmp_path / "plot.png", rows[1:3], len(PAIRS) * 2)
    with Image.open(tmp_path / "plot.png") as plot:
        assert plot.width > 700 and plot.height > 600
        assert len(plot.convert("RGB").getcolors()) > 16


def test_shown_are_the_pairs_nearest_the_median_and_the_better_rule_of_each_way():
    names = [("owl", "glass"), ("bee", "knit"), ("fox", "lava"), ("kite", "plum"), ("gem", "riso")]
    scored = dict(zip(names, (0.1, 0.4, 0.5, 0.6, 0.9), strict=True))
    results = [{pair: result(score + more, score + more) for pair, score in scored.items()}
               for more in (0.0, 0.05)]  # fmt: skip
    assert set(median_pairs(results, 3)) == {("bee", "knit"), ("fox", "lava"), ("kite", "plum")}
    found = table(world(none=0.1, direct=0.5, worse=0.4, other=0.6, true=0.9),
                  "none", "true", "direct")[1:4]  # fmt: skip
    keys = {"direct": ("direct", "standard"), "worse": ("direct", "ACFG"),
            "other": ("switch", "ACFG")}  # fmt: skip
    assert [row.name for row in best_of_each(found, keys)] == ["other", "direct"]


def test_the_sheet_has_a_column_for_each_pair_and_a_row_for_each_way():
    pairs = [("owl", "glass"), ("bee", "knit")]
    small = np.zeros((64, 64, 3), np.uint8)
    greys = {"true render": 1.0, "direct\n0.87": -1.0, "no LoRA": 0.0}
    drawn = {name: [torch.full((3, 64, 64), grey)] * 2 for name, grey in greys.items()}
    sheet = pairs_sheet(pairs, {pair: [small, small] for pair in pairs}, drawn)
    assert sheet.height > 5 * EDGE and 2 * EDGE < sheet.width < 6 * EDGE
    right = np.asarray(sheet)[:, -EDGE // 2]
    grey = (np.abs(right.astype(int) - 127.5) < 1).all(1)
    assert (right == 255).all(1).any() and grey.sum() >= EDGE
