"""ComfyUI-CRAFT-LoRA: content x style personalisation with LoRAs."""

WEB_DIRECTORY = "./web"

from .nodes import comfy_entrypoint  # noqa: E402

__all__ = ["WEB_DIRECTORY", "comfy_entrypoint"]
