"""The host tier: real ComfyUI classes in this process, and a real server beside it.

The pack is imported once, as `craft_lora_pack`; tests of this tier reach everything through it
(`craft_lora_pack.comfy_adapter`, `craft_lora_pack.craft_core`), never through a bare `craft_core`,
which would be a second copy of the same classes.
"""

import os
import sys
from pathlib import Path

import pytest

from launcher.run.inside_host import enter_host, load_pack, temporary_base

_COMFYUI = os.environ.get("COMFYUI_PATH", "")
if not (Path(_COMFYUI) / "comfy" / "cli_args.py").is_file():
    raise pytest.UsageError(
        f"COMFYUI_PATH is {_COMFYUI!r}, which is no ComfyUI; "
        "the host tests run through: python run.py test host"
    )
_BASE = temporary_base()  # the host's models, input and output folders; gone with this process
enter_host(Path(_COMFYUI), Path(_BASE.name), cpu=True)
sys.path.append(str(Path(__file__).parent / "parts"))

import torch  # noqa: E402 (the host's settings come first)

torch.set_num_threads(1)  # tiny models: more threads only wait for each other
_DEVICE = os.environ.get("CRAFT_TEST_DEVICE", "")
if _DEVICE:
    import pretend_device

    if _DEVICE != pretend_device.NAME:
        raise pytest.UsageError(f"CRAFT_TEST_DEVICE is {_DEVICE!r}; it can be pretend")
    pretend_device.become_the_hosts_device()
load_pack()

from live_server import live_server, pytest_runtest_makereport  # noqa: E402, F401
