"""What the page asks the server while a graph is being made; nothing here loads a model."""

from __future__ import annotations

import asyncio
from typing import Any

from aiohttp import web
from server import PromptServer

from ...craft_core.errors import BREAKS, CraftError, told
from ...craft_core.fusion import FUSION
from ..model.file_layers import file_of
from .layer_counts import layer_counts

LAYER_SETS = "/craft_lora/layer_sets"
METHODS = "/craft_lora/methods"


def add_page_routes() -> None:
    """Add the routes to the host's server; without a server (tests, scripts) there is no page."""
    server = getattr(PromptServer, "instance", None)
    if server is not None:
        server.routes.get(LAYER_SETS)(_layer_sets)
        server.routes.get(METHODS)(_methods)


async def _layer_sets(request: web.Request) -> web.Response:
    """kind, name: a model file. patterns: of the entry `custom`. {"error": why} where the layers
    cannot be read: no failure, so that a graph whose models are missing opens without one."""
    asked = request.rel_url.query
    try:
        path = file_of(asked.get("kind", ""), asked.get("name", ""))
        counts = await asyncio.to_thread(layer_counts, path, asked.get("patterns", "").strip())
    except CraftError as error:
        return web.json_response({"error": error.given})
    except BREAKS as error:  # the file went away, or its folder may not be read
        return web.json_response({"error": told(error).given})
    return web.json_response(counts)


async def _methods(request: web.Request) -> web.Response:
    return web.json_response(method_traits())


def method_traits() -> dict[str, dict[str, Any]]:
    """What each fusion method reads."""
    return {
        method.key: {
            "markers": method.traits.markers,
            "layer_sets": method.traits.layer_sets,
            "pinned": method.traits.pinned_layer_set,
        }
        for method in FUSION
    }
