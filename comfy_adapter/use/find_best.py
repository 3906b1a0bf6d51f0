"""The best settings for one's own pair: searched on the model itself, picture by picture."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Any

import comfy.model_management
import comfy.sample
import comfy.utils
import torch
from PIL import Image
from torch import Tensor

from ...craft_core.errors import CraftError
from ...craft_core.evaluation import Point, Score, frontier, harmonic_mean, mean_score
from ...craft_core.evaluation.pair_columns import HARMONIC
from ...craft_core.fusion import FUSION
from ...craft_core.routing.plan import lacks_blocks
from ...craft_core.schedule.schedule import Schedule
from ...craft_core.search import (
    FIRST,
    Halving,
    Setting,
    Trial,
    best_of,
    compared,
    pending,
    plan_halving,
)
from ..draw.score_plot import score_plot, score_sheet
from ..engine.modules import model_layers
from ..model.expert_encoder import lora_hash
from ..model.lora_files import NONE
from ..score.pair_scorer import PairScorer
from .router import Routed, RouterRequest, route, with_own_loras
from .search_journal import Scored, SearchJournal
from .search_report import Outcome, TriedSetting, preset_json, search_report
from .sweep import under_line

_SEEDS = 1 << 64
_SHOWN = 24  # settings on the plot besides those of the frontier
_PREVIEW = 1024  # longest edge of the plot on the node, in pixels
_CONSTANT = "constant"
_RATIOS = ("downscale_ratio_spacial", "downscale_ratio_temporal")  # of a LATENT; older have none


@dataclass(frozen=True)
class Sampling:
    """What ACFG KSampler and VAE Decode take. latent: LATENT, an empty one."""

    negative: Any
    latent: dict[str, Any]
    vae: Any
    steps: int
    cfg: float
    sampler_name: str
    scheduler: str

    def picture(self, model: Any, positive: Any, seed: int) -> Tensor:
        """(B, h, w, 3): what KSampler and VAE Decode make, without their progress on the node."""
        ratios = {name: self.latent[name] for name in _RATIOS if name in self.latent}
        empty = comfy.sample.fix_empty_latent_channels(model, self.latent["samples"], **ratios)
        noise = comfy.sample.prepare_noise(empty, seed, self.latent.get("batch_index"))
        latent = comfy.sample.sample(
            model, noise, self.steps, self.cfg, self.sampler_name, self.scheduler, positive,
            self.negative, empty, noise_mask=self.latent.get("noise_mask"), disable_pbar=True,
            seed=seed,
        )  # fmt: skip
        pictures = self.vae.decode(latent)
        return pictures.reshape(-1, *pictures.shape[-3:])[..., :3]


@dataclass(frozen=True)
class SearchRequest:
    """pair: names of the content and of the style LoRA. routing: what all settings share; its
    branches, method and schedule are each setting's own. content_weight: in [0, 1], against style.
    """

    pair: tuple[str, str]
    routing: RouterRequest
    settings: tuple[Setting, ...]
    sampling: Sampling
    scorer: PairScorer
    content_weight: float
    first_seed: int
    budget: int


@dataclass(frozen=True)
class Best:
    """model: routed by the best setting, under its guidance. asymmetric: for ACFG KSampler."""

    model: Any
    conditioning: Any
    asymmetric: bool
    plot: Tensor
    preset: str
    report: str
    warnings: tuple[str, ...]


def find_best(model: Any, clip: Any, request: SearchRequest, tell: Callable[[str], None]) -> Best:
    """Search, and route by the best setting. tell: one line of how it goes, after each picture.

    Every picture is kept as soon as it is scored: an equal call after an interrupt goes on from
    there, and makes one picture again to see that the MODEL is the same. CraftError where a LoRA is
    not chosen, and for all that a Router refuses.
    """
    if NONE in request.pair:
        raise CraftError(
            "A LoRA is not chosen",
            "Settings say how a content and a style LoRA are combined",
            "Choose content_lora and style_lora",
        )
    request, left_out = fitting_request(request, model)
    search = Search(model, clip, request, SearchJournal.of(_words(request)))
    search.check_journal()
    bar = comfy.utils.ProgressBar(search.plan.most_pictures)
    while trials := search.pending():
        for setting, of_setting in groupby(trials, key=lambda trial: trial.setting):
            routed = search.routed(request.settings[setting])
            for trial in of_setting:
                comfy.model_management.throw_exception_if_processing_interrupted()
                search.run(trial, routed)
                bar.update_absolute(search.done, None, ("JPEG", search.sheet(), _PREVIEW))
                tell(search.line())
    return search.result(left_out)


@dataclass
class Search:
    """One search under way: the plan, and the scores so far in the journal."""

    model: Any
    clip: Any
    request: SearchRequest
    journal: SearchJournal
    plan: Halving = field(init=False)
    _rows: dict[tuple[int, int], TriedSetting] = field(
        default_factory=dict
    )  # by setting and pictures

    def __post_init__(self) -> None:
        request = self.request
        self.plan = plan_halving(len(request.settings), request.budget, request.first_seed)

    def check_journal(self) -> None:
        """Forget the journal of another MODEL: its first picture is made again."""
        by_label = {setting.label: setting for setting in self.request.settings}
        known = next((one for one in self.journal.scores if one[0] in by_label), None)
        if known is None:
            return
        made = self._made(self.routed(by_label[known[0]]), known[1])
        if not self.journal.agrees(known, made):
            self.journal.begin_anew()

    def pending(self) -> list[Trial]:
        return pending(self.plan, self._scores())

    @property
    def done(self) -> int:
        """Pictures of this plan."""
        return len(self._scores())

    def routed(self, setting: Setting) -> Routed:
        """Its MODEL under its guidance, and the prompt."""
        line = setting.line
        strengths = (setting.content_strength, setting.style_strength)
        schedule = None if setting.schedule == _CONSTANT else Schedule(setting.schedule)
        own = replace(
            self.request.routing,
            branches=with_own_loras(self.request.pair, strengths, ()),
            method={"method": line.method.key, **line.knobs},
            layer_sets=line.layer_sets or self.request.routing.layer_sets,
            schedule=schedule,
        )
        found = route(self.model, self.clip, own)
        return replace(found, model=under_line(found.model, line, True)[0])

    def run(self, trial: Trial, routed: Routed) -> None:
        """Make and score one picture."""
        key = self._key(trial)
        self.journal.add(key, self._made(routed, key[1]))

    def _made(self, routed: Routed, seed: int) -> tuple[float, float]:
        pictures = self.request.sampling.picture(routed.model, routed.conditioning, seed)
        return self.request.scorer.scores(pictures)

    def _key(self, trial: Trial) -> Scored:
        seed = (self.request.first_seed + trial.seed) % _SEEDS
        return self.request.settings[trial.setting].label, seed

    def _pairs(self, setting: int, seeds: range) -> dict[int, tuple[float, float]]:
        """(content, style) of the setting's pictures, by the number of the seed."""
        keys = {seed: self._key(Trial(setting, seed)) for seed in seeds}
        known = self.journal.scores
        return {seed: known[key] for seed, key in keys.items() if key in known}

    def _scores(self) -> dict[Trial, float]:
        """The harmonic mean of every picture of the plan."""
        return {
            Trial(setting, seed): self._harmonic([pair])[0]
            for setting in self.plan.entrants
            for seed, pair in self._pairs(setting, self._seeds).items()
        }

    @property
    def _seeds(self) -> range:
        return range(compared(self.plan).stop)

    def _harmonic(self, pairs: Sequence[tuple[float, float]]) -> list[float]:
        weight = self.request.content_weight
        columns = torch.tensor(pairs, dtype=torch.float64).T
        return harmonic_mean(tuple(columns), (weight, 1 - weight)).tolist()

    def rows(self) -> list[TriedSetting]:
        """The settings that were tried, by falling harmonic mean: those with pictures of several
        seeds, or all where none has several."""
        pairs = {setting: self._pairs(setting, self._seeds) for setting in self.plan.entrants}
        several = {setting: own for setting, own in pairs.items() if len(own) > 1}
        tried = several or {setting: own for setting, own in pairs.items() if own}
        rows = [self._row(setting, own) for setting, own in tried.items()]
        return sorted(rows, key=lambda row: -row.together.mean)

    def _row(self, setting: int, pairs: dict[int, tuple[float, float]]) -> TriedSetting:
        key = (setting, len(pairs))
        if key not in self._rows:
            content, style = zip(*pairs.values(), strict=True)
            columns = {"content": content, "style": style}
            columns[HARMONIC] = self._harmonic(list(pairs.values()))
            scores = [self._mean(name, values, list(pairs)) for name, values in columns.items()]
            own = self.request.settings[setting]
            self._rows[key] = TriedSetting(own, Point(own.label, *scores[:2]), scores[2])
        return self._rows[key]

    def _mean(self, measure: str, values: Sequence[float], seeds: Sequence[int]) -> Score:
        encoders = self.request.scorer.encoders
        own = [encoders[measure]] if measure in encoders else list(encoders.values())
        made = list(dict.fromkeys((one.name, one.preprocessing) for one in own))
        names, how = ("; ".join(texts) for texts in zip(*made, strict=True))
        return mean_score(measure, values, {"seeds": seeds}, names, how)

    def best(self) -> int:
        return best_of(self.plan, self._scores())

    def gain(self) -> Score | None:
        """What the best has over the first setting on the seeds of the comparison, picture by
        picture; None where the first is the best or there is no such picture yet."""
        best = self.best()
        first, ours = (self._pairs(one, compared(self.plan)) for one in (FIRST, best))
        seeds = [seed for seed in ours if seed in first]
        if best == FIRST or not seeds:
            return None
        sides = [self._harmonic([pairs[seed] for seed in seeds]) for pairs in (ours, first)]
        gains = [one - other for one, other in zip(*sides, strict=True)]
        return self._mean("gain", gains, seeds)

    def sheet(self) -> Image.Image:
        """The plot so far."""
        return score_sheet(*self._shown())

    def _shown(self) -> tuple[list[Point], str, int | None]:
        """The points of the frontier and of the best others, a title, and the best of them."""
        rows = self.rows()
        on = {rows[place].point.name for place in frontier([row.point for row in rows])}
        shown = [row for rank, row in enumerate(rows) if rank < _SHOWN or row.point.name in on]
        names = [row.point.name for row in shown]
        best = self.request.settings[self.best()].label
        title = f"{self.done} pictures of {len(self.plan.entrants)} settings"
        return [row.point for row in shown], title, names.index(best) if best in names else None

    def line(self) -> str:
        best = self.request.settings[self.best()].label
        return f"{self.done} of at most {self.plan.most_pictures} pictures; best so far: {best}"

    def result(self, left_out: Sequence[str]) -> Best:
        """left_out: what the search could not try."""
        best = self.request.settings[self.best()]
        routed = self.routed(best)
        rows = self.rows()
        on = frontier([row.point for row in rows])
        outcome = Outcome(
            best, self.request.settings[FIRST], rows, [rows[place] for place in on], self.gain(),
            self.request.content_weight, self.done, len(self.plan.entrants),
            len(self.request.settings), self.request.scorer.encoders,
        )  # fmt: skip
        asymmetric = under_line(routed.model, best.line, True)[1]
        plot = score_plot(*self._shown())
        report = f"{search_report(outcome)}\n\n{routed.report}"
        return Best(
            routed.model, routed.conditioning, asymmetric, plot,
            preset_json(outcome, _common(self.request)), report,
            (*left_out, *routed.warnings),
        )  # fmt: skip


def fitting_request(request: SearchRequest, model: Any) -> tuple[SearchRequest, tuple[str, ...]]:
    """(the request with the settings this model can run, why others are left out). CraftError where
    there are fewer than two."""
    layers = model_layers(model)
    methods = {one.line.method.key: one.line.method for one in request.settings}
    lacking = {key: lacks_blocks(method, layers) for key, method in methods.items()}
    fit = tuple(one for one in request.settings if not lacking[one.line.method.key])
    left_out = tuple(f"{key} is left out: {why}." for key, why in lacking.items() if why)
    if len(fit) < 2:
        raise CraftError(
            f"{len(fit)} of the settings can run on this model: {' '.join(left_out)}",
            f"Known are {', '.join(FUSION.keys())}",
            "List other methods, or more strengths",
        )
    return replace(request, settings=fit), left_out


def _common(request: SearchRequest) -> dict[str, Any]:
    """What all settings share, as data."""
    how = request.sampling
    return {
        "prompt": request.routing.prompt,
        "content_lora": request.pair[0],
        "style_lora": request.pair[1],
        "layer_sets": request.routing.layer_sets,
        "steps": how.steps,
        "cfg": how.cfg,
        "sampler_name": how.sampler_name,
        "scheduler": how.scheduler,
        "first_seed": request.first_seed,
    }


def _words(request: SearchRequest) -> list[str]:
    """What pictures and scores depend on besides the setting, the seed and the MODEL."""
    common = {**_common(request), "first_seed": None}
    latent = request.sampling.latent["samples"]
    encoders = request.scorer.encoders
    seen = [request.scorer.references[role].float().cpu() for role in encoders]
    return [
        json.dumps(common),
        *(lora_hash(name) for name in request.pair),
        str(tuple(latent.shape)),
        *(f"{one.name}, {one.preprocessing}" for one in encoders.values()),
        *(hashlib.sha256(one.round(decimals=3).numpy().tobytes()).hexdigest() for one in seen),
    ]
