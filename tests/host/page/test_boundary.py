"""Every node fails in words: whatever is raised inside is told in three parts, the host's own
signals excepted."""

from __future__ import annotations

import asyncio
import inspect
import sys
import traceback
from types import SimpleNamespace
from typing import Any

import comfy.model_management
import execution
import pytest
import torch
from comfy_api.latest import io
from comfy_execution.graph_utils import ExecutionBlocker
from craft_lora_pack.comfy_adapter.page.boundary import bounded
from craft_lora_pack.craft_core.errors import BREAKS, MOST, CraftError
from craft_lora_pack.nodes import NODES

every_node = pytest.mark.parametrize(
    "node", [pytest.param(node, id=node.GET_SCHEMA().node_id) for node in NODES]
)
INTERRUPT = comfy.model_management.InterruptProcessingException
PASSES = [INTERRUPT(), KeyboardInterrupt(), SystemExit(1), torch.OutOfMemoryError("no room"),
          CraftError("Given", "Possible", "Act")]  # fmt: skip


def run(node: type, **inputs: Any) -> Any:
    """The node's result as the host has it: of a locked clone of its class, called by name."""
    lists = {name: [value] for name, value in inputs.items()}
    ran = execution._async_map_node_over_list("prompt", "1", node, lists, node.FUNCTION)

    async def finished() -> Any:
        return await execution.resolve_map_node_over_list_results(await ran)

    (result,) = asyncio.run(finished())
    return result


def needed(node: type) -> dict[str, None]:
    """What the node's `execute` cannot be called without."""
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    parameters = inspect.signature(node.execute).parameters.values()
    return {p.name: None for p in parameters if p.kind in kinds and p.default is p.empty}


@pytest.fixture
def failing_inside():
    """Has an error raised in the first line that a node's own `execute` runs."""
    tracing = sys.gettrace()

    def fail(node: type, error: BaseException) -> None:
        own = inspect.unwrap(node.execute.__func__).__code__

        def trace(frame: Any, event: str, _: Any) -> None:
            if event == "call" and frame.f_code is own:
                raise error

        sys.settrace(trace)

    yield fail
    sys.settrace(tracing)


@every_node
def test_an_error_that_nobody_foresaw_is_told_in_three_parts(node, failing_inside):
    failing_inside(node, KeyError("secret"))
    with pytest.raises(CraftError) as raised:
        run(node, **needed(node))
    error = raised.value
    assert error.given and error.possible and error.action and len(str(error)) <= MOST
    assert "KeyError: 'secret'" in error.given and isinstance(error.__cause__, KeyError)
    own = inspect.unwrap(node.execute.__func__).__code__
    frames = traceback.extract_tb(error.__traceback__)
    assert frames[-2].filename == own.co_filename and frames[-2].name == "execute"


@pytest.mark.parametrize("error", PASSES, ids=lambda one: type(one).__name__)
@every_node
def test_the_hosts_signals_and_our_own_errors_come_out_unchanged(node, error, failing_inside):
    failing_inside(node, error)
    with pytest.raises(type(error)) as raised:
        run(node, **needed(node))
    assert raised.value is error and error.__cause__ is None


def made(execute: Any, **schema: Any) -> type:
    """A node of one input, whose `execute` is given."""

    class Node(io.ComfyNode):
        @classmethod
        def define_schema(cls) -> io.Schema:
            inputs = [io.Int.Input("value")]
            return io.Schema("Made", inputs=inputs, outputs=[io.Int.Output()], **schema)

    Node.execute = classmethod(execute)
    node = bounded(Node)
    node.GET_SCHEMA()
    return node


def raising(error: BaseException) -> type:
    def execute(cls: type, value: Any) -> io.NodeOutput:
        raise error

    return made(execute)


@pytest.mark.parametrize("kind", BREAKS)
def test_what_breaks_is_told_in_three_parts_with_its_own_words(kind):
    error = UnicodeDecodeError("utf-8", b"a", 0, 1, "why") if kind is UnicodeError else kind("why")
    with pytest.raises(CraftError) as raised:
        run(raising(error), value=1)
    assert raised.value.__cause__ is error
    assert "why" in raised.value.given and raised.value.possible and raised.value.action
    assert ("not foreseen" in raised.value.given) == (kind not in (OSError, MemoryError))


def test_memory_that_a_processor_lacks_is_no_unforeseen_error():
    def execute(cls: type, value: Any) -> io.NodeOutput:
        return io.NodeOutput(torch.empty(1 << 55))

    with pytest.raises(CraftError, match="not enough memory") as raised:
        run(made(execute), value=1)
    assert "fewer or smaller" in raised.value.action


def test_what_the_host_or_another_pack_said_is_still_said():
    class BadSampler(Exception):
        """Another pack's."""

    with pytest.raises(CraftError, match=r"BadSampler: two\nlines") as raised:
        run(raising(BadSampler("two\nlines")), value=1)
    assert "not foreseen" in raised.value.given
    with pytest.raises(CraftError, match="AssertionError"):
        run(raising(AssertionError()), value=1)


def test_a_text_encoder_of_another_model_is_named_as_the_host_names_it():
    with pytest.raises(CraftError, match="Load CLIP") as raised:
        run(
            raising(RuntimeError("mat1 and mat2 shapes cannot be multiplied (1x2 and 3x4)")),
            value=1,
        )
    assert "(1x2 and 3x4)" in raised.value.given


def test_an_error_without_end_or_that_cannot_be_shown_has_its_message_too():
    class Mute(Exception):
        def __str__(self) -> str:
            raise ValueError

    for error in (RuntimeError("\x1b[31m" + "x" * 100_000), Mute()):
        with pytest.raises(CraftError, match=type(error).__name__) as raised:
            run(raising(error), value=1)
        assert len(str(raised.value)) <= MOST and "\x1b" not in str(raised.value)


def test_what_the_host_takes_for_a_lack_of_memory_reaches_it_unchanged():
    """It unloads all models then."""
    kind = getattr(torch, "AcceleratorError", RuntimeError)
    error = kind("CUDA error: out of memory")
    assert comfy.model_management.is_oom(error)
    with pytest.raises(kind) as raised:
        run(raising(error), value=1)
    assert raised.value is error


def test_a_node_that_waits_for_others_stays_one():
    async def execute(cls: type, value: int) -> io.NodeOutput:
        await asyncio.sleep(0)
        if value < 0:
            raise KeyError("secret")
        return io.NodeOutput(value)

    node = made(execute)
    assert node.FUNCTION == "EXECUTE_NORMALIZED_ASYNC"
    assert run(node, value=3).result == (3,)
    with pytest.raises(CraftError, match="KeyError: 'secret'"):
        run(node, value=-1)


def test_a_graph_in_place_of_a_result_and_a_blocked_result_go_to_the_host():
    given = {
        "expanded": io.NodeOutput(1, expand={"a": {}}),
        "blocked": io.NodeOutput(block_execution="why"),
    }
    node = made(lambda cls, value: given[value], enable_expand=True)
    for name, result in given.items():
        assert run(node, value=name) is result
    blocker = made(lambda cls, value: ExecutionBlocker("why"))
    assert run(blocker, value=1).block_execution == "why"


@every_node
def test_what_the_host_asks_before_a_run_is_not_bounded(node):
    """The host runs a node whose fingerprint fails; words in its place would be kept as one."""
    for name in ("validate_inputs", "fingerprint_inputs", "check_lazy_status"):
        assert not hasattr(getattr(node, name).__func__, "__wrapped__")
    assert hasattr(node.execute.__func__, "__wrapped__")


def test_the_host_says_on_the_node_what_went_wrong(monkeypatch):
    """As its executor sends it: the message, and the traceback of where it arose."""
    import nodes

    monkeypatch.setitem(nodes.NODE_CLASS_MAPPINGS, "Made", raising(KeyError("secret")))
    server = SimpleNamespace(client_id=None, last_node_id=None, send_sync=lambda *sent: None)
    executor = execution.PromptExecutor(
        server, cache_type=execution.CacheType.LRU, cache_args={"lru": 0, "ram": 0.0,
                                                                "ram_inactive": 0.0},
    )  # fmt: skip
    prompt = {"1": {"class_type": "Made", "inputs": {"value": 1}}}
    executor.execute(prompt, "id", execute_outputs=["1"])
    (said,) = [data for event, data in executor.status_messages if event == "execution_error"]
    assert said["node_id"] == "1" and "KeyError: 'secret'" in said["exception_message"]
    assert "raise error" in said["traceback"][-1]
