"""`inspect`: what is in a LoRA file, and how two of them meet."""

from .command import COMMANDS

__all__ = ["COMMANDS"]
