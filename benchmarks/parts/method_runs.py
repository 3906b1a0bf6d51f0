"""What `methods.py` draws and scores: ways to join two LoRAs, jobs, and the journal of results."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from benchmarks.parts.trained_ways import (
    KINDS,
    OWN_LAYERS,
    VARIANTS,
    Made,
    Need,
    Trainer,
    needs,
)
from launcher.pack import as_package
from small_world.judge import as_images, load_judge
from small_world.train.data import end_with_parent
from small_world.train.measuring.worlds import SMALL_WORLD, World
from small_world.world.objects import OBJECTS

as_package()
from craft_lora_pack.craft_core.starting import FLOOR, GUIDED_CFG, GUIDED_STRENGTH  # noqa: E402

FRESH_SEED = 20_000_000
OWN_VALUES = "the nodes' own values"  # what a user has who sets nothing
RULES = ("standard", "ACFG")
ROLE = "role"  # of the direct merge alone: role guidance, with a weight in the strength's place
MEASURES = ("content", "style", "object right", "style right")


@dataclass(frozen=True)
class Way:
    """One row of the table. loras: which of the two act. method: the Router's menu value; or, with
    `file`, the method that fuses both into one file, which then acts by itself. trained: what is
    trained for the pair and takes the LoRAs' place, of trained_ways.KINDS. floors: of a cosine
    schedule of both roles; None for a constant one. apart: a row that is no method of its own:
    another's with a part of it left out, or with settings of its own. rules: guidance rules that it
    is measured under."""

    name: str
    loras: tuple[str, ...] = ("content", "style")
    method: dict[str, Any] = field(default_factory=lambda: {"method": "direct"})
    layer_sets: str = "all"
    file: bool = False
    trained: str = ""
    floors: float | None = None
    apart: bool = False
    rules: tuple[str, ...] = RULES

    def __hash__(self) -> int:
        return hash(self.name)

    @classmethod
    def on_own_layers(cls, name: str, trained: str, floors: float | None = None) -> Way:
        """LoRAs that were trained on the layers of their roles, and act there."""
        return cls(name, method={"method": "craft"}, layer_sets=OWN_LAYERS, trained=trained,
                   floors=floors)  # fmt: skip


WAYS = {
    way.name: way
    for way in (
        Way("no LoRA", ()),
        Way("content alone", ("content",)),
        Way("style alone", ("style",)),
        Way(OWN_VALUES, method={"method": "craft"}, floors=FLOOR, apart=True),
        Way("direct", rules=(*RULES, ROLE)),
        Way("craft, auto", method={"method": "craft"}, layer_sets="auto"),
        Way("craft, b-lora", method={"method": "craft"}, layer_sets="b-lora"),
        Way("b_lora", method={"method": "b_lora"}),
        Way("k_lora, s", method={"method": "k_lora"}),
        Way("k_lora, s*", method={"method": "k_lora", "pattern": "s*"}),
        Way("est_lora", method={"method": "est_lora"}),
        Way("np_lora", method={"method": "np_lora"}),
        Way("switch", method={"method": "switch"}),
        Way("composite", method={"method": "composite"}),
        Way("svd, rank 8", method={"method": "svd"}, file=True),
        Way("ties", method={"method": "ties"}, file=True),
        Way("ties, sum", method={"method": "ties", "combine": "sum"}, file=True),
        Way("dare", method={"method": "dare"}, file=True),
        Way("knots", method={"method": "knots"}, file=True),
        Way("k_lora, fixed", method={"method": "k_lora", "selection": "fixed"}, apart=True),
        Way("k_lora, random", method={"method": "k_lora", "selection": "random"}, apart=True),
        Way(
            "k_lora, no scale",
            method={"method": "k_lora", "alpha": 0.0, "beta": 1.0},
            apart=True,
        ),
        Way("k_lora, no gamma", method={"method": "k_lora", "gamma": "none"}, apart=True),
        Way("zip_lora", trained="zip_lora"),
        Way("duo_lora", trained="duo_lora"),
        Way("duo_lora, ranks", trained="duo_lora_ranks", apart=True),
        Way("duo_lora, ranks, start", trained="duo_lora_start", apart=True),
        Way("duo_lora, ranks, start, prior", trained="duo_lora_prior", apart=True),
        Way("duo_lora, ranks, start, cycles", trained="duo_lora_cycles", apart=True),
        Way("b4m", trained="b4m"),
        Way.on_own_layers("joint", "joint"),
        Way.on_own_layers("disjoint", "disjoint"),
        Way.on_own_layers("disjoint, basis", "limited"),
        Way.on_own_layers("disjoint, basis, encoder", "craft"),
        Way.on_own_layers("disjoint, basis, encoder, cosine 0", "craft", 0.0),
        Way.on_own_layers("disjoint, basis, encoder, cosine 0.75", "craft", 0.75),
    )
}
assert {way.trained for way in WAYS.values()} == {"", *KINDS}
OWN_POINT = ("ACFG", (GUIDED_CFG, GUIDED_STRENGTH))  # of OWN_VALUES: rule, cfg and strength
UNTRAINED = tuple(name for name, way in WAYS.items() if not (way.trained or way.apart))
TRUTH, CHANCE, NOTHING = "true render", "shuffled references", "no LoRA"
FILE_RANK = {"svd, rank 8": 8}
MOST_RANK = 32  # of the other fused files


@dataclass(frozen=True)
class Job:
    """A way at one rule and strength on one pair; all its pictures in one run of the sampler.

    strength: of both LoRAs; under ROLE, where that is 1, the weight of both roles. cfg: None for
    the lab's. lora_seed: of the LoRAs' training. Journals from when every run had the lab's cfg,
    and LoRAs of seed 0, have the same keys.
    """

    way: str
    rule: str
    strength: float
    content: str
    style: str
    cfg: float | None = None
    lora_seed: int = 0

    @property
    def key(self) -> str:
        at = f"{self.strength:g}" + ("" if self.cfg is None else f" at cfg {self.cfg:g}")
        parts = [self.way, self.rule, at, self.content, self.style, *_seeded(self.lora_seed)]
        return "/".join(parts)

    def against(self, other: tuple[str, str]) -> str:
        """The key of the same pictures where they are scored against another pair."""
        return "/".join([replace(self, way=CHANCE).key, "as", *other])


def alone_key(role: str, name: str, lora_seed: int = 0) -> str:
    return "/".join(["alone", role, name, *_seeded(lora_seed)])


def _seeded(lora_seed: int) -> tuple[str, ...]:
    return (f"seed {lora_seed}",) if lora_seed else ()


class Journal:
    """Results in a file, a line each; a run that was stopped, or is given more to do, goes on.

    A result is (pictures, judges, len(MEASURES)) numbers.  A line cut short by a stop is left out.
    """

    def __init__(self, path: Path, made_for: dict[str, Any]) -> None:
        self.path, self.results = path, {}
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = path.read_text("utf-8").splitlines() if path.is_file() else []
        if lines and _object(lines[0]) != made_for:
            raise SystemExit(
                f"{path} was made for {lines[0]}, and {json.dumps(made_for)} is measured now. "
                "Name another folder with --out."
            )
        for line in lines[1:]:
            try:
                key, rows = json.loads(line)
            except ValueError:
                continue
            self.results[key] = rows
        if not lines:
            path.write_text(json.dumps(made_for) + "\n", "utf-8")
        elif path.read_bytes()[-1:] != b"\n":
            self._append("\n")

    def pledge(self, what: str, made_for: dict[str, Any]) -> None:
        """SystemExit where some of the results were made for something else than is now."""
        key, given = f"made for: {what}", json.loads(json.dumps(made_for))
        if key not in self.results:
            self.add(key, given)
        if self.results[key] != given:
            raise SystemExit(
                f"In {self.path} {what} were measured for {json.dumps(self.results[key])}, and "
                f"{json.dumps(given)} is measured now. Name another folder with --out."
            )

    def add(self, key: str, rows: Any) -> None:
        self.results[key] = rows
        self._append(json.dumps([key, rows]) + "\n")

    def _append(self, text: str) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(text)


def _object(line: str) -> Any:
    try:
        return json.loads(line)
    except ValueError:
        return None


@dataclass(frozen=True)
class Lab:
    """Where and how pictures are made. loras: the folder in which trained LoRAs are kept."""

    checkpoint: Path
    comfyui: Path
    loras: Path
    pictures: int
    steps: int
    cfg: float
    divider: int
    basis: Path | None = None  # of the ways that need one
    world: World = SMALL_WORLD

    def made_for(self) -> dict[str, Any]:
        ways = {name: [WAYS[name].method, WAYS[name].layer_sets] for name in UNTRAINED}
        return {**self.pictures_made_for(), "ways": ways}

    def pictures_made_for(self) -> dict[str, Any]:
        """The same whatever ways there are."""
        of = {} if self.world.name == SMALL_WORLD.name else {
            "world": self.world.name, "judges": [_digest(path) for path in self.world.judges],
        }  # fmt: skip
        return {"checkpoint": _digest(self.checkpoint), "pictures": self.pictures,
                "steps": self.steps, "cfg": self.cfg,
                "LoRA steps divided by": self.divider} | of  # fmt: skip


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


class Bench:
    """What a process needs to draw and to score; made once."""

    def __init__(self, lab: Lab) -> None:
        from launcher.run.inside_host import enter_host, load_pack

        enter_host(lab.comfyui, lab.loras / "host", cpu=True)
        load_pack()
        import folder_paths

        from small_world.train.measuring import loras
        from small_world.train.measuring.measure import Scorer

        folder_paths.set_output_directory(str(lab.loras.resolve()))
        loras.SAMPLING_STEPS = lab.steps
        self.lab, self.parts = lab, loras
        self.world = lab.world
        self.studio = loras.Studio(lab.checkpoint, self.world)
        self.trainer = Trainer(self.studio, loras, lab.basis, lab.divider)
        judges = [load_judge(path) for path in self.world.judges]
        self.scorers = [Scorer(one, self.world.prototypes(one)) for one in judges]

    def lora(self, role: str, name: str, seed: int = 0) -> str:
        shots = self.world.shots[role]
        return self.studio.lora(role, name, shots, self.lab.divider, seed=seed)

    @torch.inference_mode()
    def alone(self, role: str, name: str, seed: int = 0) -> list[float]:
        """In how many of its pictures a LoRA is right in its role, by each judge."""
        file, asked, images = self.lora(role, name, seed), [], []
        each = self.world.alone_each(role)
        for other, prompt in self.world.asked_alone(role, name):
            noise = self.parts.own_noise(role, name, other, count=each)
            images.append(self.studio.pictures([(file, role, 1.0)], prompt, noise))
            asked += [(name, other) if role == "content" else (other, name)] * each
        axis = "object" if role == "content" else "style"
        shown = torch.cat(images)
        return [float(scorer.hits(shown, asked)[axis].mean()) for scorer in self.scorers]

    @torch.inference_mode()
    def pictures(self, job: Job) -> torch.Tensor:
        """(pictures, 3, H, W) in [-1, 1]."""
        if job.way != TRUTH:
            return self._drawn(job)
        return as_images(
            self.world.render(job.content, job.style, seed=FRESH_SEED + k)
            for k in range(self.lab.pictures)
        )

    @torch.inference_mode()
    def do(self, job: Job) -> list:
        return self.scores(self.pictures(job), job.content, job.style)

    @torch.inference_mode()
    def chance(self, job: Job, other: tuple[str, str]) -> list:
        """The pictures of a job scored against another pair's references."""
        return self.scores(self._drawn(job), *other)

    def _drawn(self, job: Job) -> torch.Tensor:
        way = WAYS[job.way]
        of = (job.content, job.style, *_seeded(job.lora_seed))
        noise = self.parts.own_noise(*of, count=self.lab.pictures)
        made = self._made(way, job)
        family = OBJECTS[job.content].family
        prompt = f"<c>a sks {family}</c> in <s>zwx style</s>"
        by_role = job.rule == ROLE
        return self.studio.pictures(
            [(*one, 1.0 if by_role else job.strength) for one in made.files], prompt, noise,
            method=way.method if not way.file else "direct", layer_sets=way.layer_sets,
            asymmetric=job.rule == "ACFG", schedule=_schedule(way.floors),
            cfg=self.lab.cfg if job.cfg is None else job.cfg, model=made.model,
            encoder=made.encoder, weight=job.strength if by_role else None,
        )  # fmt: skip

    @torch.inference_mode()
    def prepare(self, what: Need | tuple[str, str, str]) -> None:
        """Train what one object or style needs; or what a kind of way and a pair need."""
        if isinstance(what, Need):
            self.trainer.single(what)
        else:
            self.trainer.made(*what)

    def recipes(self) -> dict[str, Any]:
        """What else all results depend on, that journals of old do not say in their first line."""
        return {"judges": [_digest(path) for path in self.world.judges],
                "LoRAs": self.parts.RECIPE, "LoRA steps": self.parts.STEPS,
                "ranks of files": [FILE_RANK, MOST_RANK]}  # fmt: skip

    def trained_made_for(self) -> dict[str, Any]:
        """Whatever the results of the trained ways depend on, beside what all do."""
        ways = {way.name: [way.method, way.layer_sets, way.trained, way.floors]
                for way in WAYS.values() if way.trained and not way.apart}  # fmt: skip
        return {**self.trainer.made_for(), "ways": ways}

    def _made(self, way: Way, job: Job) -> Made:
        if way.trained:
            return self.trainer.made(way.trained, job.content, job.style)
        if way.file:
            return Made(((self._fused(way, job), "content"),))
        return Made(tuple((self._own(role, job), role) for role in way.loras))

    def _own(self, role: str, job: Job) -> str:
        """The file of the job's content or style."""
        return self.lora(role, getattr(job, role), job.lora_seed)

    def _fused(self, way: Way, job: Job) -> str:
        """The file that a merge makes of the pair at full strength; made once."""
        from craft_lora_pack.comfy_adapter.model.lora_files import BranchFile
        from craft_lora_pack.comfy_adapter.train.run import save_place
        from craft_lora_pack.comfy_adapter.use.fuse_file import (
            FuseRequest,
            fuse_branches,
            save_fused,
        )

        slug = "".join(c if c.isalnum() else "_" for c in way.name)
        both = tuple(BranchFile(self._own(role, job), role, 1.0) for role in way.loras)
        of = "_".join(_digest(self.lab.loras / "loras" / one.name)[:8] for one in both)
        prefix = f"small_world/fused_{slug}_{job.content}_{job.style}_{of}"
        first = save_place(prefix, "loras").path
        first = first.with_name(f"{first.stem[:-7]}_00001_.safetensors")
        if not first.is_file():
            rank = FILE_RANK.get(way.name, MOST_RANK)
            request = FuseRequest(both, "all", way.method, rank=rank, save_as="fp32")
            save_fused(fuse_branches(self.studio.model, request, lambda *_: None),
                       save_place(prefix, "loras"))  # fmt: skip
        return str(first.relative_to(self.lab.loras.resolve() / "loras"))

    def scores(self, images: torch.Tensor, content: str, style: str) -> list:
        """(pictures, judges, MEASURES) of pictures that should show the pair."""
        first, second = as_images(self.world.references(content, style)).split(1)
        rows = []
        for scorer in self.scorers:
            hits = scorer.hits(images, [(content, style)] * len(images))
            rows.append(
                torch.stack([
                    scorer.judge.content_similarity(images, first).clamp_min(0),
                    scorer.judge.style_similarity(images, second).clamp_min(0),
                    torch.from_numpy(hits["object"]).float(),
                    torch.from_numpy(hits["style"]).float(),
                ], dim=1)
            )  # fmt: skip
        return torch.stack(rows, dim=1).tolist()


def _schedule(floors: float | None) -> Any:
    if floors is None:
        return None
    from craft_lora_pack.craft_core.schedule import Schedule

    return Schedule("cosine", {}, floors, floors)


def _made_of(way: Way) -> list:
    """What the results of a row that stands apart depend on, beside what its method's do."""
    return [way.method, way.layer_sets, way.floors, *VARIANTS.get(way.trained, ())]


_BENCHES: list[Bench] = []  # of this process: one, if it is a worker


def _begin(lab: Lab, threads: int) -> None:
    end_with_parent()
    torch.set_num_threads(threads)
    _BENCHES.append(Bench(lab))


def _alone(role: str, name: str, seed: int) -> list[float]:
    return _BENCHES[0].alone(role, name, seed)


def _recipes() -> dict[str, Any]:
    return _BENCHES[0].recipes()


def _trained_made_for() -> dict[str, Any]:
    return _BENCHES[0].trained_made_for()


def _prepare(what: Need | tuple[str, str, str]) -> None:
    _BENCHES[0].prepare(what)


def _do(job: Job, other: tuple[str, str] | None) -> list:
    return _BENCHES[0].chance(job, other) if other else _BENCHES[0].do(job)


def _first_picture(job: Job) -> torch.Tensor:
    return _BENCHES[0].pictures(job)[0].clone()


class Workers:
    """Processes that do jobs and hand over results as they come."""

    def __init__(self, lab: Lab, count: int, threads: int) -> None:
        os.environ["OMP_NUM_THREADS"] = str(threads)
        self.pool = ProcessPoolExecutor(count, get_context("spawn"), _begin, (lab, threads))

    def alone(self, asked: Sequence[tuple[str, str, int]], journal: Journal, say: Any) -> None:
        """Train the LoRAs of (role, name, seed) that are missing, and judge each by itself."""
        journal.pledge("all ways", self.pool.submit(_recipes).result())
        futures = {
            self.pool.submit(_alone, *one): alone_key(*one)
            for one in dict.fromkeys(asked)
            if alone_key(*one) not in journal.results
        }
        for done, future in enumerate(as_completed(futures), 1):
            journal.add(futures[future], future.result())
            say(f"LoRA {done} of {len(futures)}")

    def prepare(self, jobs: Sequence[Job], journal: Journal, say: Any) -> None:
        """Train what the jobs that the journal lacks need: for single objects and styles first,
        each once, then for pairs."""
        kinds = {way.name: way.trained for way in WAYS.values()}
        lacking = [job for job in jobs if kinds.get(job.way) and job.key not in journal.results]
        for way in WAYS.values():
            if way.apart and any(job.way == way.name for job in jobs):
                journal.pledge(way.name, _made_of(way))
        if lacking:
            made_for = self.pool.submit(_trained_made_for).result()
            journal.pledge("ways that train for a pair", made_for)
        pairs = dict.fromkeys((kinds[job.way], job.content, job.style) for job in lacking)
        singles = dict.fromkeys(one for pair in pairs for one in needs(*pair))
        for what, asked in (("object or style", singles), ("pair", pairs)):
            futures = [self.pool.submit(_prepare, one) for one in asked]
            for done, future in enumerate(as_completed(futures), 1):
                future.result()
                say(f"trained for one {what}: {done} of {len(futures)}")

    def do(self, jobs: Sequence[Job], journal: Journal, say: Any,
           chance: dict[Job, tuple[str, str]] | None = None) -> None:  # fmt: skip
        """Jobs that the journal lacks. chance: jobs to score against another pair."""
        self.prepare(jobs, journal, say)
        asked = {job.key: (job, None) for job in jobs}
        asked |= {job.against(other): (job, other) for job, other in (chance or {}).items()}
        futures = {
            self.pool.submit(_do, *given): key
            for key, given in asked.items()
            if key not in journal.results
        }
        for done, future in enumerate(as_completed(futures), 1):
            journal.add(futures[future], future.result())
            if done % 20 == 0 or done == len(futures):
                say(f"{done} of {len(futures)}")

    def first_pictures(self, jobs: Sequence[Job]) -> list[torch.Tensor]:
        """The first picture of each job, (3, H, W) in [-1, 1]."""
        return list(self.pool.map(_first_picture, jobs))

    def close(self) -> None:
        self.pool.shutdown(cancel_futures=True)
