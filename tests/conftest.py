"""Common to all tiers: where tests find our code. Nothing here imports the host or torch.

This folder goes to the *end* of sys.path: ahead of the host, our `nodes` would hide the host's.
"""

import signal
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent
ROOT = TESTS.parent

# `python -m pytest` and an empty PYTHONPATH entry put the working folder first; take it out.
sys.path[:] = [entry for entry in sys.path if entry and Path(entry).resolve() != ROOT]
sys.path += [str(ROOT), str(TESTS / "unit" / "parts")]
import launcher  # noqa: E402, F401 (from here on, craft_lora_pack is this folder)

# A shell that starts the tests in the background makes them, and all processes that they start,
# ignore Ctrl-C; the tests of Ctrl-C would wait for ever.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

LONGEST_FIRST = (
    "test_workflows.py",
    "test_training.py",
    "test_out_of_memory.py",
    "test_b4m.py",
    "test_training_workflow.py",
    "test_insertion.py",
    "test_headless.py",
    "test_engine_surroundings.py",
    "test_every_model_node.py",
    "test_fuzz.py",
    "test_routed_weights.py",
    "test_quantised.py",
    "test_benchmarks.py",
    "test_expert_encoder.py",
    "test_recorder.py",
    "test_merge_training.py",
    "test_extension.py",
    "test_small_world.py",
    "test_launcher.py",
    "test_dask.py",
    "test_dask_gives.py",
    "test_bounds.py",
)
"""Files to begin with: one that is long and begun last is waited for by all other workers."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    places = {name: place for place, name in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: places.get(item.path.name, len(places)))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Whole files for each worker, so that models which a file shares are made but once."""
    from xdist.scheduler import LoadFileScheduling

    class WholeFiles(LoadFileScheduling):
        def remove_node(self, node):
            """A test that crashed its worker has failed; only those behind it are run again."""
            work = self.assigned_work[node]
            left = (test for tests in work.values() for test, ended in tests.items() if not ended)
            crashed = next(left, None)
            if crashed is not None:
                work[self._split_scope(crashed)][crashed] = True
            super().remove_node(node)
            return crashed

    return WholeFiles(config, log)
