"""ComfyUI-CRAFT-LoRA: content x style personalisation with LoRAs."""

import re

WEB_DIRECTORY = "./web"
OLDEST_COMFYUI = "0.20.1"  # the oldest that `run.py matrix` tests; pyproject.toml has it too

try:
    from .nodes import comfy_entrypoint
except ImportError as error:
    from importlib import import_module

    try:
        version = import_module("comfyui_version").__version__
    except (ImportError, AttributeError):
        version = ""
    numbers = (re.match(r"[0-9]*", part)[0] for part in f"{version}..".split(".")[:2])
    first, second = (int(digits) if digits and len(digits) < 9 else None for digits in numbers)
    # A version that says nothing, as "dev", is taken for a new one.
    if first != 0 or second is None or second >= 20:
        raise
    raise ImportError(
        f"CRAFT LoRA needs ComfyUI {OLDEST_COMFYUI} or newer, and this is {version}. "
        f"Update ComfyUI; until then the pack's nodes are missing. ({error})"
    ) from error

__all__ = ["WEB_DIRECTORY", "comfy_entrypoint"]
