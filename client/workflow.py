"""Turn a workflow as the page saves it (UI format) into the prompt that the HTTP API takes.

Follows what the page does when Run is pressed: widget values by position, control-after-generate
values left out, muted nodes dropped, bypassed nodes passed through by type, reroutes, primitives
and SetNode with GetNode dissolved, notes and other nodes of the page alone left out, links whose
origin is gone dropped, subgraphs and group nodes flattened to ids like `12:3`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..craft_core.errors import CraftError
from .answers import NoJson, parse_json
from .from_page.graph import require_few_parts, require_known
from .from_page.prompt import BROKEN, root_graph, to_prompt
from .widgets import Json

MOST_BYTES = 1 << 24  # of a workflow file


def read_workflow(path: Path) -> Json:
    """A workflow file in UI format; CraftError when it is something else."""
    workflow = _read(path)
    if not _is_of_page(workflow):
        raise CraftError(
            f"{path} is not a workflow as ComfyUI's page saves it (no nodes)",
            "It is the JSON file of the page's File > Save or Export",
            "Save the workflow in the page and give that file",
        )
    return workflow


def read_both(path: Path, object_info: Json) -> tuple[Json, Json | None]:
    """(the API prompt of a workflow file, for a server with these nodes, the workflow itself where
    it is the page's own).

    The body of a request to /prompt is taken for the prompt in it.
    """
    content = _read(path)
    if isinstance(content, dict) and _is_prompt(content.get("prompt")):
        content = content["prompt"]
    return _prompt_of(path, content, object_info), content if _is_of_page(content) else None


def dynamic_texts(workflow: Json, object_info: Json) -> set[tuple[str, str]]:
    """(node of the prompt, input) of every text of the page's workflow in which the page draws.

    CraftError for a damaged workflow.
    """
    with _whole("The file"):
        return {
            (graph.path(node), name)
            for graph, node in root_graph(workflow, object_info).walk()
            for name in graph.dynamic_texts(node)
        }


def _prompt_of(path: Path, content: Any, object_info: Json) -> Json:
    if _is_of_page(content):
        with _whole(str(path)):
            return to_prompt(content, object_info)
    if not _is_prompt(content):
        raise CraftError(
            f"{path} is no workflow",
            "It is a JSON file of the page's File > Save, Export or Export (API)",
            "Save the workflow in the page and give that file",
        )
    given = (value for node in content.values() for value in node["inputs"].values())
    require_few_parts(len(content) + sum(isinstance(value, list) for value in given))
    for node_id, node in content.items():
        require_known(node["class_type"], node_id, object_info)
    return content


@contextmanager
def _whole(file: str) -> Iterator[None]:
    """CraftError where what is read by name and place is not there, or not of its kind."""
    try:
        yield
    except CraftError:
        raise
    except BROKEN as error:
        raise CraftError(
            f"{file} is a damaged workflow ({type(error).__name__}: {error})",
            "It is the JSON file of the page's File > Save or Export",
            "Open it in the page, which mends what it can, and save it again",
        ) from error


def _read(path: Path) -> Any:
    try:
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
        if len(content) > MOST_BYTES:
            raise NoJson(f"it has more than {MOST_BYTES} bytes")
        return parse_json(content)
    except (OSError, ValueError) as error:  # ValueError also for a path with a NUL
        missing = isinstance(error, FileNotFoundError)
        wrong = f"{path} is not a JSON file ({error})"
        raise CraftError(
            f"There is no workflow file {path}" if missing else wrong,
            "A workflow is a JSON file that ComfyUI's page has saved",
            "Correct the path" if missing else "Save the workflow again in the page",
        ) from error


def _is_of_page(content: Any) -> bool:
    return isinstance(content, dict) and isinstance(content.get("nodes"), list)


def _is_prompt(content: Any) -> bool:
    return (
        isinstance(content, dict)
        and bool(content)
        and all(
            isinstance(node, dict)
            and isinstance(node.get("class_type"), str)
            and isinstance(node.get("inputs"), dict)
            for node in content.values()
        )
    )
