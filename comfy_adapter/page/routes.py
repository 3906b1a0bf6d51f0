"""What the page asks the server while a graph is being made; nothing here loads a model."""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import folder_paths
from aiohttp import web
from server import PromptServer

from ...client.answers import NoJson, parse_json
from ...client.facts import FILES, SUFFIXES
from ...client.loras.announced import RECEIVE
from ...craft_core.errors import BREAKS, CraftError, told
from ...craft_core.fusion import FUSION
from ...craft_core.lora.storage import KIND
from ...craft_core.presets import SHIPPED, node_values
from ...craft_core.routing.trigger_words import trigger_words
from ...craft_core.tensor_file import read_metadata
from ..living import let_go
from ..model.file_layers import file_latent, file_of
from ..model.host_files import path_by_name
from ..model.lora_files import require
from ..model.stamps import hash_of
from ..receive.route import receive, tell_at_start
from ..use.shown_grid import shown_grid
from .boundary import worded
from .kept_training import kept_training
from .layer_counts import layer_counts
from .lora_info import lora_info

KEPT_TRAINING = "/craft_lora/kept_training"
LATENT = "/craft_lora/latent"
LAYER_SETS = "/craft_lora/layer_sets"
LORA_INFO = "/craft_lora/lora_info"
METHODS = "/craft_lora/methods"
PRESETS = "/craft_lora/presets"
PRESET_VALUES = "/craft_lora/preset_values"
SHOWN_GRID = "/craft_lora/shown_grid"
TRIGGER_WORDS = "/craft_lora/trigger_words"
WORKFLOW = "/craft_lora/workflow"
MOST_OF_A_PRESET = 1 << 20  # bytes
_FAILED = "execution_error"
_OF_A_FAILURE = ("prompt_id", "node_id", "node_type", "exception_message", "exception_type")


def add_page_routes() -> None:
    """Add the routes to the host's server; without a server (tests, scripts) there is no page."""
    server = getattr(PromptServer, "instance", None)
    if server is not None:
        server.routes.get(FILES)(_files)
        server.routes.get(KEPT_TRAINING)(_kept_training)
        server.routes.get(LATENT)(_latent)
        server.routes.get(LAYER_SETS)(_layer_sets)
        server.routes.get(LORA_INFO)(_lora_info)
        server.routes.get(METHODS)(_methods)
        server.routes.get(PRESETS)(_presets)
        server.routes.post(PRESET_VALUES)(_preset_values)
        server.routes.post(RECEIVE)(_receive)
        server.routes.get(SHOWN_GRID)(_shown_grid)
        server.routes.get(TRIGGER_WORDS)(_trigger_words)
        server.routes.get(WORKFLOW)(_workflow)
        tell_at_start()


def let_go_between_prompts() -> None:
    """When a prompt is queued while none runs or waits, what the last run left may go."""
    server = getattr(PromptServer, "instance", None)
    if server is not None:
        server.add_on_prompt_handler(_let_go_when_idle)


def _let_go_when_idle(asked: dict) -> dict:
    """asked: of the prompt that is queued, given back as it is."""
    if not PromptServer.instance.prompt_queue.get_tasks_remaining():
        let_go()
    return asked


async def _files(request: web.Request) -> web.Response:
    """name: a model file as a list of the host has it; "" for none. {"version": of the pack,
    "sha256": of the files of that name, "bytes": of the largest}, null where there is none;
    {"error": why} where one cannot be read."""
    return await _answered(request, _about)


def _about(asked: Mapping[str, str]) -> dict[str, Any]:
    name = asked.get("name", "")
    folders = folder_paths.folder_names_and_paths if name.lower().endswith(SUFFIXES) else ()
    found = {path for one in folders if (path := path_by_name(one, name))}
    return {
        "version": _version(),
        "sha256": " ".join(sorted({hash_of(path) for path in found})) or None,
        "bytes": max((Path(path).stat().st_size for path in found), default=None),
    }


def _version() -> str:
    text = (Path(__file__).parents[2] / "pyproject.toml").read_text("utf-8")
    found = re.search(r'^version = "(.+)"$', text, re.M)
    return found[1] if found else "unknown"


async def _kept_training(request: web.Request) -> web.Response:
    """node, save_name and what else tells a training: as kept_training; {"error": why} where they
    tell none."""
    return await _answered(request, kept_training)


async def _latent(request: web.Request) -> web.Response:
    """kind, name: a model file. {"latent": [node, width, height], null where its family's is not
    known; "family": as a LoRA's in lora_info, "" where it is not known}; {"error": why} where the
    file cannot be read."""
    return await _answered(request, _latent_of)


async def _layer_sets(request: web.Request) -> web.Response:
    """kind, name: a model file. patterns: of the entry `custom`. {"error": why} where the layers
    cannot be read: no failure, so that a graph whose models are missing opens without one."""
    return await _answered(request, _layer_sets_of)


async def _lora_info(request: web.Request) -> web.Response:
    """name: a LoRA file. What lora_info says of it; {"error": why} where it cannot be read."""
    return await _answered(request, lambda asked: lora_info(asked.get("name", "")))


async def _methods(request: web.Request) -> web.Response:
    """What each fusion method reads, by its key."""
    return await _answered(request, lambda _: method_traits())


async def _presets(request: web.Request) -> web.Response:
    """The presets that come with the pack, by name."""
    return await _answered(request, lambda _: dict(SHIPPED))


async def _preset_values(request: web.Request) -> web.Response:
    """The body: a preset's file. What it sets on each kind of node; {"error": why} where it is no
    preset."""
    return await _answered_body(request, _values_of)


def _values_of(body: bytes) -> dict[str, Any]:
    try:
        if len(body) > MOST_OF_A_PRESET:
            raise NoJson(f"it has more than {MOST_OF_A_PRESET} bytes")
        return asdict(node_values(parse_json(body)))
    except (CraftError, NoJson) as error:
        return {"error": str(error)}


async def _receive(request: web.Request) -> web.Response:
    """The body: a LoRA that is to be kept, as receive/route.py says; off unless asked for."""

    async def received() -> str:
        return _text_of(dict, await receive(request))

    return await _in_words(received())


async def _shown_grid(request: web.Request) -> web.Response:
    """workflow, node: ids. {"shown": what the node, an XY Grid, has shown of its last run}, null
    where nothing is kept."""
    return await _answered(request, _grid_of)


async def _trigger_words(request: web.Request) -> web.Response:
    """name: a LoRA file. {"words": [...]}, those it was trained with as far as it says them;
    {"error": why} where it cannot be read."""
    return await _answered(request, _words_of)


async def _answered(
    request: web.Request, answer_to: Callable[[Mapping[str, str]], dict[str, Any]]
) -> web.Response:
    """The answer to what was asked, made beside the server's own work, or why there is none."""

    async def read() -> str:
        return await asyncio.to_thread(_text_of, answer_to, request.rel_url.query)

    return await _in_words(read())


async def _answered_body(
    request: web.Request, answer_to: Callable[[bytes], dict[str, Any]]
) -> web.Response:
    """The same, to the body of a request."""

    async def read() -> str:
        return await asyncio.to_thread(_text_of, answer_to, await request.read())

    return await _in_words(read())


def _text_of(answer_to: Callable[[Any], dict[str, Any]], asked: Any) -> str:
    return json.dumps(answer_to(asked))


async def _in_words(answering: Awaitable[str]) -> web.Response:
    """An answer, or {"error": why there is none}, also where nobody foresaw it; the log says more
    of that. The server's own answers, as to a body that is too large, are left to it."""
    try:
        text = await answering
    except web.HTTPException:
        raise
    except CraftError as error:
        text = json.dumps({"error": error.given})
    except BREAKS as error:  # the file went away, or its folder may not be read
        text = json.dumps({"error": told(error).given})
    except Exception as error:
        logging.getLogger("craft").exception("A question of the page could not be answered")
        text = json.dumps({"error": worded(error).given})
    return web.json_response(text=text)


def _latent_of(asked: Mapping[str, str]) -> dict[str, Any]:
    latent, family = file_latent(file_of(asked.get("kind", ""), asked.get("name", "")))
    return {"latent": latent, "family": family}


def _layer_sets_of(asked: Mapping[str, str]) -> dict[str, Any]:
    path = file_of(asked.get("kind", ""), asked.get("name", ""))
    return layer_counts(path, asked.get("patterns", "").strip())


def _grid_of(asked: Mapping[str, str]) -> dict[str, Any]:
    return {"shown": shown_grid(asked.get("workflow", ""), asked.get("node", ""))}


def _words_of(asked: Mapping[str, str]) -> dict[str, Any]:
    path = Path(require(asked.get("name", "")))
    return {"words": list(trigger_words(read_metadata(path, KIND)))}


async def _workflow(request: web.Request) -> web.Response:
    """prompt_id: of a prompt that runs or has run. {"workflow": the id of the one that it was
    queued from, null where it is of none; "runs": whether it does now; "failure": what the server
    said when it failed, null where it did not}."""
    return await _answered(request, _workflow_of)


def _workflow_of(asked: Mapping[str, str]) -> dict[str, Any]:
    prompt_id = asked.get("prompt_id", "")
    queue = PromptServer.instance.prompt_queue
    now, _ = queue.get_current_queue_volatile()
    running = [one for one in now if one[1] == prompt_id]
    history = queue.get_history(prompt_id=prompt_id, map_function=_prompt_and_status)
    ended = history.get(prompt_id)
    prompts = running or ([ended[0]] if ended else [])
    return {
        "workflow": workflow_id(prompts[0][3]) if prompts else None,
        "runs": bool(running),
        "failure": ended and _failure_in(ended[1]),
    }


def _prompt_and_status(entry: Mapping[str, Any]) -> tuple[tuple, Any]:
    return entry["prompt"], entry.get("status")


def _failure_in(status: Any) -> dict[str, str] | None:
    """Of the status of a prompt in the history."""
    messages = status.get("messages") if isinstance(status, Mapping) else None
    for event, said in messages or ():
        if event == _FAILED:
            return {name: str(said.get(name, "")) for name in _OF_A_FAILURE}
    return None


def workflow_id(extra: Any) -> str | None:
    """The id of the workflow that a prompt was queued from, by its `extra_data`, in which whoever
    queues a prompt may put what they like."""
    found = extra
    for name in ("extra_pnginfo", "workflow", "id"):
        found = found.get(name) if isinstance(found, dict) else None
    return found if isinstance(found, str) else None


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
