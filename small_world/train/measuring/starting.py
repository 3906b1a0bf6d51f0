"""What a fusion should start with: guidance, strength and a schedule's floors, on held-out pairs.

The nodes' own values are in `craft_core/starting.py`.  They are chosen on the *tuning* half and
looked at again on the *report* half.  The pairs are the half's first object with its first style,
its second with its second, and so on; every pair has noise of its own, the same for every row.
"""

import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context

import numpy as np
import torch

from ...judge import JUDGES, load_judge
from ...world.objects import OBJECTS
from .gates import HALVES, GatePlan, nearness
from .measure import Pair, Scorer, bootstrapped


@dataclass(frozen=True)
class First:
    """One row. floors: of the cosine schedule of both roles; 1 is no schedule."""

    asymmetric: bool
    cfg: float
    strength: float
    floors: float = 1.0

    def said(self) -> str:
        rule = "ACFG" if self.asymmetric else "standard"
        floors = "constant" if self.floors == 1 else f"cosine, floors {self.floors:g}"
        return f"{rule}, cfg {self.cfg:g}, strength {self.strength:g}, {floors}"


ROWS = (
    First(False, 3, 1), First(False, 3, 1, 0.5), First(False, 4, 1), First(False, 2, 1),
    First(True, 3, 0.5), First(True, 3, 0.5, 0.5),
    First(True, 2, 0.75), First(True, 2, 0.75, 0.75), First(True, 2, 0.75, 0.5),
    First(True, 2, 0.85, 0.75), First(True, 2, 1), First(True, 1.5, 1),
)  # fmt: skip


def measured_pair(plan: GatePlan, pair: Pair) -> list[dict[str, list[float]]]:
    """For each row: geo and both right of the pair's pictures, by each judge."""
    from launcher.run.inside_host import enter_host, load_pack

    torch.set_num_threads(1)
    enter_host(plan.comfyui, plan.out / "host", cpu=True)
    load_pack()
    import folder_paths
    from craft_lora_pack.craft_core.schedule import Schedule

    from .loras import SHOTS, Studio, own_noise

    folder_paths.set_output_directory(str(plan.out.resolve()))
    content, style = pair
    scorers = [Scorer(load_judge(place)) for place in JUDGES]
    found = []
    with torch.inference_mode():
        studio = Studio(plan.checkpoint)
        loras = [(studio.lora(role, name, SHOTS[role], plan.divider), role)
                 for role, name in (("content", content), ("style", style))]  # fmt: skip
        prompt = f"<c>a sks {OBJECTS[content].family}</c> in <s>zwx style</s>"
        noise = own_noise(content, style, count=plan.pictures)
        for row in ROWS:
            schedule = None if row.floors == 1 else Schedule("cosine", {}, row.floors, row.floors)
            images = studio.pictures(
                [(*one, row.strength) for one in loras], prompt, noise, method="craft",
                asymmetric=row.asymmetric, schedule=schedule, cfg=row.cfg,
            )  # fmt: skip
            result: dict[str, list[float]] = {}
            for number, scorer in enumerate(scorers, 1):
                hits = scorer.hits(images, [pair] * len(images))["both"]
                result[f"both {number}"] = hits.astype(float).tolist()
                result[f"geo {number}"] = nearness(scorer.judge, images, content, style)
            found.append(result)
    return found


def starting(plan: GatePlan, workers: int) -> None:
    """Print a row for each of ROWS, the best first. LoRAs that the folder lacks are trained."""
    contents, styles = HALVES[plan.half]
    pairs = list(zip(contents, styles, strict=True))[: plan.limit]
    plan.out.mkdir(parents=True, exist_ok=True)
    begun = time.monotonic()
    with ProcessPoolExecutor(workers, get_context("spawn"), max_tasks_per_child=1) as pool:
        results = list(pool.map(measured_pair, [plan] * len(pairs), pairs))
    print(f"{plan.half} half, {len(pairs)} pairs of {plan.pictures} pictures: "
          f"{', '.join(map('/'.join, pairs))} ({time.monotonic() - begun:.0f} s)\n")  # fmt: skip
    print(table(pairs, results))


def table(pairs: Sequence[Pair], results: Sequence[Sequence[dict[str, list[float]]]]) -> str:
    """Markdown. results: of each pair, as measured_pair gives them."""
    rows = []
    for place, row in enumerate(ROWS):
        cells, means = [], []
        for measure in ("geo", "both"):
            for number in range(1, len(JUDGES) + 1):
                held = [one[place][f"{measure} {number}"] for one in results]
                values = np.array([value for of_pair in held for value in of_pair])
                asked = [pair for pair, of in zip(pairs, held, strict=True) for _ in of]
                low, high = bootstrapped(values, asked)
                cells.append(f"{values.mean():.2f} [{low:.2f}, {high:.2f}]")
                means.append(values.mean())
        rows.append((means[0] + means[1], f"| {row.said()} | {' | '.join(cells)} |"))
    head = ["| | geo, judge 1 | judge 2 | both right, judge 1 | judge 2 |", "|---" * 5 + "|"]
    return "\n".join(head + [text for _, text in sorted(rows, reverse=True)])
