"""The one exception of the launcher: a sentence that the user can act on."""


class LaunchError(Exception):
    """Something the user can put right; its text is one clear sentence, shown as it is."""
