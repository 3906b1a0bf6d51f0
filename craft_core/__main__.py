"""`python -m craft_core COMMAND ...` from the pack's folder. What computes needs the Python that
runs ComfyUI; the rest runs on any from 3.10. A Python that looks for modules in its own folders
alone, as that of ComfyUI's portable build, is given the file: `python craft_core/__main__.py ...`.

Started this way, craft_core is a package of its own, while the pack's other rooms know it as a
part of the pack. So that no class exists twice, the commands run from the pack's copy alone.
"""

import os
import sys

PACK = "craft_lora_pack"


def main() -> int:
    """Run the command line; its exit status."""
    import importlib
    from pathlib import Path
    from types import ModuleType

    pack = ModuleType(PACK)  # the pack as a package; its __init__ (the menus) is not needed here
    pack.__path__ = [str(Path(__file__).absolute().parent.parent)]
    sys.modules[PACK] = pack
    try:
        return importlib.import_module(f"{PACK}.cli").main()
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith(PACK):
            raise
        print(
            f"Error: {sys.executable} has no {error.name}. This command runs with ComfyUI's own "
            "Python, which has it. Start it with the Python that starts ComfyUI.",
            file=sys.stderr,
        )
        return 1


def guarded() -> int:
    """main, and 130 for a Ctrl-C before the command line has taken over, as while torch loads."""
    try:
        return main()
    except KeyboardInterrupt:
        print("Stopped before anything was begun.", file=sys.stderr)
        return 130


def leave_own_folder() -> None:
    """Take this folder from the search path, where Python has put it before its own `types`."""
    here = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [one for one in sys.path if os.path.abspath(one) != here]


if __name__ == "__main__":
    if not __package__:  # started as a file; until now nothing was imported that could be ours
        leave_own_folder()
    sys.exit(guarded())
