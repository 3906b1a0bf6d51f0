"""The tiers of tests: what each needs, and that each really ran."""

import os
import shutil
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..errors import LaunchError
from ..paths import ROOT
from ..terminal import Spinner, say
from .cache import GIGABYTE
from .hosts import Host, pinned_host
from .pip import clean_environment

CHROMIUM_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
CHROMIUM_PLACES = (
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
    r"C:\Program Files\Google\Chrome\Application\chrome.exe",
    r"C:\Program Files (x86)\Google\Chrome\Application\chrome.exe",
    r"C:\Program Files (x86)\Microsoft\Edge\Application\msedge.exe",
)
# Started without `python -m`, which would put this folder, and with it our `nodes`, ahead of the
# host's module of that name.
PYTEST = "import sys; del sys.path[0]; import pytest; sys.exit(pytest.main())"
MOST_WORKERS = 4
SLOWEST = 8  # files named after a tier
ON_A_DEVICE = (
    "tests/host/device",
    "tests/host/engine/test_engine_equalities.py",
    "tests/host/train/test_training.py",
)
ALL_ON_A_DEVICE = tuple(
    f"tests/host/{folder}"
    for folder in ("device", "engine", "guide", "pairs", "score", "train", "use")
)
PRETEND_DEVICE = ROOT / "tests" / "host" / "parts" / "pretend_device"
WORKERS_MEMORY = 3 * GIGABYTE  # its models, and its server with the page


@dataclass(frozen=True)
class Choice:
    """What to run of a tier, and on how many workers.

    sweeps: also the tests marked `sweep`. arguments: the user's own, for pytest.
    """

    arguments: Sequence[str] = ()
    workers: int = 1
    sweeps: bool = False


def run_tiers(tiers: Mapping[str, "Tier"], choice: Choice) -> int:
    """Run the tiers in order, all of them even when one fails; 0 when every one passed."""
    host = pinned_host(tools=True)
    failed, minutes = [], []
    for tier, run in tiers.items():
        say(f"\n== {tier} tests ==")
        start = time.monotonic()
        if not run(host, choice):
            failed.append(tier)
        minutes.append(f"{tier} {(time.monotonic() - start) / 60:.1f}")
    say(f"\nminutes: {', '.join(minutes)}")
    if failed:
        say(f"FAILED: {', '.join(failed)}")
        return 1
    say(f"All passed: {', '.join(tiers)}")
    return 0


def run_fuzz(minutes: float, seed: int) -> int:
    """Damaged inputs at every door, and a quarter of the time in a server; 0 when each was read or
    refused, and the server is as it was."""
    host = pinned_host(tools=True)
    folder, failed = ROOT / "tests" / "fuzz", False
    for script, share in {"fuzz.py": 0.75, "live.py": 0.25}.items():
        command = [str(folder / script), "--minutes", str(share * minutes), "--seed", str(seed)]
        failed |= bool(_python(host, command, COMFYUI_PATH=str(host.comfyui), OMP_NUM_THREADS="1"))
    return int(failed)


def default_workers() -> int:
    """One for each processor that this process may use, as far as the memory goes; four at most."""
    return max(1, min(_processors(), _memory() // WORKERS_MEMORY, MOST_WORKERS))


def _processors() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _memory() -> int:
    """Bytes of this machine's memory; where it does not say, enough for all workers."""
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return MOST_WORKERS * WORKERS_MEMORY


def _unit(host: Host, choice: Choice) -> bool:
    tidy = _python(host, ["-m", "ruff", "check", "."]) == 0
    formatted = _python(host, ["-m", "ruff", "format", "--check", "."]) == 0
    return _pytest(host, "unit", choice) and tidy and formatted


def host_tests(host: Host, choice: Choice) -> bool:
    """The host tier on one ComfyUI; whether all passed."""
    return _pytest(host, "host", choice)


def page_tests(host: Host, choice: Choice) -> bool:
    """The browser tier on one ComfyUI; whether all passed."""
    return _pytest(host, "browser", choice, CHROMIUM_PATH=find_chromium())


def device_tests(host: Host, choice: Choice) -> bool:
    """Host tests with the host's models on a device other than the processor's memory, as on a
    graphics card (tests/host/parts/pretend_device); whether all passed. On Linux alone."""
    if sys.platform != "linux":
        say("left out: the pretend device is built on Linux only")
        return True
    require_compiler()
    if not _names_tests(choice):
        files = ALL_ON_A_DEVICE if choice.sweeps else ON_A_DEVICE
        choice = replace(choice, arguments=[*files, *choice.arguments])
    with tempfile.TemporaryDirectory() as folder:
        library = str(Path(folder) / "pretend_device.so")
        if _python(host, [str(PRETEND_DEVICE / "build.py"), library]):
            raise LaunchError("the pretend device could not be built; the lines above say why.")
        environment = {"CRAFT_TEST_DEVICE": "pretend", "CRAFT_PRETEND_DEVICE": library}
        return _pytest(host, "device", choice, **environment)


Tier = Callable[[Host, Choice], bool]
TIERS: dict[str, Tier] = {
    "unit": _unit, "host": host_tests, "device": device_tests, "browser": page_tests,
}  # fmt: skip


def _python(host: Host, arguments: list[str], **environment: str) -> int:
    command = [str(host.python), *arguments]
    return subprocess.run(
        command, cwd=ROOT, env=clean_environment(**environment), check=False
    ).returncode


def _pytest(host: Host, tier: str, choice: Choice, **environment: str) -> bool:
    """Run one folder of tests; True only when something ran and nothing failed."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        options = [*_chosen_tests(tier, choice), *_options(choice), f"--junitxml={report}"]
        status = _python(
            host,
            ["-c", PYTEST, *options, *choice.arguments],
            COMFYUI_PATH=str(host.comfyui),
            **_threads(choice.workers),
            **environment,
        )
        if status > 1:  # not a failing test: nothing collected, or pytest was stopped or broken
            reason = "none was chosen" if status == 5 else f"pytest status {status}"
            say(f"no {tier} test could run ({reason}); this counts as a failure")
            return False
        executed = count_executed(report)
        if executed > 1:
            say(f"slowest {tier} files, minutes: {slowest_files(report)}")
    if executed == 0:
        say(f"no {tier} test ran, so nothing is shown; this counts as a failure")
    return status == 0 and executed > 0


def _chosen_tests(tier: str, choice: Choice) -> list[str]:
    """The tier's folder, unless the user names files or tests in it."""
    return [] if _names_tests(choice) else [f"tests/{tier}"]


def _names_tests(choice: Choice) -> bool:
    return any((ROOT / argument.split("::")[0]).exists() for argument in choice.arguments)


def _options(choice: Choice) -> list[str]:
    """Workers take whole files, in the order of collection (see tests/conftest.py)."""
    options = [] if choice.sweeps else ["-m", "not sweep"]
    if choice.workers > 1:
        options += ["-n", str(choice.workers), "--dist", "loadfile", "--no-loadscope-reorder"]
    return options


def _threads(workers: int) -> dict[str, str]:
    """Each worker, and the server it starts, computes on its share of the processors."""
    if workers == 1 or "OMP_NUM_THREADS" in os.environ:
        return {}
    return {"OMP_NUM_THREADS": str(max(1, _processors() // workers))}


def count_executed(report: Path) -> int:
    """How many tests of a JUnit report were carried out: all less the skipped ones."""
    suites = ElementTree.parse(report).getroot().iter("testsuite")
    return sum(int(suite.get("tests", 0)) - int(suite.get("skipped", 0)) for suite in suites)


def slowest_files(report: Path) -> str:
    """The SLOWEST files of a JUnit report that took longest, all tests of a file together."""
    seconds: Counter[str] = Counter()
    for case in ElementTree.parse(report).getroot().iter("testcase"):
        seconds[case.get("classname", "").rsplit(".", 1)[-1]] += float(case.get("time", 0))
    return ", ".join(f"{file} {taken / 60:.1f}" for file, taken in seconds.most_common(SLOWEST))


def find_chromium() -> str:
    """The path of a Chromium or Chrome; installed from Debian's packages where we may."""
    found = _installed_chromium()
    if found is None and _may_install():
        with Spinner("installing Chromium (apt)"):
            _apt("update", "-q")
            _apt("install", "-y", "-q", "--no-install-recommends", "chromium")
        found = _installed_chromium()
    if found is None:
        raise LaunchError(
            "the browser tests need Chromium or Chrome and none was found; install one "
            "(Debian: apt install chromium), or set CHROMIUM_PATH to it."
        )
    return found


def _installed_chromium() -> str | None:
    named = os.environ.get("CHROMIUM_PATH", "").strip()
    if named:
        if os.access(named, os.X_OK):
            return named
        raise LaunchError(f"CHROMIUM_PATH is {named}, and that cannot be run; correct it.")
    on_path = (shutil.which(name) for name in CHROMIUM_NAMES)
    places = (place for place in CHROMIUM_PLACES if os.access(place, os.X_OK))
    return next(filter(None, on_path), None) or next(places, None)


def require_compiler() -> None:
    """g++ is there, or is installed from Debian's packages where we may."""
    if shutil.which("g++") is None and _may_install():
        with Spinner("installing a C++ compiler (apt)"):
            _apt("update", "-q")
            _apt("install", "-y", "-q", "--no-install-recommends", "g++")
    if shutil.which("g++") is None:
        raise LaunchError(
            "the device tests build a small library and need the C++ compiler g++, and none was "
            "found; install one (Debian: apt install g++)."
        )


def _may_install() -> bool:
    """Root on Debian, as in a fresh container: nobody to ask, and nothing to break."""
    root = sys.platform == "linux" and os.geteuid() == 0
    return root and Path("/etc/debian_version").is_file() and shutil.which("apt-get") is not None


def _apt(*arguments: str) -> None:
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    finished = subprocess.run(
        ["apt-get", *arguments], capture_output=True, text=True, env=environment, check=False
    )
    if finished.returncode != 0:
        reason = (finished.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise LaunchError(f"apt-get {arguments[0]} failed: {reason}")
