"""The figures of `find_best.py`, from what its journal holds; numbers alone, no host."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from .method_figures import Interval, Pair, columns, draws, levels

FIGURES = ("geo", "geo to true renders", "both right")
JUDGES = {1: "judge 2", 0: "judge 1"}  # the second first: the first chose
TO_TRUTH = 4  # place of a picture's geo to true renders, after what `columns` reads
Results = Mapping[str, Mapping[Pair, Sequence]]


def means(rows: Sequence, judge: int) -> np.ndarray:
    """Of a pair's result (pictures, judges, 5): (3,) means, as FIGURES."""
    geo, _, _, both = columns(rows, judge)
    return np.array([geo, np.asarray(rows, float)[:, judge, TO_TRUTH].mean(), both])


def table(results: Results, differences: Sequence[tuple[str, str]]) -> str:
    """Markdown: a row for every way, by falling geo of the second judge, then the differences,
    pair by pair, over the pairs that all ways have.

    results: of a way, each pair's result. Intervals draw contents and styles again, the same draws
    for every row.
    """
    pairs = [pair for pair in next(iter(results.values()))
             if all(pair in one for one in results.values())]  # fmt: skip
    assert pairs, "no pair was measured in every way"
    weights = draws(pairs)
    drawn = {
        way: [weights @ np.array([means(one[pair], judge) for pair in pairs]) for judge in JUDGES]
        for way, one in results.items()
    }  # of a way, for each judge: (draws, figures)
    head = [f"{figure}, {judge}" if judge == "judge 2" else judge
            for figure in FIGURES for judge in JUDGES.values()]  # fmt: skip
    lines = [f"| | {' | '.join(head)} |", "|---" * (len(head) + 1) + "|"]
    for way in sorted(drawn, key=lambda way: -drawn[way][0][0, 0]):
        lines.append(_line(way, drawn[way], levels(pairs), signed=False))
    for ours, other in differences:
        less = [one - two for one, two in zip(drawn[ours], drawn[other], strict=True)]
        lines.append(_line(f"{ours}, less {other}", less, levels(pairs), signed=True))
    return "\n".join(lines)


def _line(name: str, drawn: Sequence[np.ndarray], count: int, signed: bool) -> str:
    cells = [Interval.of(of_judge[:, k], count, share=not signed).said(signed)
             for k in range(len(FIGURES)) for of_judge in drawn]  # fmt: skip
    return f"| {name} | {' | '.join(cells)} |"
