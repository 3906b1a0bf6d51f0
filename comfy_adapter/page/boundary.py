"""Around every node: an error that nobody foresaw stands on it in three parts, as others do."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from functools import wraps
from traceback import format_exception_only
from typing import Any, TypeVar

import comfy.model_management
from comfy_api.latest import io

from ...craft_core.errors import CraftError, lacks_memory, told

Node = TypeVar("Node", bound=type[io.ComfyNode])
_SHAPES = "mat1 and mat2 shapes"  # by which the host, too, knows a text encoder of another model


def bounded(node: Node) -> Node:
    """The node itself, whose `execute` from now on fails in words. What the host asks of it besides
    stays as it is: a failing fingerprint must go on to make the host run the node."""
    run = node.execute.__func__  # type: ignore[attr-defined]
    if inspect.iscoroutinefunction(run):

        @wraps(run)
        async def execute(cls: type, *given: Any, **named: Any) -> Any:
            with _in_words():
                return await run(cls, *given, **named)

    else:

        @wraps(run)
        def execute(cls: type, *given: Any, **named: Any) -> Any:
            with _in_words():
                return run(cls, *given, **named)

    node.execute = classmethod(execute)  # type: ignore[assignment, method-assign]
    return node


@contextmanager
def _in_words() -> Iterator[None]:
    """Any error becomes a CraftError, with the traceback that the page and the log show. The host
    must know its interrupt, which is no Exception, and that memory ran out: it makes room then."""
    try:
        yield
    except CraftError:
        raise
    except Exception as error:
        if comfy.model_management.is_oom(error):
            raise
        raise worded(error).with_traceback(error.__traceback__) from error


def worded(error: Exception) -> CraftError:
    """Any error in three parts. Where this is asked, more runs than what reads files and texts:
    only errors whose kind says it all are told as elsewhere."""
    if isinstance(error, OSError) or lacks_memory(error):
        return told(error)
    said = "".join(format_exception_only(error)).strip()
    if isinstance(error, RuntimeError) and _SHAPES in said:
        return CraftError(
            f"The model cannot take what it is given. {said}",
            "A text encoder, LoRAs and a latent go with models of their own kind",
            "Check the file and the type in Load CLIP, and the nodes that this one's inputs "
            "come from",
        )
    return CraftError(
        f"Something went wrong that was not foreseen. {said}",
        "It arose in this pack, in ComfyUI or in another pack that is used here: the last lines "
        "of the traceback, which ComfyUI's log has, say in which",
        "Check the inputs of this node, then tell the makers of that pack, with the traceback",
    )
