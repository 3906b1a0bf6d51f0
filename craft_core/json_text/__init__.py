"""JSON that people or files give."""

from .reader import MOST_LEVELS, TooDeep, require_shallow, shallow_json

__all__ = ["MOST_LEVELS", "TooDeep", "require_shallow", "shallow_json"]
