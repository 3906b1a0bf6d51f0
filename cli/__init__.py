"""`python -m craft_core`: one command a file. The only room that reads flags and prints
results."""

from .main import main

__all__ = ["main"]
