"""Workflows on a running ComfyUI: `queue` runs one with many settings, `find-best` its search."""

from .command import COMMANDS

__all__ = ["COMMANDS"]
