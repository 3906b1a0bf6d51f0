"""The table of gates: what the base model, LoRAs alone, and pairs of LoRAs are worth.

Every figure is the mean over pictures by each judge, with a 95 % interval that draws objects and
styles again (`measure.bootstrapped`).  The LoRAs are of held-out objects and styles, trained with
the shipped recipe; files and results are kept in a folder and used again, so that a run that was
stopped, or given more to do, goes on.
"""

import hashlib
import json
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from itertools import zip_longest
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...judge import JUDGES, as_images, load_judge
from ...world import held_out
from ...world.objects import OBJECTS
from ...world.render import render
from .. import mixture
from ..data import end_with_parent
from .measure import Drawer, Pair, Scorer, bootstrapped
from .worlds import SMALL_WORLD

HALVES = {
    **SMALL_WORLD.halves,
    "both": (held_out.OBJECTS, held_out.STYLES),
}
PARTS = ("base", "alone", "one", "fused")
BASE = {"core": 0.97, "drawn": 0.93, "icon": 0.90, "drawn, composed": 0.80, "icon, composed": 0.80}
ENOUGH = 0.8  # of a LoRA's pictures right in its role
FRESH_SEED = 10_000_000
Result = dict[str, list]


@dataclass(frozen=True)
class GateJob:
    """One thing to measure. names: of the object, the style, both, or a kind of pair."""

    part: str
    names: tuple[str, ...]
    shots: int = 0  # pictures that a content LoRA learns from

    @property
    def key(self) -> str:
        return "/".join([self.part, *self.names, *([str(self.shots)] if self.shots else [])])


@dataclass(frozen=True)
class GatePlan:
    """What to measure. limit: objects, and styles, of the half; None for all of them. each: styles
    that an object is fused with. pictures: of a pair. shots: pictures of a content LoRA. divider:
    of a LoRA's steps, for a rehearsal. steps: of a picture of `starting`. objects: those of the
    half that are measured, where not all."""

    checkpoint: Path
    comfyui: Path
    out: Path
    half: str = "report"
    limit: int | None = None
    each: int = 3
    pictures: int = 4
    count: int = 96
    shots: int = 4
    parts: tuple[str, ...] = ("base", "alone", "fused")
    divider: int = 1
    steps: int = 20
    objects: tuple[str, ...] = ()

    def contents(self) -> tuple[str, ...]:
        held = HALVES[self.half][0]
        strange = sorted(set(self.objects) - set(held))
        if strange:
            raise SystemExit(
                f"{', '.join(strange)}: no object of the {self.half} half. It has "
                f"{', '.join(held)}. Correct --objects."
            )
        return (self.objects or held)[: self.limit]

    def styles(self) -> tuple[str, ...]:
        return HALVES[self.half][1][: self.limit]

    def pairs(self) -> list[Pair]:
        """Every object with `each` styles, all objects and styles equally often."""
        contents, styles = self.contents(), self.styles()
        each = min(self.each, len(styles))
        return [
            (content, styles[(k + turn) % len(styles)])
            for turn in range(each)
            for k, content in enumerate(contents)
        ]

    def jobs(self) -> list[GateJob]:
        """In the order in which they are worth most, contents and styles in turn."""
        jobs: list[GateJob] = []
        if "alone" in self.parts:
            contents, styles = self.contents(), self.styles()
            for content, style in zip_longest(contents, styles):
                jobs += [GateJob("content", (content,), self.shots)] if content else []
                jobs += [GateJob("style", (style,))] if style else []
        if "fused" in self.parts:
            jobs += [GateJob("fused", pair, self.shots) for pair in self.pairs()]
        if "base" in self.parts:
            jobs += [GateJob("base", (kind, str(self.count))) for kind in BASE]
        if "one" in self.parts and self.shots != 1:
            jobs += [GateJob("content", (content,), 1) for content in self.contents()]
        return jobs


class Bench:
    """What a process needs for its jobs, made when first needed."""

    def __init__(self, plan: GatePlan):
        from launcher.run.inside_host import enter_host, load_pack

        enter_host(plan.comfyui, plan.out / "host", cpu=True)
        load_pack()
        import folder_paths

        from .loras import Studio

        folder_paths.set_output_directory(str(plan.out.resolve()))
        self.plan = plan
        self.scorers = [Scorer(load_judge(place)) for place in JUDGES]
        self.studio = Studio(plan.checkpoint)

    @torch.inference_mode()
    def do(self, job: GateJob) -> Result:
        if job.part == "base":
            return self._base(job.names[0])
        if job.part == "fused":
            return self._fused(*job.names, job.shots)
        return self._alone(job.part, job.names[0], job.shots or 1)

    def train(self, role: str, name: str, shots: int) -> None:
        with torch.inference_mode():
            self.studio.lora(role, name, shots, self.plan.divider)

    def _base(self, kind: str) -> Result:
        rng = np.random.default_rng(0)
        asked = [mixture.pair(kind, rng) for _ in range(self.plan.count)]
        drawer = Drawer(self.plan.checkpoint, torch.device("cpu"))
        images = drawer.pictures(asked, 0)
        fresh = as_images(render(*pair, seed=FRESH_SEED + k) for k, pair in enumerate(asked))
        result: Result = {"asked": asked}
        for number, scorer in enumerate(self.scorers, 1):
            result[f"both {number}"] = scorer.hits(images, asked)["both"].tolist()
            result[f"truth both {number}"] = scorer.hits(fresh, asked)["both"].tolist()
        if kind == "core":
            result["excess"] = _excess(images[:16], asked[:16])
        return result

    def _alone(self, role: str, name: str, shots: int) -> Result:
        from .loras import own_noise

        file = self.studio.lora(role, name, shots, self.plan.divider)
        asked, images = [], []
        each = SMALL_WORLD.alone_each(role)
        for other, prompt in SMALL_WORLD.asked_alone(role, name):
            noise = own_noise(role, name, other, count=each)
            images.append(self.studio.pictures([(file, role, 1.0)], prompt, noise))
            asked += [(name, other) if role == "content" else (other, name)] * each
        axis = "object" if role == "content" else "style"
        result: Result = {"asked": asked}
        for number, scorer in enumerate(self.scorers, 1):
            result[f"right {number}"] = scorer.hits(torch.cat(images), asked)[axis].tolist()
        return result

    def _fused(self, content: str, style: str, shots: int) -> Result:
        from .loras import SHOTS, own_noise

        files = [
            (self.studio.lora("content", content, shots, self.plan.divider), "content", 1.0),
            (self.studio.lora("style", style, SHOTS["style"], self.plan.divider), "style", 1.0),
        ]
        prompt = f"<c>a sks {OBJECTS[content].family}</c> in <s>zwx style</s>"
        noise = own_noise(content, style, count=self.plan.pictures)
        images = self.studio.pictures(files, prompt, noise)
        fresh = as_images(
            render(content, style, seed=FRESH_SEED + k) for k in range(self.plan.pictures)
        )
        asked = [(content, style)] * self.plan.pictures
        result: Result = {"asked": asked}
        for number, scorer in enumerate(self.scorers, 1):
            for name, shown in (("", images), ("truth ", fresh)):
                result[f"{name}both {number}"] = scorer.hits(shown, asked)["both"].tolist()
                result[f"{name}geo {number}"] = nearness(scorer.judge, shown, content, style)
        result["excess"] = _excess(images[:1], asked[:1])
        return result


def nearness(judge: Any, images: torch.Tensor, content: str, style: str) -> list[float]:
    """(B,): sqrt(content cosine x style cosine) to one picture each of what the LoRAs learned."""
    first, second = as_images(SMALL_WORLD.references(content, style)).split(1)
    cosines = [
        judge.content_similarity(images, first).clamp_min(0),
        judge.style_similarity(images, second).clamp_min(0),
    ]
    return (cosines[0] * cosines[1]).sqrt().tolist()


def _excess(images: torch.Tensor, asked: Sequence[Pair]) -> list[float]:
    from .fidelity import excess

    return excess(images, asked).tolist()


# -- doing the jobs ----------------------------------------------------------------------------

_BENCHES: list[Bench] = []  # of this process: one, if it is a worker


def _begin(plan: GatePlan, threads: int) -> None:
    end_with_parent()
    torch.set_num_threads(threads)
    _BENCHES.append(Bench(plan))


def _train(role: str, name: str, shots: int) -> None:
    _BENCHES[0].train(role, name, shots)


def _do(job: GateJob) -> Result:
    return _BENCHES[0].do(job)


class Kept:
    """The results of a checkpoint in a file of a folder: a job's key -> its result."""

    def __init__(self, plan: GatePlan):
        self.path = plan.out / "gates.json"
        digest = hashlib.sha256(plan.checkpoint.read_bytes()).hexdigest()[:16]
        self.made_for = {
            "checkpoint": digest, "pictures": plan.pictures, "steps divided by": plan.divider
        }  # fmt: skip
        self.results: dict[str, Result] = {}
        if self.path.is_file():
            held = json.loads(self.path.read_text("utf-8"))
            if held["made for"] != self.made_for:
                raise SystemExit(
                    f"{plan.out} holds results of {held['made for']}, and {self.made_for} is "
                    "measured now. A folder holds the LoRAs and results of one checkpoint and "
                    "one set of options. Name another with --out."
                )
            self.results = held["results"]
        else:
            self._write()

    def add(self, key: str, result: Result) -> None:
        self.results[key] = result
        self._write()

    def _write(self) -> None:
        partial = self.path.with_suffix(".partial")
        partial.write_text(json.dumps({"made for": self.made_for, "results": self.results}))
        partial.replace(self.path)


def gates(plan: GatePlan, workers: int, threads: int, minutes: float | None) -> None:
    """Do what is left of the plan, begin nothing after the deadline, and print the table.

    workers: processes of `threads` threads each.
    """
    plan.out.mkdir(parents=True, exist_ok=True)
    kept = Kept(plan)
    left = [job for job in plan.jobs() if job.key not in kept.results]
    if left and minutes != 0:
        deadline = time.monotonic() + 60 * minutes if minutes else None
        # LoRAs of pairs first, so that no two processes train the same.
        fused = [job for job in left if job.part == "fused"]
        needed = dict.fromkeys(
            one
            for job in fused
            for one in (("content", job.names[0], job.shots), ("style", job.names[1], 1))
        )
        others = [job for job in left if job.part != "fused"]
        measured = {(job.part, job.names[0], job.shots or 1) for job in others}
        with ProcessPoolExecutor(
            workers, get_context("spawn"), _begin, (plan, threads)
        ) as pool:  # fmt: skip
            first = [(_train, one) for one in needed if one not in measured]
            _work(pool, workers, [*first, *((_do, (job,)) for job in others if job.part != "base")],
                  kept, deadline)  # fmt: skip
            rest = [*fused, *(job for job in others if job.part == "base")]
            _work(pool, workers, [(_do, (job,)) for job in rest], kept, deadline)
    print(table(plan, kept.results))


def _work(
    pool: ProcessPoolExecutor,
    at_a_time: int,
    tasks: Iterable,
    kept: Kept,
    deadline: float | None,
) -> None:
    """Run tasks until the deadline, each result kept as it comes."""
    waiting, begun = list(tasks), time.monotonic()
    total, running = len(waiting), {}
    done = 0
    while waiting or running:
        while waiting and len(running) < at_a_time:
            if deadline is not None and time.monotonic() > deadline:
                waiting.clear()
                break
            function, given = waiting.pop(0)
            running[pool.submit(function, *given)] = given
        if not running:
            break
        future: Future = next(as_completed(running))
        given = running.pop(future)
        result, done = future.result(), done + 1
        if result is not None:
            kept.add(given[0].key, result)
        label = given[0].key if isinstance(given[0], GateJob) else " ".join(map(str, given))
        spent = time.monotonic() - begun
        print(f"[{spent:.0f} s] {done} of {total}: {label}", file=sys.stderr, flush=True)


# -- the table ---------------------------------------------------------------------------------


def table(plan: GatePlan, results: dict[str, Result]) -> str:
    """Markdown: what was measured, how much of it, both judges, the gate."""
    rows = ["| | n | first judge | second judge | gate |", "|---|---|---|---|---|"]
    for label, n, first, second, gate in _rows(plan, results):
        rows.append(f"| {label} | {n} | {first} | {second} | {gate} |")
    return "\n".join(rows)


def _rows(plan: GatePlan, results: dict[str, Result]) -> Iterator[tuple]:
    chosen: dict[str, list[Result]] = {}
    one = [GateJob("content", (name,), 1) for name in plan.contents()]
    for job in dict.fromkeys([*plan.jobs(), *one]):
        if job.key in results:
            name = f"base {job.names[0]}" if job.part == "base" else f"{job.part} {job.shots}"
            chosen.setdefault(name, []).append(results[job.key])
    for kind, gate in BASE.items():
        if held := chosen.get(f"base {kind}"):
            yield _row(f"base, both right, {kind}", held, "both", f">= {gate:.2f}")
            yield _row("the same, true renders", held, "truth both", "")
    for label, name, gate in (
        (f"content LoRA alone ({plan.shots} pictures)", f"content {plan.shots}", ""),
        ("style LoRA alone (1 picture)", "style 0", ""),
        ("content LoRA alone (1 picture)", "content 1", ">= 0.8"),
    ):
        if (held := chosen.get(name)) and (name != "content 1" or plan.shots != 1):
            yield _row(f"{label}, right", held, "right", gate)
            yield _share(f"{label}, share of LoRAs that reach {ENOUGH}", held)
    if held := chosen.get(f"fused {plan.shots}"):
        yield _row("two LoRAs, both right", held, "both", ">= 0.95")
        yield _row("the same, true renders", held, "truth both", "")
        yield _row("two LoRAs, geo", held, "geo", ">= 0.87")
        yield _row("the same, true renders", held, "truth geo", "")
        yield _fidelity("distance to true renders, fused pairs", held)
    if held := chosen.get("base core"):
        yield _fidelity("distance to true renders, base core", held)


def _joined(held: Sequence[Result], name: str) -> tuple[np.ndarray, list[Pair]]:
    values = np.array([value for one in held for value in one[name]], float)
    asked = [(pair[0], pair[1]) for one in held for pair in one["asked"][: len(one[name])]]
    return values, asked


def _row(label: str, held: Sequence[Result], name: str, gate: str) -> tuple:
    cells = []
    for number in range(1, len(JUDGES) + 1):
        values, asked = _joined(held, f"{name} {number}")
        cells.append(_cell(values, asked))
    return label, _count(*_joined(held, f"{name} 1")), *cells, gate


def _share(label: str, held: Sequence[Result]) -> tuple:
    cells = []
    for number in range(1, len(JUDGES) + 1):
        reached = np.array([np.mean(one[f"right {number}"]) >= ENOUGH for one in held], float)
        cells.append(_cell(reached, [(str(k), "") for k in range(len(reached))]))
    return label, f"{len(held)} LoRAs", *cells, ">= 0.9"


def _fidelity(label: str, held: Sequence[Result]) -> tuple:
    values, asked = _joined(held, "excess")
    return (
        label,
        _count(values, asked),
        _cell(values, asked),
        "(no judge)",
        "half the excess over 1",
    )


def _count(values: np.ndarray, asked: Sequence[Pair]) -> str:
    objects, styles = (len({pair[k] for pair in asked}) for k in (0, 1))
    return f"{len(values)} ({objects} objects, {styles} styles)"


def _cell(values: np.ndarray, asked: Sequence[Pair]) -> str:
    low, high = bootstrapped(values, asked)
    return f"{values.mean():.2f} [{low:.2f}, {high:.2f}]"
