"""`python -m craft_core`: one command a file. Only here does the core read flags and print."""

from .main import main

__all__ = ["main"]
