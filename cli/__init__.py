"""`python -m craft_core`: one command a file. Only here are flags read and results printed."""

from .main import main

__all__ = ["main"]
