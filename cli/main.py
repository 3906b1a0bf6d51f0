"""Parse, run, and turn what went wrong into one message and an exit status."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from io import TextIOWrapper

from ..craft_core.errors import BREAKS, CraftError, lacks_memory, told
from ..craft_core.requests import Stopped
from .command import Command, parser_of
from .stand_in import declarations, require_torch

# The module of each first word. One command is parsed without importing the others.
MODULES = {
    "train": ".train.commands",
    "families": ".families",
    "find-best": ".queue.find_best",
    "fuse": ".fuse",
    "inspect": ".inspect",
    "methods": ".methods",
    "queue": ".queue",
}
FAILED, INTERRUPTED = 1, 130  # argparse itself leaves with 2


def commands_of(word: str = "") -> tuple[Command, ...]:
    """The commands that begin with this word; all where none does. CraftError where torch is
    installed and cannot be loaded."""
    words = [word] if word in MODULES else MODULES
    found: list[Command] = []
    with declarations():
        for one in words:
            found += import_module(MODULES[one], __package__).COMMANDS
    return tuple(found)


def main(argv: Sequence[str] | None = None) -> int:
    """0 when the command did its work, 1 for a user's mistake, 130 after Ctrl-C."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # a terminal may lack letters
            stream.reconfigure(errors="backslashreplace")
    given = sys.argv[1:] if argv is None else list(argv)
    try:
        options = parser_of(commands_of(given[0] if given else "")).parse_args(given)
        if options.command.computes:
            require_torch()
        options.command.run(options)
    except CraftError as error:
        print(f"Error: {error}", file=sys.stderr)
        return FAILED
    except BREAKS as error:
        print(f"Error: {told(error)}", file=sys.stderr)
        return FAILED
    except RuntimeError as error:
        if not lacks_memory(error):
            raise
        print(f"Error: {told(error)}", file=sys.stderr)
        return FAILED
    except Stopped as stopped:
        print(stopped)
        return INTERRUPTED
    except KeyboardInterrupt as interrupt:
        print(str(interrupt) or "Stopped before anything was saved.", file=sys.stderr)
        return INTERRUPTED
    return 0
