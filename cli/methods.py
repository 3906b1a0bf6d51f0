"""`methods`: every fusion method, its settings and its paper; as a table for the README too."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Iterator

from ..craft_core.fusion import FUSION
from ..craft_core.guidance import GUIDANCE
from ..craft_core.merging import MERGES
from ..craft_core.registry import Method, Parameter
from ..craft_core.training import LEARNED
from .command import Command

FAMILIES = (
    ("while sampling", FUSION),
    ("guidance", GUIDANCE),
    ("into a file", MERGES),
    ("learned, into a file", LEARNED),
)


def method_table() -> str:
    """Markdown: a row for each method of every registry."""
    rows = ["| method | when | what it does | settings | paper |", "|---|---|---|---|---|"]
    for when, registry in FAMILIES:
        rows += [_row(method, when) for method in registry]
    return "\n".join(rows)


def _row(method: Method, when: str) -> str:
    settings = ", ".join(f"`{one.name}`" for one in method.parameters if not one.knob.advanced)
    cells = (f"`{method.key}`", when, method.summary, settings, _paper(method))
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _paper(method: Method) -> str:
    if method.paper is None:
        return "baseline"
    first, *others = method.paper.authors.split(", ")
    cited = f"{first.split()[-1]}{' et al.' if others else ''} {method.paper.year}"
    arxiv = method.paper.arxiv
    return f"[{cited}](https://arxiv.org/abs/{arxiv})" if arxiv else cited


def _settings(method: Method) -> Iterator[str]:
    for one in method.parameters:
        yield f"    {one.name} = {one.default}{_range(one)}: {one.knob.help}"


def _range(parameter: Parameter) -> str:
    knob = parameter.knob
    if knob.choices:
        return f" ({', '.join(knob.choices)})"
    if knob.minimum is None:
        return ""
    return f" ({parameter.type(knob.minimum)} to {parameter.type(knob.maximum or 0)})"


def _add_flags(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--markdown", action="store_true", help="As the README's table, without the settings' help."
    )


def _run(options: Namespace) -> None:
    if options.markdown:
        print(method_table())
        return
    for when, registry in FAMILIES:
        print(f"{when}:")
        for method in registry:
            print(f"  {method.key}: {method.summary}")
            print("\n".join(_settings(method)) or "    (no settings)")
        print()


COMMANDS = (
    Command(
        ("methods",), "Every fusion method with its settings and defaults.", "[--markdown]",
        _add_flags, _run, computes=False,
    ),
)  # fmt: skip
