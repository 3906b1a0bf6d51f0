"""Where a training runs, in which precision and how its steps are started: read off the machine."""

from collections.abc import Callable

import torch
from torch import Tensor


def choose(name: str | None = None) -> torch.device:
    """The named device, else the first CUDA card, else the CPU."""
    return torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))


def precision(device: torch.device) -> torch.dtype:
    """bfloat16 where the machine has units for it; elsewhere it is slower than float32."""
    if device.type == "cuda":
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        fast = device.type == "cpu" and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return torch.bfloat16 if fast else torch.float32


def autocast(device: torch.device, dtype: torch.dtype) -> torch.autocast:
    """Autocasting to a precision of `precision`; float32 leaves everything as it is."""
    return torch.autocast(
        device.type,
        torch.bfloat16,
        enabled=dtype != torch.float32,
        # A RecordedStep would read cached casts of weights as they were when it was recorded.
        cache_enabled=device.type != "cuda",
    )


class RecordedStep:
    """A training step recorded as a CUDA graph, one for each set of input shapes.

    A small model's step is thousands of short kernels, and starting them one by one from Python
    takes longer than they run; a recorded step is started as a whole.  The step must read nothing
    but its inputs and tensors that stay in their places (weights, the optimiser's state), must not
    wait for the device, and draws no random numbers.
    """

    WARM_UP = 3  # real steps before a recording, in which libraries choose their kernels

    def __init__(self, step: Callable[..., Tensor]):
        self.step = step
        self.recordings: dict[tuple, tuple[torch.cuda.CUDAGraph, tuple[Tensor, ...], Tensor]] = {}
        self.run_before: dict[tuple, int] = {}
        self.memory = None

    def __call__(self, *inputs: Tensor) -> Tensor:
        shapes = tuple((tuple(one.shape), one.dtype) for one in inputs)
        if shapes not in self.recordings:
            count = self.run_before[shapes] = self.run_before.get(shapes, 0) + 1
            if count <= self.WARM_UP:
                return self._apart(*inputs)
            self.recordings[shapes] = self._record(inputs)
        graph, places, loss = self.recordings[shapes]
        for place, given in zip(places, inputs, strict=True):
            place.copy_(given)
        graph.replay()
        return loss

    def _apart(self, *inputs: Tensor) -> Tensor:
        """On a stream of its own, as a recording is."""
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            loss = self.step(*inputs)
        torch.cuda.current_stream().wait_stream(stream)
        return loss

    def _record(self, inputs):
        places = tuple(one.clone() for one in inputs)
        graph = torch.cuda.CUDAGraph()
        torch.cuda.synchronize()
        with torch.cuda.graph(graph, pool=self.memory):
            loss = self.step(*places)
        self.memory = graph.pool()
        return graph, places, loss
