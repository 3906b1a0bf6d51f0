"""A grid of settings, sampled cell by cell."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Any

import comfy.model_management
import comfy.utils
from torch import Tensor

from ...craft_core.errors import CraftError
from ...craft_core.fusion import FUSION
from ...craft_core.guidance import GUIDANCE
from ...craft_core.guidance.reach import overdriven_places
from ...craft_core.routing.markers import parse
from ...craft_core.routing.plan import lacks_blocks
from ...craft_core.schedule import SHAPES
from ...craft_core.search import Grid, GridCell, GridSetting
from ..draw import comparison
from ..engine.modules import model_layers
from ..model.expert_encoder import encoder_path, lora_hash
from ..model.lora_files import NONE, BranchFile, apply_stack
from ..model.stamps import hash_of
from ..train.run import duration
from .burning import guided_setting
from .kept_cells import KeptCells, agree
from .router import Routed, RouterRequest, with_own_loras
from .sampling import Guidance, Sampling, guidance_of, routed_by


@dataclass(frozen=True)
class GridRequest:
    """pair: names of the content and of the style LoRA. routing: what all cells share; its
    branches, method, layer sets and schedule are each cell's own, and so is the cfg of sampling.
    base: what a cell has that no axis sets. stack: a LORA_STACK."""

    grid: Grid
    base: GridSetting
    pair: tuple[str, str]
    extra: tuple[BranchFile, ...]
    stack: Sequence
    routing: RouterRequest
    sampling: Sampling

    def branches(self, setting: GridSetting) -> tuple[BranchFile, ...]:
        """All LoRAs of a cell, at its strengths."""
        strengths = (setting.content_strength, setting.style_strength)
        return with_own_loras(self.pair, strengths, self.extra)


@dataclass(frozen=True)
class MadeCell:
    """picture: IMAGE, what the Router, ACFG KSampler and VAE Decode make of the setting."""

    cell: GridCell
    picture: Tensor


@dataclass(frozen=True)
class Filled:
    cells: tuple[MadeCell, ...]
    warnings: tuple[str, ...]

    def labelled(self, grid: Grid) -> list[comparison.Cell]:
        return [
            comparison.Cell(
                grid.rows[one.cell.row].label, grid.columns[one.cell.column].label, one.picture
            )
            for one in self.cells
        ]


Show = Callable[[str, MadeCell | None], None]


def fill_grid(model: Any, clip: Any, request: GridRequest, show: Show) -> Filled:
    """Make every cell. show: gets one line of how it goes, above what the user should know of the
    cells, and each cell as soon as it is made.

    A cell is kept when it is made: an equal call after an interrupt makes those that are missing,
    and one of each kind of guidance again to see that the MODEL is the same. CraftError for all
    that a Router refuses, and where a method cannot run on the MODEL.
    """
    if all(name == NONE for name in request.pair) and not request.extra:
        raise CraftError(
            "No LoRA is chosen",
            "The settings of a grid say how LoRAs act",
            "Choose content_lora, style_lora or both, or connect extra branches",
        )
    cells = request.grid.cells(request.base)
    _require_blocks(cells, model)
    burning = cells_too_far(request, cells)

    def say(text: str, made: MadeCell | None) -> None:
        show("\n".join([text, *burning]), made)

    model, clip, _ = apply_stack(model, clip, request.stack)
    maker = _Maker(model, clip, request)
    kept = KeptCells.of(_parts(request))
    bar = comfy.utils.ProgressBar(len(cells))
    found: list[MadeCell] = []
    took: list[float] = []  # seconds
    try:
        if not kept.empty:
            _forget_of_other_model(kept, cells, maker, say)
        missing = sum(kept.get(cell.setting) is None for cell in cells)
        for cell in cells:
            say(progress_line(len(found), len(cells), took, missing - len(took)), None)
            comfy.model_management.throw_exception_if_processing_interrupted()
            latent, begun = kept.get(cell.setting), perf_counter()
            if made := latent is None:
                latent = maker.latent(cell.setting)
                kept.put(cell.setting, latent)
            picture = request.sampling.decoded(latent)
            if made:
                took.append(perf_counter() - begun)
            found.append(MadeCell(cell, picture))
            bar.update_absolute(len(found))
            say(progress_line(len(found), len(cells), took, missing - len(took)), found[-1])
    finally:
        if len(found) < len(cells):  # stopped, or failed
            later = sum(kept.get(cell.setting) is not None for cell in cells[len(found) :])
            done = len(found) + later  # those of an earlier run too
            say(f"Stopped: {done} of {len(cells)} cells are done. Run goes on from there.", None)
    return Filled(tuple(found), tuple(dict.fromkeys([*burning, *maker.warnings])))


def cells_too_far(request: GridRequest, cells: Sequence[GridCell]) -> list[str]:
    """What the user should know of cells whose LoRAs guidance multiplies too far."""
    marked, grid = parse(request.routing.prompt), request.grid
    settings = []
    for cell in cells:
        labels = (grid.rows[cell.row].label, grid.columns[cell.column].label)
        place = ", ".join(line for label in labels for line in label.splitlines())
        branches = request.branches(cell.setting)
        settings.append(
            guided_setting(place, branches, marked, cell.setting.line, cell.setting.cfg)
        )
    return overdriven_places(settings)


class _Maker:
    """Makes latents; a routed MODEL is made once for cells in a row that differ in cfg and seed."""

    def __init__(self, model: Any, clip: Any, request: GridRequest) -> None:
        self.model, self.clip, self.request = model, clip, request
        self.warnings: list[str] = []
        self._last: tuple[GridSetting, Routed] | None = None

    def latent(self, setting: GridSetting) -> Tensor:
        routed = self._routed(setting)
        sampling = replace(self.request.sampling, cfg=setting.cfg)
        return sampling.sampled(routed.model, routed.conditioning, setting.seed)

    def _routed(self, setting: GridSetting) -> Routed:
        own = replace(setting, cfg=0.0, seed=0)
        if self._last is None or self._last[0] != own:
            routing = replace(
                self.request.routing,
                branches=self.request.branches(setting),
                layer_sets=setting.layer_sets,
                schedule=setting.schedule,
            )
            self._last = own, routed_by(self.model, self.clip, routing, setting.line)
            self.warnings += self._last[1].warnings
        return self._last[1]


def progress_line(done: int, count: int, took: Sequence[float], missing: int) -> str:
    """ "cell 7 of 18, about 2 min left". took: seconds of each picture so far; the first one, which
    loads the model too, does not count beside others. missing: pictures to make."""
    if done == count:
        return f"{count} of {count} cells"
    said = f"cell {done + 1} of {count}"
    if not took:
        return said
    usual = took[1:] or took
    return f"{said}, about {duration(missing * sum(usual) / len(usual))} left"


def _forget_of_other_model(
    kept: KeptCells, cells: Sequence[GridCell], maker: _Maker, say: Callable[[str, None], None]
) -> None:
    """Forget the cells of another MODEL. Of the same evaluations, the one that guidance takes
    farthest is made again: it says nothing of cells of other grids that go farther. Where none can
    be made again, the MODEL is not known."""
    farthest = sorted(cells, key=lambda cell: -_guidance(cell).distance)
    for evaluations in dict.fromkeys(_guidance(cell).evaluations for cell in cells):
        comfy.model_management.throw_exception_if_processing_interrupted()
        own = (cell for cell in farthest if _guidance(cell).evaluations == evaluations)
        cell = next((one for one in own if kept.get(one.setting) is not None), None)
        if cell is None:
            kept.forget(evaluations)
            continue
        say("One cell is made again, to see that the model is the same.", None)
        made = maker.latent(cell.setting)
        if agree(made, kept.get(cell.setting)):
            kept.forget(evaluations, beyond=_guidance(cell).distance)
        else:
            kept.forget(evaluations)
            kept.put(cell.setting, made)


def _guidance(cell: GridCell) -> Guidance:
    return guidance_of(cell.setting.line, cell.setting.cfg)


def _require_blocks(cells: Sequence[GridCell], model: Any) -> None:
    layers = model_layers(model)
    for method in dict.fromkeys(cell.setting.method.key for cell in cells):
        lacking = lacks_blocks(FUSION[method], layers)
        if lacking:
            raise CraftError(
                f"{method} cannot run on this model: {lacking}",
                f"Known are {', '.join(FUSION.keys())}",
                "Take it out of the axis, or choose another method",
            )


def _parts(request: GridRequest) -> list[Any]:
    """What latents depend on besides the cell's setting and the MODEL."""
    how, routing = request.sampling, request.routing
    families = (FUSION, GUIDANCE, SHAPES)
    return [
        [routing.prompt, routing.allow_unmatched, how.steps, how.sampler_name, how.scheduler],
        [lora_hash(name) if name != NONE else "" for name in request.pair],
        [[lora_hash(one), one.role, one.strength, one.layers] for one in request.extra],
        [[lora_hash(name), *rest] for name, *rest in request.stack if name not in (NONE, "None")],
        hash_of(encoder_path(routing.expert_encoder)) if routing.expert_encoder else "",
        [[(method.key, method.knobs({})) for method in family] for family in families],
        how.negative,
        how.latent,
    ]
