"""What a fusion should start with: guidance, strength and a schedule's floors, on held-out pairs.

The nodes' own values are in `craft_core/starting.py`.  They are chosen on the *tuning* half and
looked at again on the *report* half.  The rows of `style` are for the preset `strong_style`: of
those with contents right in ENOUGH of the pictures, by the mean of both judges, it is the one
nearest to the style.  The pairs are the half's first object with its first style, its second with
its second, and so on; every pair has noise of its own, the same for every row.
"""

import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache, partial
from multiprocessing import get_context
from typing import Any

import numpy as np
import torch

from ...judge import JUDGES, as_images, load_judge
from ...world.objects import OBJECTS
from ...world.render import Pose, render
from ..references import STYLE
from .gates import ENOUGH, HALVES, GatePlan, nearness
from .measure import Pair, Scorer, bootstrapped


@dataclass(frozen=True)
class First:
    """One row. floors: of the cosine schedule of both roles; 1 is no schedule. style: the strength
    of the style, where it is not the content's."""

    asymmetric: bool
    cfg: float
    strength: float
    floors: float = 1.0
    style: float | None = None

    @property
    def strengths(self) -> tuple[float, float]:
        return self.strength, self.strength if self.style is None else self.style

    def said(self) -> str:
        rule = "ACFG" if self.asymmetric else "standard"
        floors = "constant" if self.floors == 1 else f"cosine, floors {self.floors:g}"
        content, style = self.strengths
        both = f"strength {content:g}" if content == style else f"{content:g} and {style:g}"
        return f"{rule}, cfg {self.cfg:g}, {both}, {floors}"


ROWS = {"start": (
    First(False, 3, 1), First(False, 3, 1, 0.5), First(False, 4, 1), First(False, 2, 1),
    First(True, 3, 0.5), First(True, 3, 0.5, 0.5),
    First(True, 2, 0.75), First(True, 2, 0.75, 0.75), First(True, 2, 0.75, 0.5),
    First(True, 2, 0.85, 0.75), First(True, 2, 1), First(True, 1.5, 1),
), "style": (
    First(False, 3, 1), First(False, 3, 0.7, style=1), First(False, 3, 1, style=1.3),
    First(True, 2, 0.75), First(True, 2, 0.7, style=1), First(True, 2, 1), First(True, 3, 0.5),
)}  # fmt: skip
# What a set of rows shows, and is sorted by: the first.
MEASURES = {"start": ("geo", "both right"), "style": ("style cosine", "content right")}


def measured_pair(
    plan: GatePlan, rows: Sequence[First], pair: Pair
) -> list[dict[str, list[float]]]:
    """For each row: every measure of the pair's pictures, by each judge."""
    studio, scorers = _made(plan)
    from craft_lora_pack.craft_core.schedule import Schedule

    from .loras import SHOTS, own_noise

    content, style = pair
    found = []
    with torch.inference_mode():
        loras = [(studio.lora(role, name, SHOTS[role], plan.divider), role)
                 for role, name in (("content", content), ("style", style))]  # fmt: skip
        prompt = f"<c>a sks {OBJECTS[content].family}</c> in <s>zwx style</s>"
        noise = own_noise(content, style, count=plan.pictures)
        nearest_style = as_images([render(STYLE[0], style, 0, Pose())])
        for row in rows:
            schedule = None if row.floors == 1 else Schedule("cosine", {}, row.floors, row.floors)
            images = studio.pictures(
                [(*one, strength) for one, strength in zip(loras, row.strengths, strict=True)],
                prompt, noise, method="craft", asymmetric=row.asymmetric, schedule=schedule,
                cfg=row.cfg,
            )  # fmt: skip
            result: dict[str, list[float]] = {}
            for number, scorer in enumerate(scorers, 1):
                hits = scorer.hits(images, [pair] * len(images))
                result[f"both right {number}"] = hits["both"].astype(float).tolist()
                result[f"content right {number}"] = hits["object"].astype(float).tolist()
                result[f"geo {number}"] = nearness(scorer.judge, images, content, style)
                cosines = scorer.judge.style_similarity(images, nearest_style)
                result[f"style cosine {number}"] = cosines.tolist()
            found.append(result)
    return found


@cache
def _made(plan: GatePlan) -> tuple[Any, list[Scorer]]:
    """The host's models and the judges, once for a process."""
    from launcher.run.inside_host import enter_host, load_pack

    torch.set_num_threads(1)
    enter_host(plan.comfyui, plan.out / "host", cpu=True)
    load_pack()
    import folder_paths

    from . import loras

    folder_paths.set_output_directory(str(plan.out.resolve()))
    loras.SAMPLING_STEPS = plan.steps
    with torch.inference_mode():
        return loras.Studio(plan.checkpoint), [Scorer(load_judge(place)) for place in JUDGES]


def starting(plan: GatePlan, workers: int, asked: str = "start") -> None:
    """Print a row for each of ROWS[asked], the best first. LoRAs that the folder lacks are
    trained."""
    contents, styles = HALVES[plan.half]
    pairs = list(zip(contents, styles, strict=True))[: plan.limit]
    plan.out.mkdir(parents=True, exist_ok=True)
    begun = time.monotonic()
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        results = list(pool.map(partial(measured_pair, plan, ROWS[asked]), pairs))
    print(f"{plan.half} half, {len(pairs)} pairs of {plan.pictures} pictures, {plan.steps} steps: "
          f"{', '.join(map('/'.join, pairs))} ({time.monotonic() - begun:.0f} s)\n")  # fmt: skip
    print(table(pairs, results, asked))
    if asked == "style":
        row = most_style(results)
        print(f"\nnearest to the style with contents right in {ENOUGH:g} or more: "
              f"{row.said() if row else 'none'}")  # fmt: skip


OfPairs = Sequence[Sequence[dict[str, list[float]]]]  # of each pair, as measured_pair gives them


def table(pairs: Sequence[Pair], results: OfPairs, asked: str = "start") -> str:
    """Markdown."""
    rows, measures = [], MEASURES[asked]
    for place, row in enumerate(ROWS[asked]):
        cells, means = [], []
        for measure in measures:
            for number in range(1, len(JUDGES) + 1):
                held = [one[place][f"{measure} {number}"] for one in results]
                values = np.array([value for of_pair in held for value in of_pair])
                asked_pairs = [pair for pair, of in zip(pairs, held, strict=True) for _ in of]
                low, high = bootstrapped(values, asked_pairs)
                cells.append(f"{values.mean():.2f} [{low:.2f}, {high:.2f}]")
                means.append(values.mean())
        rows.append((means[0] + means[1], f"| {row.said()} | {' | '.join(cells)} |"))
    columns = [f"{measure}, judge 1 | judge 2" for measure in measures]
    head = [f"| | {' | '.join(columns)} |", "|---" * 5 + "|"]
    return "\n".join(head + [text for _, text in sorted(rows, reverse=True)])


def most_style(results: OfPairs) -> First | None:
    """Of the rows whose contents are right often enough, by both judges' mean, the one with the
    highest style cosine."""

    def mean(place: int, measure: str) -> float:
        held = [value for one in results for number in range(1, len(JUDGES) + 1)
                for value in one[place][f"{measure} {number}"]]  # fmt: skip
        return sum(held) / len(held)

    fit = [place for place in range(len(ROWS["style"])) if mean(place, "content right") >= ENOUGH]
    return ROWS["style"][max(fit, key=lambda one: mean(one, "style cosine"))] if fit else None
