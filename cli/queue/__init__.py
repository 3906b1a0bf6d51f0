"""Workflows on a running ComfyUI: `queue` runs one with many settings, `find-best` its search."""

from .command import COMMAND

__all__ = ["COMMAND"]
