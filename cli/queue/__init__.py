"""`queue`: a workflow with many settings, one after another on a running ComfyUI."""

from .command import COMMAND

__all__ = ["COMMAND"]
