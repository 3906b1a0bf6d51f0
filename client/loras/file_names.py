"""Names of files that Windows refuses, or takes for something else."""

import re

_SIGNS = re.compile(r'[:<>"|?*]')  # what is behind a colon is a stream of the file before it
_DEVICE = re.compile(r"(con|prn|aux|nul|(com|lpt)[0-9¹²³]|conin\$|conout\$) *(\..*)?", re.I)


def is_device(name: str) -> bool:
    """Whether Windows takes a name for a device, as it does con.txt."""
    return _DEVICE.fullmatch(name) is not None


def fits_windows(name: str) -> bool:
    """Whether Windows can have a file or folder of the name: it drops a space or dot at its end."""
    return not (_SIGNS.search(name) or name.endswith((" ", ".")) or is_device(name))
