"""What is asked of a server about one job. Each function takes and gives plain values alone and
uses this room alone, so that it can run on another computer, beside its server."""

from __future__ import annotations

import math
import os
import platform
from collections.abc import Callable, Iterable
from typing import Any

from ..answers import files_of
from ..client import WAITING, Client, PromptResult
from ..errors import Forgotten, RemoteError
from ..facts import Use, facts_of
from ..widgets import Json

ADDRESS = "COMFYUI_URL"  # the variable that names the server beside a worker
BESIDE = "http://127.0.0.1:8188"
MOST_FILES = 10_000  # of one job
MOST_BYTES = 1 << 32  # of one job's files together, which are held until they are saved
RESTARTS = 3  # of the server during one job

Made = tuple[str, dict[str, str], bytes]  # the node that made a file, the server's name of it, it


def beside(function: Callable[..., Any], *given: Any) -> Any:
    """The function, for the server beside this process."""
    return function(os.environ.get(ADDRESS) or BESIDE, *given)


def nodes(url: str) -> Json:
    """Every node that the server knows."""
    return Client(url).object_info()


def facts_here(url: str, types: Iterable[str], uses: Iterable[Use]) -> Json:
    """What facts_of says, and as `place` the server as it is called wherever this is asked."""
    place = f"{url} of {platform.node()}"
    return facts_of(Client(url), types, uses) | {"place": place}


def run(
    url: str,
    client_id: str,
    prompt: Json,
    workflow: Json | None,
    prompt_id: str,
    known: str | None,
    waits: Callable[[int], None] = lambda _ahead: None,
) -> list[Made]:
    """Queue a prompt under the id, or wait for it under the known one where the server has that;
    its files. waits: told behind how many prompts it waits, 0 when it no longer does. RemoteError;
    ServerGone."""
    client = Client(url, client_id=client_id)
    found = _files(_result(client, prompt, workflow, prompt_id, known, waits))
    if len(found) > MOST_FILES:
        raise RemoteError(f"the job made {len(found)} files; at most {MOST_FILES} are fetched.")
    made: list[Made] = []
    size = 0
    for node, item in found:
        made.append((node, item, client.fetch(item)))
        size += len(made[-1][2])
        if size > MOST_BYTES:
            raise RemoteError(
                f"the job's files have more than {MOST_BYTES} bytes; at most those are fetched."
            )
    return made


def cancel(url: str, prompt_id: str) -> None:
    """Take a prompt out of the queue, or stop it where it runs."""
    Client(url).cancel(prompt_id)


def _result(
    client: Client,
    prompt: Json,
    workflow: Json | None,
    prompt_id: str,
    known: str | None,
    waits: Callable[[int], None],
) -> PromptResult:
    def show(kind: str, data: Json) -> None:
        waits(data["ahead"] if kind == WAITING else 0)

    for _ in range(RESTARTS):
        try:
            with client.listening() as events:
                if known is None or not client.will_finish(known):
                    known = client.queue(prompt, workflow, prompt_id)
                return client.follow(events, known, show, math.inf)
        except Forgotten:
            known = None
    raise RemoteError(f"the server was restarted {RESTARTS} times during the job.")


def _files(result: PromptResult) -> list[tuple[str, dict[str, str]]]:
    """What all_files gives, each with its node."""
    found = [(node, item) for node, output in result.outputs.items() for item in files_of(output)]
    return [one for one in found if one[1].get("type") == "output"] or found
