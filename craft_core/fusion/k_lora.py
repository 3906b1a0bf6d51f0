"""K-LoRA: in each layer one role acts at a time, content early and style late.

K-LoRA (Ouyang et al. 2025), arXiv:2502.18461. S_c and S_s sum the K = r_c r_s largest |dW| of a
layer (Eqs. 1-5). Content acts while S_c >= gamma S(t) S_s, with S(t) = alpha t/T + beta (Eqs. 6-8,
10), t counted from the first step. S_c and S_s do not depend on t, so a layer has one switch point.

Departures: t is the step of the run, whatever clock a schedule beside it goes by; the release
counts forward calls (both halves of guidance, and every layer its own). Several branches of a role
act together. A layer that one role alone adapts stays that role's. `fixed` is content while
S(t) <= 1, as the paper's Sec. 4.3 must mean: printed is the reverse, against its finding (ii).

gamma is summed over the layers that both LoRAs adapt (`shared`). Eq. 9 sums every layer of each
(`paper`). Where both adapt the same layers, as in the paper, that is the same number. Elsewhere
Eq. 9 counts layers in which nothing is compared: of two LoRAs alike in every layer, one with
three times the other's layers would give gamma = 3 and lose all the layers they share.
"""

from __future__ import annotations

import math
from typing import Annotated

import torch
from torch import Tensor

from ..papers import K_LORA
from ..registry import Knob
from ..time import Moment
from ..types import Bank, Gates, Routing, Statistics
from .methods import FUSION, Traits, gammas_everywhere

_TRIM = 3.0  # the release drops layers whose ratio is this many times the mean of all


@FUSION.register(
    "K-LoRA",
    paper=K_LORA,
    traits=Traits(markers=True, layer_sets=False, statistics=("top_k", "abs_sum")),
)
def k_lora(
    bank: Bank,
    routing: Routing,
    *,
    pattern: Annotated[
        str, Knob("s: from content to style. s*: style in the first steps too.",
                  choices=("s", "s*")),
    ] = "s",
    gamma: Annotated[
        str, Knob("What evens out LoRAs of different size. shared: the ratio of all |dW| in the "
                  "layers that both adapt. paper: in every layer of each (Eq. 9). released: the "
                  "mean of the layers' ratios, large ones left out. none: 1.",
                  choices=("shared", "paper", "released", "none")),
    ] = "shared",
    alpha: Annotated[float, Knob("How much style gains from the first step to the last.",
                                 0.0, 10.0, 0.05)] = 1.5,
    beta: Annotated[float, Knob("Weight of style at the first step, for pattern s.",
                                0.0, 10.0, 0.05)] = 0.5,
    beta_star: Annotated[
        float, Knob("Where pattern s* begins; at alpha it falls back to 0. The release: 1.275.",
                    0.0, 10.0, 0.05, advanced=True),
    ] = 1.3,
    selection: Annotated[
        str, Knob("top-k: the method. fixed, random: its ablations.",
                  choices=("top-k", "fixed", "random"), advanced=True),
    ] = "top-k",
    content_share: Annotated[float, Knob("How often random selection takes content.",
                                         0.0, 1.0, 0.01, advanced=True)] = 1 / 3,
    seed: Annotated[int, Knob("Of random selection.", 0, 2**64 - 1, 1, advanced=True)] = 0,
) -> Gates:  # fmt: skip
    """In each layer the LoRA with the larger top entries acts: content early, style late."""
    by_role = _by_role(bank, gammas_everywhere(bank, routing))
    limits = _limits(bank, by_role, routing.statistics, gamma, compare=selection == "top-k")
    shared = limits.isfinite()

    def takes_content(moment: Moment) -> Tensor:
        """(layers,) bool."""
        if selection == "random":
            draws = _draws(seed, moment, len(limits))
            return torch.where(shared, draws < content_share, limits > 0)
        if pattern == "s":
            return limits >= alpha * _elapsed(moment) + beta
        scale = alpha * _elapsed(moment) + beta_star
        return limits >= (scale % alpha if alpha else scale)

    def at(moment: Moment) -> Tensor:
        return torch.where(takes_content(moment)[:, None], *by_role)[None]

    switches = selection == "top-k" and pattern == "s" and alpha > 0
    return Gates(at, notes=(_switch_points((limits - beta) / alpha),) if switches else ())


def _by_role(bank: Bank, table: Tensor) -> tuple[Tensor, Tensor]:
    """The (layers, branches) gates where content acts, and where style acts."""
    content = torch.tensor([float(branch.role == "content") for branch in bank.branches])
    return table * content, table * (1.0 - content)


def _limits(
    bank: Bank,
    by_role: tuple[Tensor, Tensor],
    statistics: Statistics | None,
    gamma: str,
    compare: bool,
) -> Tensor:
    """(layers,) float64: content acts in a layer while S(t) is not above its limit,
    S_c / (gamma S_s); inf or -inf where only one role can act. Without comparing it is 1."""
    limits = []
    present = [table.any(dim=1).tolist() for table in by_role]
    shared = any(map(all, zip(*present, strict=True)))
    balance = _balance(statistics, gamma) if statistics and compare and shared else 1.0
    top = statistics.shared("top_k") if statistics else None
    for path, has_content, has_style in zip(bank.layers, *present, strict=True):
        if not (has_content and has_style):
            limits.append(math.inf if has_content else -math.inf)
            continue
        assert top is not None, "K-LoRA compares content with style"
        limits.append(_limit(*top[path], balance, compare))
    return torch.tensor(limits, dtype=torch.float64)


def _limit(content: float, style: float, balance: float, compare: bool) -> float:
    """A LoRA of zeros leaves the layer to the other."""
    if style == 0.0:
        return math.inf
    if content == 0.0:
        return -math.inf
    return content / (balance * style) if compare else 1.0


def _balance(statistics: Statistics, gamma: str) -> float:
    """gamma, 1 where no layer is compared: one of the two LoRAs is zero in each they share."""
    if gamma == "none":
        return 1.0
    total = list(statistics.shared("abs_sum").values())
    pairs = [pair for pair in total if min(pair) > 0.0]
    if not pairs:
        return 1.0
    if gamma in ("shared", "paper"):
        alone = statistics.alone("abs_sum") if gamma == "paper" else (0.0, 0.0)
        content, style = (math.fsum(side) for side in zip(*total, alone, strict=True))
        return content / style
    ratios = [content / style for content, style in pairs]
    mean = math.fsum(ratios) / len(ratios)
    kept = [ratio for ratio in ratios if ratio < _TRIM * mean]
    return math.fsum(kept) / len(kept)


def _elapsed(moment: Moment) -> float:
    """t / T of Eq. 7: 0 at the first step, (T - 1) / T at the last."""
    return moment.step / moment.steps


def _draws(seed: int, moment: Moment, layers: int) -> Tensor:
    """(layers,) uniform in [0, 1), anew at each step."""
    mixed = (seed * 1_000_003 + moment.step_index) % (1 << 63)
    return torch.rand(layers, generator=torch.Generator().manual_seed(mixed))


def _switch_points(elapsed: Tensor) -> str:
    """elapsed: (layers,) share of the steps after which style acts."""
    inside = elapsed[(elapsed >= 0) & (elapsed < 1)]
    counts = f"content keeps {int((elapsed >= 1).sum())} layers, style {int((elapsed < 0).sum())}"
    if not len(inside):
        return f"K-LoRA: {counts}; none switches"
    low, middle, high = (100 * inside.quantile(q).item() for q in (0.0, 0.5, 1.0))
    return (
        f"K-LoRA: {counts}; {len(inside)} switch after {low:.0f} to {high:.0f} % of the steps "
        f"(half of them by {middle:.0f} %)"
    )
