"""ComfyUI-CRAFT-LoRA: content x style personalisation with LoRAs."""

WEB_DIRECTORY = "./web"
OLDEST_COMFYUI = "0.20.1"  # the oldest that `run.py matrix` tests; pyproject.toml has it too

try:
    from .nodes import comfy_entrypoint
except ImportError as error:
    from importlib import import_module

    try:
        version = import_module("comfyui_version").__version__
    except ImportError:
        version = ""
    if not version or [int(part) for part in version.split(".")[:2]] >= [0, 20]:
        raise
    raise ImportError(
        f"CRAFT LoRA needs ComfyUI {OLDEST_COMFYUI} or newer, and this is {version}. "
        f"Update ComfyUI; until then the pack's nodes are missing. ({error})"
    ) from error

__all__ = ["WEB_DIRECTORY", "comfy_entrypoint"]
