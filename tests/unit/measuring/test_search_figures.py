"""The figures of benchmarks/find_best.py, on results made by hand."""

import numpy as np
import pytest

from benchmarks.find_best import measure
from benchmarks.parts.method_runs import Journal
from benchmarks.parts.search_figures import means, table

PAIRS = [("a", "w"), ("b", "x"), ("c", "y"), ("a", "x"), ("b", "y"), ("c", "w")]


def result(first: float, second: float, truth: float = 0.5, right: int = 1) -> list:
    """Two pictures: cosines as the first and as the second judge sees them."""
    return [[[first, first, right, 1, truth], [second, second, 1, right, truth]]] * 2


def cells(text: str) -> dict[str, list[str]]:
    rows = (line.strip("| ").split(" | ") for line in text.splitlines()[2:])
    return {name: values for name, *values in rows}


def test_figures_are_those_of_one_judge():
    rows = [[[0.25, 1.0, 1, 0, 0.3], [1.0, 1.0, 1, 1, 0.4]], [[1, 0.25, 1, 1, 0.5], [0] * 5]]
    assert means(rows, 0) == pytest.approx([0.5, 0.4, 0.5])
    assert means(rows, 1) == pytest.approx([0.5, 0.2, 0.5])


def test_rows_fall_by_the_judge_that_did_not_choose():
    results = {
        "found": {pair: result(0.9, 0.5) for pair in PAIRS},
        "own": {pair: result(0.4, 0.6, truth=0.7, right=0) for pair in PAIRS},
    }
    found = cells(table(results, [("found", "own")]))
    assert list(found) == ["own", "found", "found, less own"]
    assert [cell.split()[0] for cell in found["found"]] == ["0.50", "0.90", "0.50", "0.50",
                                                            "1.00", "1.00"]  # fmt: skip
    assert found["found, less own"][:3] == [
        "-0.100 [-0.100, -0.100]", "+0.500 [+0.500, +0.500]", "-0.200 [-0.200, -0.200]",
    ]  # fmt: skip


def test_differences_are_taken_pair_by_pair():
    luck = dict(zip(PAIRS, np.random.default_rng(0).uniform(0.2, 0.8, len(PAIRS)), strict=True))
    results = {
        "found": {pair: result(0, luck[pair] + 0.1) for pair in PAIRS},
        "own": {pair: result(0, luck[pair]) for pair in PAIRS},
    }
    found = cells(table(results, [("found", "own")]))
    assert found["found, less own"][0] == "+0.100 [+0.100, +0.100]"
    low, high = found["own"][0].split(" ", 1)[1].strip("[]").split(", ")
    assert float(high) - float(low) > 0.1


def test_only_pairs_that_every_way_has_are_compared():
    results = {name: {pair: result(0.5, 0.5) for pair in PAIRS} for name in ("found", "own")}
    del results["own"][PAIRS[0]]
    results["found"][PAIRS[0]] = result(0, 0)
    assert cells(table(results, []))["found"][0] == "0.50 [0.50, 0.50]"
    with pytest.raises(AssertionError, match="no pair"):
        table({**results, "none": {}}, [])


def test_a_pair_that_was_searched_is_not_searched_again(tmp_path):
    class Searched:
        def __init__(self):
            self.pairs = []

        def pair(self, *pair):
            self.pairs.append(pair)
            return {"report": "Best: direct"}

    searched, path = Searched(), tmp_path / "find_best.jsonl"
    measure(searched, Journal(path, {}), PAIRS[:2])
    measure(searched, Journal(path, {}), PAIRS[:3])
    assert searched.pairs == PAIRS[:3]
    assert Journal(path, {}).results.keys() == {"a/w", "b/x", "c/y"}
