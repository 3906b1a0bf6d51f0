"""B4M's second stage: a content half's up with a style half's down, tuned on both for a few steps.

B4M (Xu et al. 2025), arXiv:2403.19456, Secs. 4.2-4.3, "make". The fused LoRA has A and C frozen, B
of the content half and D of the style half (plp.py); 0 steps is that fusion as it is. Then both
learn from both halves' pictures by the denoising loss, gradients scaled by a Riemannian
preconditioner (Eqs. 13-14 with M = D, (rank, n'), and N = B, (out', rank), damped by delta):

    D <- D - rate (B^T B + delta I)^-1 grad_D        B <- B - rate grad_B (D D^T + delta I)^-1

Eqs. 13-14 as printed are steps of gradient descent (`optimiser` sgd). They want rates near 1: a
scaled step is one in dW itself, and at the paper's 1e-4 nothing moves. The release has an AdamW
over scaled gradients, as the default here. The paper has no delta. It is needed: halves learned
without partners leave B^T B and D D^T singular, since each lives on its own half of the rank. The
preconditioner is that of Zhang & Pilanci 2024, arXiv:2402.02347.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import torch
from torch import Tensor

from ...errors import CraftError
from ...lora import combine
from ...papers import B4M
from ...projection import solution_of
from ...registry import Knob
from ...types import ROLES, Branch, Role
from ..data import Moves
from ..denoiser import Denoiser
from ..loop import OPTIMISERS, Pace, Training
from ..losses import Draw, denoising_loss
from ..merge import MERGE_SLOTS, MergePart, Merging, drawn, write_merged
from ..plp import Plp, cut
from ..recipes.b4m_half import BASIS, SHARE
from ..recipes.lora import branch_edit
from ..registry import DTYPES, LEARNED, Accumulate, Mirror, SaveAs, Shift
from ..slots import Needs

FUSED = "craft_b4m_fused"


def require_halves(branches: Sequence[Branch], metadata: Sequence[Mapping[str, str]]) -> None:
    """CraftError unless these are one content and one style half, learned on one basis."""
    content, style = ([j for j, one in enumerate(branches) if one.role == role] for role in ROLES)
    if len(content) != 1 or len(style) != 1:
        raise CraftError(
            f"B4M was given {len(content)} content and {len(style)} style LoRAs",
            "It joins one content half with one style half",
            "Connect one of each",
        )
    for branch, entries in zip(branches, metadata, strict=True):
        _require_half(branch, entries)
    first, second = content[0], style[0]
    if metadata[first][BASIS] != metadata[second][BASIS]:
        raise CraftError(
            f"{branches[first].name} was learned on the basis {metadata[first][BASIS]}, "
            f"{branches[second].name} on {metadata[second][BASIS]}",
            "Halves can be joined if their frozen parts are the same",
            "Train one again with the rank, share, basis seed and layers of the other",
        )


def _require_half(branch: Branch, metadata: Mapping[str, str]) -> None:
    name, learned = branch.name, metadata.get("craft_role")
    if BASIS not in metadata or SHARE not in metadata:
        raise CraftError(
            f"{name} is no B4M half",
            "B4M joins LoRAs whose frozen parts were made for each other",
            "Train one with Train B4M Half, or merge with another method",
        )
    if learned != branch.role:
        raise CraftError(
            f"{name} is a {learned} half, connected as {branch.role}",
            "A content half gives the up factors, a style half the down factors",
            "Connect it with its own role",
        )


NEEDS = Needs(MERGE_SLOTS, loras=require_halves)


@LEARNED.register("B4M (break-for-make)", paper=B4M, traits=NEEDS)
def b4m(
    denoiser: Denoiser,
    merging: Merging,
    base_model: str = "",
    *,
    steps: Annotated[
        int, Knob("Training steps. The paper: a few dozen. 0: the halves joined as they are.",
                  0, 1_000_000, 1)
    ] = 50,
    learning_rate: Annotated[
        float, Knob("Constant. The paper: 1e-4.", 1e-7, 100.0, 1e-6)
    ] = 1e-4,
    batch_size: Annotated[int, Knob("Pictures a step, of each half.", 1, 256, 1)] = 1,
    accumulate: Accumulate = 1,
    precondition: Annotated[
        bool, Knob("Scale each half's gradient by the other half. Off: the paper's ablation.",
                   advanced=True)
    ] = True,
    damping: Annotated[
        float, Knob("Added to the preconditioner's matrices before they are inverted; the larger, "
                    "the more like no preconditioner.", 1e-6, 100.0, 1e-6, advanced=True)
    ] = 0.1,
    optimiser: Annotated[
        str, Knob("What takes the scaled gradients. adamw: as the release. sgd: the equations as "
                  "printed; it wants a learning rate near 1.", choices=tuple(OPTIMISERS),
                  advanced=True)
    ] = "adamw",
    shift: Shift = 0,
    mirror: Mirror = False,
    seed: Annotated[int, Knob("Same seed, same merge.", 0, 2**64 - 1, 1)] = 0,
    save_as: SaveAs = "fp16",
) -> Training:  # fmt: skip
    """Join a content half with a style half, and tune the two on both their pictures."""
    recipe = MakeRecipe(
        denoiser, merging, base_model=base_model, batch_size=batch_size,
        moves=Moves(shift, mirror), damping=damping if precondition else None,
        dtype=DTYPES[save_as],
    )  # fmt: skip
    pace = Pace(
        steps, learning_rate, min_rate=learning_rate, max_norm=0, accumulate=accumulate,
        seed=seed, optimiser=optimiser,
    )  # fmt: skip
    return Training(recipe, pace)


class MakeRecipe:
    """blocks: the fused projection of every layer. damping: None for plain gradients."""

    def __init__(
        self,
        denoiser: Denoiser,
        merging: Merging,
        *,
        base_model: str,
        batch_size: int,
        moves: Moves,
        damping: float | None,
        dtype: torch.dtype,
    ) -> None:
        self.denoiser, self.merging, self.base_model = denoiser, merging, base_model
        self.batch_size, self.moves = batch_size, moves
        self.damping, self.dtype = damping, dtype
        self.halves = halves(merging)
        self.basis_id = self.halves["content"].metadata[BASIS]
        self.blocks = join_halves(self.halves["content"], self.halves["style"], denoiser)
        for one in self.blocks.values():
            one.free_up.requires_grad_(True)
            one.free_down.requires_grad_(True)

    def parameters(self) -> Mapping[str, Tensor]:
        up = {f"up.{path}": one.free_up for path, one in self.blocks.items()}
        return up | {f"down.{path}": one.free_down for path, one in self.blocks.items()}

    def backward(self, draw: Draw, share: float) -> Mapping[str, float]:
        copies = {path: _leaves(one) for path, one in self.blocks.items()}
        terms = {role: self._term(copies, role, draw.generator(stream), share)
                 for stream, role in enumerate(ROLES)}  # fmt: skip
        for path, one in self.blocks.items():
            grad_up, grad_down = _gradients(copies[path])
            if self.damping is not None:
                grad_up, grad_down = preconditioned(one, grad_up, grad_down, self.damping)
            _add(one.free_up, grad_up)
            _add(one.free_down, grad_down)
        return terms

    def _term(
        self, blocks: Mapping[str, Plp], role: Role, generator: torch.Generator, share: float
    ) -> float:
        pictures = self.halves[role].pictures
        ready = drawn(self.denoiser, pictures, self.batch_size, self.moves, generator)
        edits = {path: branch_edit(one.factors()) for path, one in blocks.items()}
        with self.denoiser.edited(edits):
            loss, _ = denoising_loss(self.denoiser, ready)
            (share * loss).backward()  # inside: checkpointed blocks run again here
        return float(loss.detach())

    def settings(self) -> Mapping[str, str]:
        return {
            "recipe": "b4m",
            **self.merging.settings(),
            "basis": self.basis_id,
            "layers": str(len(self.blocks)),
            "base_model": self.base_model,
            "batch_size": str(self.batch_size),
            "damping": "none" if self.damping is None else f"{self.damping:g}",
            "shift": str(self.moves.shift),
            "mirror": str(self.moves.mirror),
        }

    def write(self, path: Path, metadata: Mapping[str, str]) -> None:
        """One ordinary LoRA of the halves' rank."""
        layers = {name: [one.factors()] for name, one in self.blocks.items()}
        own = {"craft_format": FUSED, BASIS: self.basis_id}
        told = {**own, **metadata}
        write_merged(path, self.merging, layers, self.dtype, told, model=self.denoiser.layers)


def halves(merging: Merging) -> dict[Role, MergePart]:
    """The content and the style half of a merge; see require_halves."""
    parts = merging.parts
    require_halves([part.branch for part in parts], [part.metadata for part in parts])
    return {part.branch.role: part for part in parts}


def join_halves(content: MergePart, style: MergePart, denoiser: Denoiser) -> dict[str, Plp]:
    """Every layer's projection with content's B and style's D, each times its strength.

    On the model's device, float32. CraftError if the files' frozen blocks are not each other's.
    """
    of_content, of_style = (_blocks(part, denoiser) for part in (content, style))
    misfits = sorted(of_content.keys() ^ of_style.keys())
    misfits += [path for path, one in of_content.items()
                if path in of_style and not one.has_basis_of(of_style[path])]  # fmt: skip
    if misfits:
        raise CraftError(
            f"{content.branch.name} and {style.branch.name} name the same basis, but differ in "
            f"{len(misfits)} layers, such as {misfits[0]}",
            "The frozen parts of two halves are the same until a file is resized or changed",
            "Use the files as Train B4M Half saved them",
        )
    return {path: one.joined(of_style[path]).to(denoiser.device)
            for path, one in of_content.items()}  # fmt: skip


def _blocks(part: MergePart, denoiser: Denoiser) -> dict[str, Plp]:
    share, layers = float(part.metadata[SHARE]), part.branch.layers
    return {
        path: cut(combine(layers[path], shape[0]), share, part.branch.strength)
        for path, shape in denoiser.layers.items()
        if path in layers
    }


def preconditioned(
    one: Plp, grad_up: Tensor, grad_down: Tensor, damping: float
) -> tuple[Tensor, Tensor]:
    """(gradient of B (D D^T + damping I)^-1, (B^T B + damping I)^-1 gradient of D).

    Eqs. 13-14. grad_up: (out', rank). grad_down: (rank, n').
    """
    up, down = one.free_up.detach(), one.free_down.detach()
    identity = damping * torch.eye(up.shape[1], device=up.device)  # (rank, rank)
    by_content, by_style = up.T @ up + identity, down @ down.T + identity  # both symmetric
    return solution_of(by_style, grad_up.T).T, solution_of(by_content, grad_down)


def _leaves(one: Plp) -> Plp:
    """A copy whose free blocks collect plain gradients of their own."""
    up, down = (value.detach().clone().requires_grad_() for value in (one.free_up, one.free_down))
    return replace(one, free_up=up, free_down=down)


def _gradients(one: Plp) -> tuple[Tensor, Tensor]:
    """Those of B and D; zeros for a layer the model did not call."""
    up, down = (value.grad if value.grad is not None else torch.zeros_like(value)
                for value in (one.free_up, one.free_down))  # fmt: skip
    return up, down


def _add(parameter: Tensor, gradient: Tensor) -> None:
    parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient
