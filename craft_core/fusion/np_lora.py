"""NP-LoRA: content keeps out of the inputs that style reads.

NP-LoRA (Chen et al. 2025), arXiv:2511.11051:

    dW = dW_s + dW_c (I - mu / (1 + mu) V V^T)

V (n, k) holds style's principal directions, the right singular vectors of dW_s. mu = 0 is the
direct merge; as mu grows, nothing of content remains in the span of V (the paper's hard
projection). Content's down factor alone changes, by down - mu / (1 + mu) (down V) V^T, so its rank
stays what it was. The paper keeps as many directions as style has ranks, and has mu = 0.5.

Departures: `directions` can protect fewer. mu may fade in or out over the run; the paper's is one
number, as it merges weights. Several styles of a layer count as their sum, and a convolution's
inputs are those of its weight as a matrix (out, n * kernel). Where dW of either has no small
factors, or depends on the weight it is added to, content is left as it is, and the report says so.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from typing import Annotated
from weakref import WeakValueDictionary

import torch
from torch import Tensor

from ..lora.factors import combine
from ..papers import NP_LORA
from ..registry import Knob
from ..time import ANY_MOMENT, Moment
from ..types import Bank, Factors, Gates, LayerUpdate, Routing, constant_gates, times
from .methods import FUSION, FusionTraits, gammas_everywhere

_NOTHING = 1e-6  # singular values below this share of the first are rounding
_COURSES = {
    "constant": lambda moment: 1.0,
    "falling": lambda moment: 1.0 - moment.progress,
    "rising": lambda moment: moment.progress,
}


@dataclass(frozen=True)
class SoftFactors(Factors):
    """Factors that can lose what style reads. inside: of down, the part in the span of V; of its
    shape. They are dW whole until `settled` takes a share of that part out."""

    inside: Tensor = field(kw_only=True)

    def settled(self, share: float | Tensor) -> Factors:
        """down - share * inside, of the same rank."""
        inside, alpha = times(self.inside.to(self.down.dtype), share)
        down = torch.sub(self.down, inside, alpha=alpha)
        return Factors(down, self.up, self.scale, self.rows)


@FUSION.register("NP-LoRA", paper=NP_LORA, traits=FusionTraits(markers=True, layer_sets=False))
def np_lora(
    bank: Bank,
    routing: Routing,
    *,
    mu: Annotated[
        float, Knob("How much content yields where style reads: the part mu / (1 + mu) of it. 0: "
                    "not at all, the direct merge. 1000: wholly. The paper: 0.5.",
                    0.0, 1000.0, 0.05),
    ] = 0.5,
    course: Annotated[
        str, Knob("mu over the steps. constant: the paper's. falling: from mu to 0. rising: from 0 "
                  "to mu.", choices=tuple(_COURSES)),
    ] = "constant",
    directions: Annotated[
        int, Knob("How many of style's directions are protected in a layer, the strongest first. "
                  "0: all, as in the paper.", 0, 4096, 1, advanced=True),
    ] = 0,
) -> Gates:  # fmt: skip
    """Both LoRAs in full, but content yields where it would act on the inputs that style reads."""
    table = gammas_everywhere(bank, routing)  # (layers, branches)
    yielding = _Yielding(bank, [bool(gamma) for gamma in routing.gammas], directions)

    def share(moment: Moment) -> float:
        now = mu * _COURSES[course](moment)
        return now / (1.0 + now)

    if course == "constant":
        made = yielding.bank(share(ANY_MOMENT))
        return replace(constant_gates(table, yielding.notes()), bank=made)
    made = yielding.bank(None)
    return Gates(lambda moment: table[None], notes=yielding.notes(), bank=made, share=share)


_Layers = Mapping[str, tuple[LayerUpdate, ...]]


class YieldedLayers(dict[str, tuple[LayerUpdate, ...]]):
    """The updates of a content that yields to styles. energies: (inside, whole) of each that
    yields. left: how many beside a style stay as they are. They are shared while someone holds
    them, and hold what they were made of, so that nothing else takes its ids."""

    def __init__(self, content: _Layers, styles: Sequence[_Layers]) -> None:
        super().__init__(content)
        self.content, self.styles = content, styles
        self.energies: list[tuple[float, float]] = []
        self.left = 0

    def give_way(
        self, path: str, directions: Callable[[], Tensor | None], share: float | None
    ) -> None:
        """directions: of the styles in this layer; asked for where an update could yield."""
        made: list[LayerUpdate] = []
        for one in self[path]:
            if one.of_bias or not one.inputs:
                made.append(one)
            elif not _has_factors(one) or (found := directions()) is None:
                self.left += 1
                made.append(one)
            else:
                soft, energies = _soft(one.factors(), found)
                self.energies.append(energies)
                made.append(soft if share is None else soft.settled(share))
        if any(new is not old for new, old in zip(made, self[path], strict=True)):
            self[path] = tuple(made)


_made: WeakValueDictionary[Hashable, YieldedLayers] = WeakValueDictionary()


class _Yielding:
    """The contents that are on made to yield to the styles that are."""

    def __init__(self, bank: Bank, on: Sequence[bool], directions: int) -> None:
        self.given, self.on, self.directions = bank, on, directions
        pairs = zip(bank.branches, on, strict=True)
        self.styles = [dict(b.layers) for b, acts in pairs if acts and b.role == "style"]
        self.contents: list[YieldedLayers] = []

    def bank(self, share: float | None) -> Bank:
        """share: what content loses; None where that changes with time.

        Prompts, strengths and schedules do not enter: what was made of these updates by this share
        is found again.
        """
        branches = list(self.given.branches)
        anew: dict[Hashable, YieldedLayers] = {}
        for j, (branch, acts) in enumerate(zip(branches, self.on, strict=True)):
            if acts and branch.role == "content":
                given = dict(branch.layers)
                key = self._key(given, share)
                layers = _made.get(key, anew.get(key))
                if layers is None:
                    layers = anew[key] = YieldedLayers(given, self.styles)
                self.contents.append(layers)
                branches[j] = replace(branch, layers=layers)
        with torch.inference_mode(False):  # trainings may take what a Router has made
            self._make(anew.values(), share)
        _made.update(anew)
        return Bank(tuple(branches), self.given.layers)

    def _key(self, content: _Layers, share: float | None) -> Hashable:
        read = [content, *self.styles]
        ids = (tuple((path, id(updates)) for path, updates in one.items()) for one in read)
        return (*ids, self.directions, share)

    def _make(self, contents: Iterable[YieldedLayers], share: float | None) -> None:
        for path in self.given.layers:
            beside = [one for style in self.styles for one in style.get(path, ())]
            having = [own for own in contents if path in own]
            if beside and having:
                of_weights = [one for one in beside if not one.of_bias]
                directions = cache(partial(_directions, of_weights, self.directions))
                for own in having:
                    own.give_way(path, directions, share)

    def notes(self) -> tuple[str, ...]:
        """For the report; after `bank`."""
        pairs = [pair for content in self.contents for pair in content.energies]
        inside, whole = (math.fsum(pair[side] for pair in pairs) for side in (0, 1))
        said = "NP-LoRA: content and style share no layer, so nothing yields"
        if whole:
            said = (
                f"NP-LoRA: in the layers that both adapt, {100 * inside / whole:.1f} % of "
                "content's energy is on inputs that style reads"
            )
        count = sum(content.left for content in self.contents)
        if not count:
            return (said,)
        left = (
            f"NP-LoRA: {count} updates of content have no small factors, or meet a style's that "
            "has none, and yield nothing"
        )
        return (said, left)


def _has_factors(update: LayerUpdate) -> bool:
    return update.is_low_rank and not update.on_weight


def _directions(styles: Sequence[LayerUpdate], most: int) -> Tensor | None:
    """V (n * kernel, k) in float64: the right singular vectors of the styles' sum, at most `most`
    of them unless that is 0; None where a style has no small factors."""
    if not styles or not all(_has_factors(one) and one.inputs for one in styles):
        return None
    both = combine(styles)
    _, upper = torch.linalg.qr(both.up.double())  # (q, r)
    right, lower = torch.linalg.qr(both.flat_down.double().T)  # (n * kernel, p), (p, r)
    _, values, inner = torch.linalg.svd(upper @ lower.T, full_matrices=False)  # (q, p)
    count = int((values > _NOTHING * values[0]).sum()) if values[0] > 0 else 0
    return right @ inner[: min(count, most) if most else count].T


def _soft(content: Factors, directions: Tensor) -> tuple[SoftFactors, tuple[float, float]]:
    """(the factors with their part inside, the energies |dW_c V|^2 and |dW_c|^2)."""
    flat, up = content.flat_down.double(), content.scale * content.up.double()
    seen = flat @ directions  # (rank, k)
    inside = (seen @ directions.T).float().reshape(content.down.shape)
    gram = up.T @ up  # (rank, rank)
    energies = tuple(((gram @ part) * part).sum().item() for part in (seen, flat))
    soft = SoftFactors(content.down, content.up, content.scale, content.rows, inside=inside)
    return soft, (energies[0], energies[1])
