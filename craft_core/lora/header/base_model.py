"""The model that a LoRA was trained on, as its file says it and as its names look.

ss_sd_model_name and ss_base_model_version are of kohya's sd-scripts, modelspec.architecture is of
ModelSpec 1.0.1.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ..families import family_of

_STATED = ("ss_sd_model_name", "modelspec.architecture", "ss_base_model_version")
_LONGEST = 200  # letters


def base_model(metadata: Mapping[str, str], names: Iterable[str]) -> tuple[str, tuple[str, ...]]:
    """(the family that the names look like, "" if unclear; what the file states, each once)."""
    stated = [metadata.get(key, "").strip()[:_LONGEST] for key in _STATED]
    found = (one for one in stated if one and one != "None")  # a trainer's word for nothing
    return family_of(names) or "", tuple(dict.fromkeys(found))
