"""The route that takes a LoRA: off unless the person who starts the host sets a variable.

An offer, which has no body, copies a file of the same content where there is one, so
that nothing need be sent. A body is written to the disk as it comes, and never held whole.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from pathlib import Path
from typing import Any

from aiohttp import web

from ...client.loras.announced import (
    MADE,
    RECEIVED,
    SEND,
    THERE,
    VARIABLE,
    Announced,
    announced,
)
from ...craft_core.errors import BREAKS, CraftError, told
from .allowance import Allowance, limit_here
from .incoming import Incoming
from .places import is_there, like, nearest, taken, target_of

IDLE = 120.0  # seconds in which something must come
SLOWEST = 100_000  # bytes a second, of a whole file
PIECE = 1 << 20  # bytes that are written at once
_log = logging.getLogger("craft")
_allowance = Allowance()


def tell_at_start() -> None:
    """Say in the log that LoRAs are taken, or why not although it was asked for."""
    try:
        limit = limit_here()
    except CraftError as error:
        _log.warning("%s", error)
        return
    if limit:
        _log.warning(
            "%s: whoever reaches this server can put LoRAs of up to %d MB in all into its loras "
            "folder", VARIABLE, limit // 10**6,
        )  # fmt: skip


async def receive(request: web.Request) -> dict[str, str]:
    """name, sha256, bytes: of a file; the body: the file, or nothing for an offer. {"state": what
    became of it}, or {"error": why nothing did} in three parts."""
    try:
        return {"state": await _state(request)}
    except CraftError as error:
        return {"error": str(error)}
    except BREAKS as error:
        return {"error": str(told(error))}


async def _state(request: web.Request) -> str:
    if not limit_here():
        raise CraftError(
            "This ComfyUI takes no LoRAs",
            "It does when whoever starts it says how many bytes it may take in all",
            f"Start that ComfyUI with {VARIABLE}=2GB in its environment, or put the file there by "
            "hand",
        )
    one = announced(request.rel_url.query, request.headers)
    if await asyncio.to_thread(is_there, one):
        return THERE
    target = await asyncio.to_thread(target_of, one)
    try:
        return await (_received(request, one, target) if one.length else _offered(one, target))
    except FileExistsError:  # it came in another way meanwhile
        if await asyncio.to_thread(is_there, one):
            return THERE
        raise taken(one) from None


async def _offered(one: Announced, target: Path) -> str:
    with _allowance.holding(one.size, nearest(target)) as held:
        source = await asyncio.to_thread(like, one)
        if source is None:  # nor is it sent where there is no room for it
            return SEND
        # No hard link: who later writes over one of the two in place would change both.
        await _written(one, target, _read(source))
        held.came = True
    _log.info("%s is a copy of %s", one.name, source)
    return MADE


async def _received(request: web.Request, one: Announced, target: Path) -> str:
    with _allowance.holding(one.size, nearest(target)) as held:
        await _written(one, target, _body(request, one))
        held.came = True
    _log.info("Received %s from %s: %d bytes", one.name, request.remote, one.size)
    return RECEIVED


async def _written(one: Announced, target: Path, pieces: AsyncGenerator[bytes, None]) -> None:
    """Write the pieces beside the target and give them its name, or leave nothing."""
    file = Incoming(one, target)
    try:
        async with aclosing(pieces):
            async for piece in pieces:
                await asyncio.to_thread(file.write, piece)
        await asyncio.to_thread(file.place)
    except BaseException:  # also where the server ends; then no thread begins any more
        with suppress(OSError):  # on a full disk what is left cannot be flushed; it is removed
            file.close()
        raise


async def _body(request: web.Request, one: Announced) -> AsyncGenerator[bytes, None]:
    end = time.monotonic() + IDLE + one.size / SLOWEST
    waiting = bytearray()
    while True:
        patience = min(IDLE, end - time.monotonic())
        try:
            piece = await asyncio.wait_for(request.content.readany(), patience)
        except asyncio.TimeoutError as error:
            raise CraftError(
                f"{one.name} did not come in time",
                f"Something comes every {IDLE:.0f} seconds, and {SLOWEST // 1000} kB a second in "
                "all",
                "Run the command again, or put the file there by hand",
            ) from error
        waiting += piece
        if len(waiting) >= PIECE or not piece:
            if waiting:
                yield bytes(waiting)
            waiting.clear()
        if not piece:
            return


async def _read(source: Path) -> AsyncGenerator[bytes, None]:
    file: Any = await asyncio.to_thread(source.open, "rb")
    with file:
        while piece := await asyncio.to_thread(file.read, PIECE):
            yield piece
