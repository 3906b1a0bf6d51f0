"""The expert encoder: which LoRAs, and what the prompt's phrases say, give every layer its scale.

CRAFT-LoRA (2026), arXiv:2602.18936, App. B.1: three MLPs read a concept-id embedding, the content
phrase and the style phrase, 64 numbers each; a head over all three gives non-negative scales, one
per adapted layer of content and of style. The scale multiplies a branch's product once.
Our choices where the paper has none: two linear layers an MLP, SiLU between, one linear layer as
head, softplus behind it. Phrases are brought to unit mean square, so that no text encoder's size
matters. A missing phrase and an unknown concept are zeros. Before training every scale is exactly
1: the head starts at zero and softplus is shifted to be 1 there.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..errors import CraftError, listed
from ..types import ROLES, Bank, Role

WIDTH = 64  # of each embedding, App. B.1
UNKNOWN = -1  # the row of a concept that is not in the table
_NEUTRAL = math.log(math.expm1(1.0))  # softplus is 1 here
_PARTS = 3

LayerScales = Mapping[Role, Mapping[str, float]]


@dataclass(frozen=True)
class Concept:
    """Which LoRAs act together: the hashes of their files by role, in no order."""

    content: tuple[str, ...] = ()
    style: tuple[str, ...] = ()

    @classmethod
    def of(cls, files: Sequence[tuple[Role, str]]) -> Concept:
        """files: (role, hash) of every branch."""
        return cls(*(tuple(sorted(h for own, h in files if own == role)) for role in ROLES))


@dataclass(frozen=True)
class PhraseEmbeddings:
    """Text embeddings (text_width,) of a prompt's phrases; None where a role has no marker."""

    content: Tensor | None = None
    style: Tensor | None = None


class ExpertEncoder(nn.Module):
    """layers: module paths by role, in depth order. concepts: one row of the table each.

    Same seed, same start; torch's own random state is left alone.
    """

    def __init__(
        self,
        layers: Mapping[Role, Sequence[str]],
        text_width: int,
        concepts: Sequence[Concept] = (),
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.layers: dict[Role, tuple[str, ...]] = {r: tuple(layers.get(r, ())) for r in ROLES}
        self.text_width, self.concepts = text_width, tuple(concepts)
        generator = torch.Generator().manual_seed(seed)
        self.table = nn.Parameter(torch.randn(len(self.concepts), WIDTH, generator=generator))
        self.concept = _mlp(WIDTH, generator)
        self.content = _mlp(text_width, generator)
        self.style = _mlp(text_width, generator)
        self.head = _linear(_PARTS * WIDTH, sum(map(len, self.layers.values())), generator)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, concept: Tensor, content: Tensor, style: Tensor) -> Tensor:
        """(B,) rows of the table, (B, text_width) phrases twice -> scales (B, layers) >= 0.

        Content's layers come first. UNKNOWN in `concept` and zeros in a phrase mean none.
        """
        table = torch.cat([self.table, self.table.new_zeros(1, WIDTH)])  # row UNKNOWN: zeros
        parts = [
            self.concept(table[concept]),
            self.content(_unit(content.to(self.table))),
            self.style(_unit(style.to(self.table))),
        ]
        raw = self.head(torch.cat(parts, dim=-1))  # (B, layers)
        return nn.functional.softplus(raw.double() + _NEUTRAL).to(raw.dtype)

    def row(self, concept: Concept) -> int:
        """The concept's row of the table, UNKNOWN if it has none."""
        return self.concepts.index(concept) if concept in self.concepts else UNKNOWN

    def columns(self, role: Role) -> dict[str, int]:
        """Layer -> its column of `forward`'s scales."""
        start = 0 if role == "content" else len(self.layers["content"])
        return {path: start + index for index, path in enumerate(self.layers[role])}

    def embedded(self, phrase: Tensor | None) -> Tensor:
        """(text_width,) float32 of a phrase; zeros for none. CraftError for another width."""
        if phrase is None:
            return torch.zeros(self.text_width)
        if phrase.shape != (self.text_width,):
            raise CraftError(
                f"The text encoder describes a phrase by {phrase.numel()} numbers",
                f"This expert encoder was trained on {self.text_width}",
                "Connect the CLIP it was trained with, or train one for this model",
            )
        return phrase.detach().to("cpu", torch.float32)

    @torch.no_grad()
    def scales(self, concept: Concept, phrases: PhraseEmbeddings) -> dict[Role, dict[str, float]]:
        """Role -> layer -> scale for one prompt."""
        row = torch.tensor([self.row(concept)])
        given = [self.embedded(phrase)[None] for phrase in (phrases.content, phrases.style)]
        values = self(row, *given)[0].tolist()
        return {
            role: {path: values[column] for path, column in self.columns(role).items()}
            for role in ROLES
        }


def parameter_shapes(layers: int, text_width: int, concepts: int) -> dict[str, tuple[int, ...]]:
    """The shapes of an ExpertEncoder's parameters by name, without making one."""
    shapes: dict[str, tuple[int, ...]] = {"table": (concepts, WIDTH)}
    for name, inputs in (("concept", WIDTH), ("content", text_width), ("style", text_width)):
        for linear, width in (("0", inputs), ("2", WIDTH)):
            shapes |= _linear_shapes(f"{name}.{linear}", width, WIDTH)
    return shapes | _linear_shapes("head", _PARTS * WIDTH, layers)


def _linear_shapes(name: str, inputs: int, outputs: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


def scale_table(scales: LayerScales, bank: Bank) -> Tensor:
    """(layers, branches) float32 in the bank's order; 1 where a branch does not adapt a layer.

    Raises CraftError if a branch adapts a layer its role has no scale for.
    """
    table = torch.ones(len(bank.layers), len(bank.branches))
    for j, branch in enumerate(bank.branches):
        own = scales[branch.role]
        missing = [path for path in bank.layers if path in branch.layers and path not in own]
        if missing:
            raise _other_layers(branch.name, branch.role, missing, len(branch.layers), len(own))
        for i, path in enumerate(bank.layers):
            if path in branch.layers:
                table[i, j] = own[path]
    return table


def _other_layers(name: str, role: Role, missing: Sequence[str], of: int, known: int) -> CraftError:
    return CraftError(
        f"{name} acts on {len(missing)} layers (of {of}) that the expert encoder has no scale "
        f"for: {listed(missing, 3)}",
        f"The encoder has scales for the {known} {role} layers it was trained on",
        "Choose the LoRAs, layer set and method it was trained with, or train one for these",
    )


def _mlp(inputs: int, generator: torch.Generator) -> nn.Sequential:
    first, second = _linear(inputs, WIDTH, generator), _linear(WIDTH, WIDTH, generator)
    return nn.Sequential(first, nn.SiLU(), second)


def _linear(inputs: int, outputs: int, generator: torch.Generator) -> nn.Linear:
    """torch's own start of a linear layer, from this generator."""
    layer = nn.Linear(inputs, outputs, device="meta").to_empty(device="cpu")
    bound = 1 / math.sqrt(inputs)
    with torch.no_grad():
        for parameter in (layer.weight, layer.bias):
            parameter.uniform_(-bound, bound, generator=generator)
    return layer


def _unit(phrase: Tensor) -> Tensor:
    """(B, text_width) with mean square 1; zeros stay zeros."""
    return phrase * torch.rsqrt(phrase.square().mean(-1, keepdim=True) + 1e-12)
