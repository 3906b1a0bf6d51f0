"""A second kind of device for a machine that has no graphics card, on which the host can run.

`device.cpp` makes two devices out of the processor's memory under another name. Every operation is
the processor's own, so a picture is the same but for rounding. But as with a card, a tensor there
cannot be mixed with one of the processor's or given to numpy, and reading a number from it waits.
So a test finds what a card would refuse, and counts what would make a program wait for one.
"""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType

import torch

NAME = "pretend"
MEMORY = 16 * 2**30  # bytes that the host takes it to have
_HERE = Path(__file__).parent


@cache
def device(index: int = 0) -> torch.device:
    """One of the two. The first call compiles them, which takes a while."""
    _load()
    return torch.device(NAME, index)


@cache
def _load() -> None:
    with TemporaryDirectory() as folder:
        made = Path(folder) / "pretend_device.so"
        torch_folder = Path(torch.__file__).parent
        include = torch_folder / "include"
        command = [
            "g++", "-O1", "-shared", "-fPIC", "-std=c++17", _HERE / "device.cpp", "-o", made,
            f"-I{include}", f"-I{include / 'torch' / 'csrc' / 'api' / 'include'}",
            f"-L{torch_folder / 'lib'}", "-lc10", "-ltorch_cpu",
        ]  # fmt: skip
        subprocess.run([str(part) for part in command], check=True)
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


@contextmanager
def without_float64() -> Iterator[None]:
    """Meanwhile no float64 can be made there, as on a Mac's card."""
    _load()
    torch.ops.pretend_device.allow_double(False)
    try:
        yield
    finally:
        torch.ops.pretend_device.allow_double(True)


def is_the_hosts_device() -> bool:
    import comfy.model_management

    return comfy.model_management.get_torch_device().type == NAME


def _memory(device=None, *asked, **named) -> int | tuple[int, int]:
    """asked, named: whether also what torch has of it."""
    return (MEMORY, MEMORY) if any(asked) or any(named.values()) else MEMORY


def become_the_hosts_device() -> None:
    """From now on the host loads models there, for good, as on a card that computes in float32."""
    import comfy.model_management as management

    management.cpu_state = management.CPUState.GPU
    management.vram_state = management.VRAMState.NORMAL_VRAM
    management.directml_enabled = True  # its way to name any device
    management.directml_device = device()
    management.is_nvidia = lambda: False
    management.get_total_memory = management.get_free_memory = _memory
    management.FORCE_FP32 = True
