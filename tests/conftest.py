"""Common to all tiers: where tests find our code. Nothing here imports the host or torch.

This folder goes to the *end* of sys.path: ahead of the host, our `nodes` would hide the host's.
"""

import signal
import sys
from pathlib import Path

TESTS = Path(__file__).resolve().parent
ROOT = TESTS.parent

# `python -m pytest` and an empty PYTHONPATH entry put the working folder first; take it out.
sys.path[:] = [entry for entry in sys.path if entry and Path(entry).resolve() != ROOT]
sys.path += [str(ROOT), str(TESTS / "unit")]
import launcher  # noqa: E402, F401 (from here on, craft_lora_pack is this folder)

# A shell that starts the tests in the background tells them to ignore Ctrl-C, and so all they
# start; the tests of Ctrl-C would wait for ever.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
