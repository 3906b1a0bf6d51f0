"""What runs on a Dask worker beside what `jobs` has: a job that tells the command how it is, and a
call that needs no turn. Dask is imported where the worker has it, and nowhere else."""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Callable
from typing import Any

from .jobs import beside


def telling(topic: str, name: str, function: Callable[..., Any], *given: Any) -> Any:
    """`beside`, where the function's last argument is a function: what it is called with goes to
    whoever follows the topic, with the name, each time it changes."""
    worker = importlib.import_module("distributed").get_worker()
    last: Any = None

    def tell(what: Any) -> None:
        nonlocal last
        if what != last:
            last = what
            worker.log_event(topic, {"of": name, "told": what})

    return beside(function, *given, tell)


async def at_once(function: Callable[..., Any], *given: Any) -> Any:
    """`beside`, in a thread of its own: the worker does what it does meanwhile, and stays in touch
    with its scheduler."""
    return await asyncio.to_thread(beside, function, *given)
