"""`queue`: a workflow with many settings, one after another on a running ComfyUI."""

from .command import COMMANDS

__all__ = ["COMMANDS"]
