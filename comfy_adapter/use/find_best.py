"""The best settings for one's own pair: searched on the model itself, picture by picture."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Any

import comfy.model_management
import comfy.utils
import torch
from PIL import Image
from torch import Tensor

from ...craft_core.errors import CraftError
from ...craft_core.evaluation import Point, Score, frontier, harmonic_mean, mean_score
from ...craft_core.evaluation.pair_columns import HARMONIC
from ...craft_core.fusion import FUSION
from ...craft_core.guidance import GUIDANCE
from ...craft_core.guidance.reach import overdriven_places
from ...craft_core.routing.markers import parse
from ...craft_core.routing.plan import lacks_blocks
from ...craft_core.schedule import SHAPES
from ...craft_core.search import (
    FIRST,
    Halving,
    Setting,
    Trial,
    best_of,
    compared,
    pending,
    plan_halving,
    rule_in,
)
from ..draw.score_plot import score_plot, score_sheet
from ..engine.modules import model_layers
from ..model.expert_encoder import lora_hash
from ..model.lora_files import NONE, BranchFile
from ..score.pair_scorer import PairScorer
from .burning import guided_setting
from .router import Routed, RouterRequest, with_own_loras
from .sampling import Sampling, guidance_of, routed_by
from .search_journal import Scored, SearchJournal
from .search_report import Outcome, Stop, TriedSetting, preset_json, search_report
from .sweep import under_line

LOG = logging.getLogger("craft")
_SEEDS = 1 << 64
_SHOWN = 24  # settings on the plot besides those of the frontier; of a stopped search's frontier
_PREVIEW = 1024  # longest edge of the plot on the node, in pixels


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

    def branches(self, setting: Setting) -> tuple[BranchFile, ...]:
        """Both LoRAs, at the setting's strengths."""
        strengths = (setting.content_strength, setting.style_strength)
        return with_own_loras(self.pair, strengths, ())


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


def find_best(model: Any, clip: Any, request: SearchRequest, tell: Callable[..., None]) -> Best:
    """Search, and route by the best setting. tell: one line of how it goes and what the
    user should know of the settings, after each picture; where the search ends early, the report
    and the preset of what was found so far, and what ended it goes on up as it is.

    Every picture is kept as soon as it is scored: an equal call after an interrupt goes on from
    there, and makes one picture of each guidance rule again to see that the MODEL is the same.
    CraftError where a LoRA is not chosen, and for all that a Router refuses.
    """
    if NONE in request.pair:
        raise CraftError(
            "A LoRA is not chosen",
            "Settings say how a content and a style LoRA are combined",
            "Choose content_lora and style_lora",
        )
    request, left_out = fitting_request(request, model)
    search = Search(model, clip, request, SearchJournal.of(_parts(request)))
    burning = search_too_far(request)
    search.take_up_journal()
    bar = comfy.utils.ProgressBar(search.plan.most_pictures)
    with _telling_what_was_found(search, left_out, burning, tell):
        while trials := search.pending():
            for setting, of_setting in groupby(trials, key=lambda trial: trial.setting):
                routed = search.routed(request.settings[setting])
                for trial in of_setting:
                    comfy.model_management.throw_exception_if_processing_interrupted()
                    search.run(trial, routed)
                    bar.update_absolute(search.done, None, ("JPEG", search.sheet(), _PREVIEW))
                    tell("\n".join([search.line(), *burning]))
        return search.result(left_out, burning)


@contextmanager
def _telling_what_was_found(
    search: Search,
    left_out: Sequence[str],
    burning: Sequence[str],
    tell: Callable[[str, str], None],
) -> Iterator[None]:
    """Whatever ends the block early, tell first what the search has found, if it has a picture."""
    try:
        yield
    except BaseException:  # the host's interrupt is no Exception
        try:
            if search.has_best:
                tell(*search.so_far(left_out, burning))
        except Exception as error:  # never in place of what ended the search
            LOG.warning("What the search has found so far cannot be shown: %r", error)
        raise


@dataclass
class Search:
    """One search under way: the plan, and the scores so far, which the journal keeps.

    best: the place of the best setting so far."""

    model: Any
    clip: Any
    request: SearchRequest
    journal: SearchJournal
    plan: Halving = field(init=False)
    best: int = FIRST
    _pairs: dict[int, dict[int, tuple[float, float]]] = field(
        default_factory=dict
    )  # (content, style) by setting and the number of the seed
    _scores: dict[Trial, float] = field(default_factory=dict)  # harmonic means
    _rows: dict[tuple[int, int], TriedSetting] = field(
        default_factory=dict
    )  # by setting and pictures

    def __post_init__(self) -> None:
        request = self.request
        self.plan = plan_halving(len(request.settings), request.budget, request.first_seed)

    def take_up_journal(self) -> None:
        """Forget what the journal has of another MODEL, and take the plan's pictures of this one's.

        Of each guidance rule the picture that it takes farthest is made again, of those that can
        be. Where none can be, the MODEL is not known.
        """
        by_label = {setting.label: setting for setting in self.request.settings}
        for rule in dict.fromkeys(setting.line.guidance for setting in by_label.values()):
            known = [one for one in self.journal.scores if rule_in(one[0]) == rule]
            again = [one for one in known if one[0] in by_label]
            if not again:
                self.journal.forget(known)
                continue
            shows = max(again, key=lambda one: self._distance(by_label[one[0]]))
            made = self._made(self.routed(by_label[shows[0]]), shows[1])
            if not self.journal.agrees(shows, made):
                self.journal.forget(known)
                self.journal.add(shows, made)
        self._take_up(Trial(one, seed) for one in self.plan.entrants for seed in self._seeds)

    def _distance(self, setting: Setting) -> float:
        return guidance_of(setting.line, self.request.sampling.cfg).distance

    def pending(self) -> list[Trial]:
        return pending(self.plan, self._scores)

    @property
    def done(self) -> int:
        """Pictures of this plan."""
        return len(self._scores)

    def routed(self, setting: Setting) -> Routed:
        """Its MODEL under its guidance, and the prompt."""
        line = setting.line
        branches = self.request.branches(setting)
        routing = replace(self.request.routing, branches=branches, schedule=setting.course)
        return routed_by(self.model, self.clip, routing, line)

    def run(self, trial: Trial, routed: Routed) -> None:
        """Make and score one picture."""
        key = self._key(trial)
        self.journal.add(key, self._made(routed, key[1]))
        self._take_up([trial])

    def _take_up(self, trials: Iterable[Trial]) -> None:
        """Those of the trials that are in the journal."""
        for trial in trials:
            pair = self.journal.scores.get(self._key(trial))
            if pair is not None:
                self._pairs.setdefault(trial.setting, {})[trial.seed] = pair
                self._scores[trial] = self._harmonic([pair])[0]
        self.best = best_of(self.plan, self._scores)

    def _made(self, routed: Routed, seed: int) -> tuple[float, float]:
        pictures = self.request.sampling.picture(routed.model, routed.conditioning, seed)
        return self.request.scorer.scores(pictures)

    def _key(self, trial: Trial) -> Scored:
        seed = (self.request.first_seed + trial.seed) % _SEEDS
        return self.request.settings[trial.setting].label, seed

    @property
    def _seeds(self) -> range:
        return range(compared(self.plan).stop)

    def _harmonic(self, pairs: Sequence[tuple[float, float]]) -> list[float]:
        weight = self.request.content_weight
        columns = torch.tensor(pairs, dtype=torch.float64).T
        return harmonic_mean(tuple(columns), (weight, 1 - weight)).tolist()

    def rows(self) -> list[TriedSetting]:
        """The settings that were tried, by falling harmonic mean: those with pictures of several
        seeds and what comes out, or all where none has several."""
        tried = [setting for setting in self.plan.entrants if setting in self._pairs]
        several = [setting for setting in tried if len(self._pairs[setting]) > 1]
        if several and self.chosen not in several and self.has_best:
            several.append(self.chosen)
        rows = [self._row(setting) for setting in several or tried]
        return sorted(rows, key=lambda row: -row.together.mean)

    def _row(self, setting: int) -> TriedSetting:
        key = (setting, len(self._pairs[setting]))
        if key not in self._rows:
            pairs = dict(sorted(self._pairs[setting].items()))
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

    def gain(self) -> Score | None:
        """What the best has over the first setting on the seeds of the comparison, picture by
        picture; None where the first is the best or there is no such picture yet."""
        first, ours = (self._pairs.get(one, {}) for one in (FIRST, self.best))
        seeds = [seed for seed in compared(self.plan) if seed in first and seed in ours]
        if self.best == FIRST or not seeds:
            return None
        sides = [self._harmonic([pairs[seed] for seed in seeds]) for pairs in (ours, first)]
        gains = [one - other for one, other in zip(*sides, strict=True)]
        return self._mean("gain", gains, seeds)

    @property
    def chosen(self) -> int:
        """What comes out: the best, but the first setting where the comparison found it as good."""
        gain = self.gain()
        return FIRST if gain is not None and gain.mean <= 0 else self.best

    def sheet(self) -> Image.Image:
        """The plot so far."""
        return score_sheet(*self._shown())

    def _shown(self) -> tuple[list[Point], str, int | None]:
        """The points of the frontier and of the best others, a title, and the best of them."""
        rows = self.rows()
        on = {rows[place].point.name for place in frontier([row.point for row in rows])}
        best = self.request.settings[self.chosen].label
        on.add(best)
        shown = [row for rank, row in enumerate(rows) if rank < _SHOWN or row.point.name in on]
        names = [row.point.name for row in shown]
        title = f"{self.done} pictures of {len(self.plan.entrants)} settings"
        return [row.point for row in shown], title, names.index(best) if best in names else None

    def line(self) -> str:
        best = self.request.settings[self.chosen].label
        return f"{self.done} of at most {self.plan.most_pictures} pictures; best so far: {best}"

    def result(self, left_out: Sequence[str], burning: Sequence[str] = ()) -> Best:
        """left_out: what the search could not try. burning: what guidance takes too far."""
        outcome = self._outcome()
        routed = self.routed(outcome.best)
        asymmetric = under_line(routed.model, outcome.best.line, True)[1]
        plot = score_plot(*self._shown())
        parts = (search_report(outcome), "\n".join(burning), routed.report)
        report = "\n\n".join(filter(None, parts))
        return Best(
            routed.model, routed.conditioning, asymmetric, plot,
            preset_json(outcome, _common(self.request)), report, (*left_out, *routed.warnings),
        )  # fmt: skip

    @property
    def has_best(self) -> bool:
        """Whether a picture of what would come out now is scored."""
        return self.chosen in self._pairs

    def so_far(self, left_out: Sequence[str], burning: Sequence[str] = ()) -> tuple[str, str]:
        """(report, preset) of a search that ends now, whose best was not routed. As in `result`."""
        outcome = self._outcome(Stop(self.plan.most_pictures, self.journal.path is not None))
        parts = ("\n".join([*left_out, search_report(outcome)]), "\n".join(burning))
        report = "\n\n".join(filter(None, parts))
        return report, preset_json(outcome, _common(self.request))

    def _outcome(self, stop: Stop | None = None) -> Outcome:
        settings, rows = self.request.settings, self.rows()
        on_frontier = [rows[place] for place in frontier([row.point for row in rows])]
        if stop:  # one picture each says little: many may lie there
            good = sorted(on_frontier, key=lambda row: -row.together.mean)[:_SHOWN]
            on_frontier = [row for row in on_frontier if row in good]
        return Outcome(
            settings[self.chosen], settings[self.best], settings[FIRST], rows, on_frontier,
            self.gain(), self.request.content_weight, self.done,
            len(self._pairs) if stop else len(self.plan.entrants), len(settings),
            self.request.scorer.encoders, stop,
        )  # fmt: skip


def search_too_far(request: SearchRequest) -> list[str]:
    """What the user should know of settings whose LoRAs guidance multiplies too far."""
    marked, cfg = parse(request.routing.prompt), request.sampling.cfg
    settings = [
        guided_setting(one.label, request.branches(one), marked, one.line, cfg)
        for one in request.settings
    ]
    return overdriven_places(settings, "strengths")


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


def _parts(request: SearchRequest) -> list[Any]:
    """What pictures and scores depend on besides the setting, the seed and the MODEL."""
    families = (FUSION, GUIDANCE, SHAPES)
    encoders = request.scorer.encoders
    references = [
        [(255 * batch).round().clamp(0, 255).to(torch.uint8) for batch in batches]
        for batches in (request.scorer.pictures[role] for role in encoders)
    ]
    return [
        {**_common(request), "first_seed": None},
        [lora_hash(name) for name in request.pair],
        [[(method.key, method.knobs({})) for method in family] for family in families],
        request.sampling.negative,
        request.sampling.latent,
        [(one.name, one.preprocessing) for one in encoders.values()],
        references,
    ]
