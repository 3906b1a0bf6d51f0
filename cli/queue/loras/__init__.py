"""The LoRAs that a prompt's sampling uses."""

from .acting import GOES_BY_MARKERS, loras_of

__all__ = ["GOES_BY_MARKERS", "loras_of"]
