"""A command as data, and the parser of all of them."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

PROGRAM = "python -m craft_core"
TITLE = (
    "CRAFT-LoRA without the page, run from the pack's folder. train and fuse need the Python that "
    "runs ComfyUI; the other commands run on any from 3.10."
)
GROUPS = {"train": "Learn LoRAs, and what takes them apart or together; train --help lists what."}


@dataclass(frozen=True)
class Command:
    """words: what is typed after the program, such as ("train", "lora"). usage: the least that
    must follow them. epilog: shown below the flags. run: raises CraftError for a mistake.
    computes: whether it needs torch."""

    words: tuple[str, ...]
    summary: str
    usage: str
    add_flags: Callable[[ArgumentParser], None]
    run: Callable[[Namespace], None]
    epilog: str = ""
    computes: bool = True


def parser_of(commands: Sequence[Command]) -> ArgumentParser:
    """The parser; what it returns has the chosen Command as `command`."""
    top = ArgumentParser(prog=PROGRAM, description=TITLE, allow_abbrev=False)
    branches: dict[tuple[str, ...], Any] = {
        (): top.add_subparsers(metavar="COMMAND", required=True)
    }
    for command in commands:
        group = command.words[:-1]
        if group not in branches:
            (word,) = group  # a command has one word, or two
            inner = branches[()].add_parser(word, help=GROUPS[word], description=GROUPS[word])
            branches[group] = inner.add_subparsers(metavar="WHAT", required=True)
        own = branches[group].add_parser(
            command.words[-1],
            help=command.summary,
            description=command.summary,
            usage=f"{PROGRAM} {' '.join(command.words)} {command.usage}",
            epilog=command.epilog,
            formatter_class=RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        command.add_flags(own)
        own.set_defaults(command=command)
    return top


def epilog(*examples: Sequence[str]) -> str:
    """Examples below the flags, one flag a line."""
    shown = (" \\\n      ".join(example) for example in examples)
    return "examples:\n" + "\n\n".join(f"  {text}" for text in shown)
