"""`families`: the model families, their layer sets, what is special; the README's table too."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from ..craft_core.families import FAMILIES, NO_DENOISER, Family
from .command import Command


def family_table() -> str:
    """Markdown: a row for each family of the registry."""
    rows = ["| family | classes | layer sets | file names | special |", "|---|---|---|---|---|"]
    rows += [_row(family) for family in FAMILIES.values()]
    return "\n".join(rows)


def _row(family: Family) -> str:
    sets = ", ".join(f"`{one.key}`" for one in family.presets)
    notes = [family.special, *(f"not tested: {why}" for why in family.untested.values())]
    notes += _untrained(family)
    cells = (
        family.label,
        str(len(family.classes)),
        sets or "`auto`",
        ", ".join(family.names),
        "; ".join(note for note in notes if note),
    )
    return f"| {' | '.join(cells)} |"


def _untrained(family: Family) -> list[str]:
    """Why trainings refuse the family, or which of its classes."""
    if len(family.untrained) == len(family.classes):
        return [f"not trained: {why}" for why in dict.fromkeys(family.untrained.values())]
    return [f"{kind} is not trained: {why}" for kind, why in family.untrained.items()]


def _add_flags(parser: ArgumentParser) -> None:
    parser.add_argument("--markdown", action="store_true", help="As the README's table.")


def _run(options: Namespace) -> None:
    if options.markdown:
        print(family_table())
        return
    for family in FAMILIES.values():
        print(f"{family.key}: {family.label} ({', '.join(family.classes)})")
        for preset in family.presets:
            print(f"  {preset.key}: {preset.source}")
        for kind, why in family.untested.items():
            print(f"  {kind} is not tested: {why}")
        for kind, why in family.untrained.items():
            print(f"  {kind} is not trained: {why}")
        if family.special:
            print(f"  {family.special}")
    print("Not model families, since nothing is sampled:")
    for kind, why in NO_DENOISER.items():
        print(f"  {kind}: {why}")


COMMANDS = (
    Command(
        ("families",), "The model families, their layer sets and where each is from.",
        "[--markdown]", _add_flags, _run, computes=False,
    ),
)  # fmt: skip
