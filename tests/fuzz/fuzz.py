"""Damaged inputs at every door: each is read or refused in words, in time, with no more memory.

    python fuzz.py [--cases N | --minutes N] [--seed N] [--door NAME]

Every door has a process of its own, whose time and memory are bounded. What fails is kept, as small
as hypothesis makes it, in the folder `corpus`, and is tried first ever after.
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import gc
import hashlib
import os
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import deque
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
CORPUS = HERE / "corpus"
LONGEST = 10.0  # seconds of CPU time for an input of some kilobytes, on a busy machine
MEMORY = 3 << 30  # bytes beyond what the process has when it begins
GROWTH = 16.0  # megabytes
AGAIN = 5  # times that some inputs are read, to see whether memory is kept
MANY = 10_000_000  # cases, where time is what ends a run
LAST = "last"  # the file of the input that is read now
ROUND = 200  # cases between two looks at the clock


def _find_the_pack() -> None:
    sys.path += [str(ROOT), str(HERE), str(ROOT / "tests" / "unit" / "parts")]
    from launcher.pack import as_package

    as_package()


def child(name: str, cases: int, seconds: float, seed: int, folder: Path) -> int:
    """One door's inputs, in a process of their own. The one that is read now is in the folder."""
    import torch
    from craft_lora_pack.craft_core.errors import plain
    from doors import DOORS, KNOWN

    torch.set_num_threads(1)
    _bound_memory()
    read, place = DOORS[name].read, folder / "read"
    place.mkdir()
    end, count = time.monotonic() + seconds, 0
    failed: list[bytes] = []
    recent: deque[bytes] = deque(maxlen=30)

    def holds(content: bytes) -> None:
        nonlocal count
        count += 1
        recent.append(content)
        (folder / LAST).write_bytes(content)
        _bound_time()
        try:
            read(content, place)
        except KNOWN as error:
            said = str(error)
            assert len(said) <= 2010 and said == plain(said, 2010), said
        except Exception:
            failed.append(content)
            raise
        finally:
            _unbound_time()

    try:
        for kept in sorted((CORPUS / _slug(name)).glob("*")):
            holds(kept.read_bytes())
        while count < cases and time.monotonic() < end:
            _generated(DOORS[name].damaged, holds, min(ROUND, cases), seed)
            seed += 1
    except Exception:
        traceback.print_exc()
        if failed:
            _keep(name, min(failed, key=len))
        return 1
    grown = _growth(read, list(recent), place)
    print(f"{name}: {count} inputs, {grown:+.0f} MB when some are read again", flush=True)
    if grown > GROWTH:
        print(f"{name} grows", flush=True)
    return grown > GROWTH


def _growth(read, inputs: list[bytes], place: Path) -> float:
    """Megabytes that reading the same inputs again and again takes."""
    from doors import KNOWN

    def read_all() -> None:
        for content in inputs:
            with contextlib.suppress(*KNOWN):
                read(content, place)
        gc.collect()

    read_all()
    before = _resident()
    for _ in range(AGAIN):
        read_all()
    return _resident() - before


def _keep(name: str, content: bytes) -> None:
    folder = CORPUS / _slug(name)
    folder.mkdir(parents=True, exist_ok=True)
    place = folder / hashlib.sha256(content).hexdigest()[:16]
    place.write_bytes(content)
    print(f"kept: {place}", flush=True)


def _sound_is_read() -> bool:
    """Whether what the damage is made from is read by every door."""
    from doors import DOORS

    for name, door in DOORS.items():
        for content in door.sound:
            with tempfile.TemporaryDirectory() as folder:
                try:
                    door.read(content, Path(folder))
                except ValueError as error:
                    print(f"{name}: {error}")
                    return False
    return True


def _generated(damaged, holds, cases: int, seed: int) -> None:
    import hypothesis

    warnings.simplefilter("ignore")
    settings = hypothesis.settings(
        max_examples=cases, deadline=None, database=None, print_blob=False,
        suppress_health_check=list(hypothesis.HealthCheck),
        phases=(hypothesis.Phase.generate, hypothesis.Phase.shrink),
        verbosity=hypothesis.Verbosity.quiet,
    )  # fmt: skip
    settings(hypothesis.seed(seed)(hypothesis.given(damaged)(holds)))()


def _slug(name: str) -> str:
    return name.lower().replace(" ", "_")


def _bound_memory() -> None:
    try:
        import resource
    except ImportError:  # Windows
        return
    taken = _pages()[0] * resource.getpagesize()
    if taken:
        resource.setrlimit(resource.RLIMIT_AS, (taken + MEMORY, taken + MEMORY))


def _bound_time() -> None:
    if hasattr(signal, "setitimer"):  # the system ends what hangs, whatever holds the lock
        signal.setitimer(signal.ITIMER_PROF, LONGEST)


def _unbound_time() -> None:
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_PROF, 0)


def _resident() -> float:
    """Megabytes of the process; 0 where that is not told."""
    return _pages()[1] * 4096 / 1e6


def _pages() -> tuple[int, int]:
    """Pages of memory that the process has, and those that are there; 0 where that is not told."""
    try:
        with open("/proc/self/statm") as file:
            all_pages, resident = file.read().split()[:2]
    except OSError:
        return 0, 0
    return int(all_pages), int(resident)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=0, help="for each door; 0: by --minutes")
    parser.add_argument("--minutes", type=float, default=2.0, help="for all doors together")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--door", help="one alone")
    chosen = parser.parse_args()
    _find_the_pack()
    from doors import DOORS

    if not _sound_is_read():
        return 1
    doors = [chosen.door] if chosen.door else list(DOORS)
    seconds = 1e9 if chosen.cases else 60 * chosen.minutes / len(doors)
    cases = chosen.cases or MANY
    failed = [one for one in doors if not _one(one, cases, seconds, chosen.seed)]
    print(f"FAILED: {', '.join(failed)}" if failed else "Every input was read or refused.")
    return bool(failed)


def _one(name: str, cases: int, seconds: float, seed: int) -> bool:
    with tempfile.TemporaryDirectory() as folder:
        # A fork has everything imported; where there is none, this process does it itself.
        if not hasattr(os, "fork"):
            return child(name, cases, seconds, seed, Path(folder)) == 0
        sys.stdout.flush()
        number = os.fork()
        if not number:
            faulthandler.enable()
            status = 1
            try:
                status = int(child(name, cases, seconds, seed, Path(folder)))
            finally:
                os._exit(status)
        status = os.waitstatus_to_exitcode(os.waitpid(number, 0)[1])
        if status < 0:
            print(f"{name}: ended by signal {-status}: an input took too long, or broke Python")
            _keep(name, (Path(folder) / LAST).read_bytes())
    return status == 0


if __name__ == "__main__":
    sys.exit(main())
