"""A second kind of device for a machine that has no graphics card, on which the host can run.

`device.cpp` makes two devices out of the processor's memory under another name. Every operation is
the processor's own, so a picture is the same but for rounding. But as with a card, a tensor there
cannot be mixed with one of the processor's or given to numpy, and reading a number from it waits.
So a test finds what a card would refuse, and counts what would make a program wait for one.

What it does not show: anything of timing, of streams and pinned memory, of a card's own kernels,
and of the host's dynamic VRAM, which needs a real card. The host takes it for a DirectML device.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType

import torch
from torch import library as operators

from .build import build

NAME = "pretend"
MEMORY = 16 * 2**30  # bytes that the host takes it to have
DECOMPOSITIONS = (  # of torch, those that a Mac's card has not in every version that ComfyUI takes
    "_linalg_eigh", "_linalg_solve_ex", "_linalg_svd", "geqrf", "linalg_cholesky_ex", "linalg_eig",
    "linalg_inv_ex", "linalg_ldl_factor_ex", "linalg_lstsq", "linalg_lu_factor_ex", "linalg_qr",
)  # fmt: skip
LIBRARY = "CRAFT_PRETEND_DEVICE"  # names the compiled library, where there is one already


@cache
def device(index: int = 0) -> torch.device:
    """One of the two."""
    _load()
    return torch.device(NAME, index)


@cache
def _load() -> None:
    with TemporaryDirectory() as folder:
        made = os.environ.get(LIBRARY) or build(Path(folder) / "pretend_device.so")
        torch.ops.load_library(made)
    torch.utils.rename_privateuse1_backend(NAME)
    torch.ops.pretend_device.register()
    module = ModuleType(f"torch.{NAME}")
    module.is_available = lambda: True
    module.device_count = lambda: 2
    module.current_device = lambda: 0
    module.synchronize = lambda *_: None
    module.get_amp_supported_dtype = lambda: [torch.float16, torch.bfloat16]
    module._is_in_bad_fork = lambda: False
    module.manual_seed_all = torch.ops.pretend_device.seed
    torch._register_device_module(NAME, module)
    sys.modules[module.__name__] = module


@contextmanager
def counting() -> Iterator[dict[str, int]]:
    """Filled at the end: how often the program would have waited for the device (`waits`), how many
    operations it was given (`launches`), and the most bytes that it held (`most held`)."""
    _load()
    found: dict[str, int] = {}
    torch.ops.pretend_device.begin_counting()
    try:
        yield found
    finally:
        for what in ("waits", "launches", "most held"):
            found[what] = torch.ops.pretend_device.counted(what)


def held() -> int:
    """Bytes of the tensors that lie there now."""
    _load()
    return torch.ops.pretend_device.counted("held")


@contextmanager
def without_float64() -> Iterator[None]:
    """Meanwhile no float64 can be made there, as on a Mac's card."""
    _load()
    torch.ops.pretend_device.allow_double(False)
    try:
        yield
    finally:
        torch.ops.pretend_device.allow_double(True)


@contextmanager
def without_decompositions() -> Iterator[None]:
    """Meanwhile no matrix can be decomposed there, in any thread, as on a Mac's card."""
    _load()

    def refused(*_: object, **__: object) -> None:
        raise NotImplementedError("This device has no decompositions of matrices")

    with operators._scoped_library("aten", "IMPL") as overriding:
        for name in DECOMPOSITIONS:
            overriding.impl(name, refused, "PrivateUse1")
        yield


def is_asked_for() -> bool:
    """Whether these tests are to run there: what skips goes by this, so that a host which has not
    become that device fails."""
    return bool(os.environ.get("CRAFT_TEST_DEVICE"))


def is_the_hosts_device() -> bool:
    import comfy.model_management

    return comfy.model_management.get_torch_device().type == NAME


def become_the_hosts_device() -> None:
    """From now on the host loads models there, for good, as on a card that computes in float32."""
    import comfy.model_management as management

    management.cpu_state = management.CPUState.GPU
    management.vram_state = management.VRAMState.NORMAL_VRAM
    management.directml_enabled = True  # its way to name any device
    management.directml_device = device()
    management.is_nvidia = lambda: False
    management.get_total_memory = _total
    management.get_free_memory = _free
    management.FORCE_FP32 = True


def _total(device=None, *asked, **named) -> int | tuple[int, int]:
    """asked, named: whether also what torch has of it."""
    return (MEMORY, MEMORY) if any(asked) or any(named.values()) else MEMORY


def _free(device=None, *asked, **named) -> int | tuple[int, int]:
    left = max(0, MEMORY - held())
    return (left, left) if any(asked) or any(named.values()) else left
