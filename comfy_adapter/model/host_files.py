"""The path of a model file by its name in the lists of a host, of this system or of another."""

from __future__ import annotations

import folder_paths


def path_by_name(kind: str, name: str) -> str | None:
    """None where no folder of the kind has such a file.

    Windows lists files of subfolders with backslashes, other systems with /, and workflows go from
    one to another. A path on another drive is no name; the host's own function raises there.
    """
    for one in dict.fromkeys((name, name.replace("\\", "/"))):
        try:
            path = folder_paths.get_full_path(kind, one)
        except ValueError:
            return None
        if path is not None:
            return path
    return None
