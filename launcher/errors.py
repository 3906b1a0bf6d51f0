"""The launcher's own exception: a sentence that the user can act on.

Mistakes in workflows are `craft_core.errors.CraftError`, and what a server says is
`client.errors.RemoteError`, as in every program of this pack.
"""


class LaunchError(Exception):
    """Something that the user can correct; its text is one clear sentence, shown unchanged."""
