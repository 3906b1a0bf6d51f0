"""Parse, run, and turn what went wrong into one message and an exit status."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from ..craft_core.errors import CraftError
from ..craft_core.requests import Stopped
from . import families, fuse, inspect, methods, queue
from .command import parser_of
from .queue import find_best
from .train import commands as trainings

COMMANDS = (
    *trainings.COMMANDS,
    families.COMMAND,
    find_best.COMMAND,
    fuse.COMMAND,
    inspect.COMMAND,
    methods.COMMAND,
    queue.COMMAND,
)
FAILED, INTERRUPTED = 1, 130  # argparse itself leaves with 2


def main(argv: Sequence[str] | None = None) -> int:
    """0 when the command did its work, 1 for a user's mistake, 130 after Ctrl-C."""
    options = parser_of(COMMANDS).parse_args(argv)
    try:
        options.command.run(options)
    except CraftError as error:
        print(f"Error: {error}", file=sys.stderr)
        return FAILED
    except Stopped as stopped:
        print(stopped)
        return INTERRUPTED
    except KeyboardInterrupt as interrupt:
        print(str(interrupt) or "Stopped before anything was saved.", file=sys.stderr)
        return INTERRUPTED
    return 0
