"""Run an environment's own pip: its output goes to a log and to a progress line, errors become
sentences."""

import os
import re
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

from ..errors import LaunchError

DOWNLOAD = re.compile(r"^\s*(?:Downloading|Using cached) (\S+) \(([\d.]+) ([kMG]?)B\)")
MEGABYTES = {"": 1e-6, "k": 1e-3, "M": 1.0, "G": 1e3}
LEAKS = {
    "PYTHONPATH",
    "PYTHONHOME",
    "PYTHONSTARTUP",
    "PYTHONDONTWRITEBYTECODE",
    "VIRTUAL_ENV",
    "__PYVENV_LAUNCHER__",
}
NO_DISK = ("No space left on device", "not enough space", "Errno 28", "Disk quota exceeded")
NO_NETWORK = (
    "Failed to establish a new connection",
    "NewConnectionError",
    "Temporary failure in name resolution",
    "Name or service not known",
    "getaddrinfo failed",
    "nodename nor servname",
    "ConnectTimeout",
    "Read timed out",
    "ReadTimeoutError",
    "Connection aborted",
    "Connection reset",
    "IncompleteRead",
    "IncompleteDownloadError",
    "ProxyError",
    "SSLError",
    "Max retries exceeded",
)


def clean_environment(**extra: str) -> dict[str, str]:
    """The user's environment without what would leak another Python into a child process.

    Bytecode may be written: without it every start of the host takes twice as long.
    """
    environment = {name: value for name, value in os.environ.items() if name not in LEAKS}
    return environment | {"PYTHONNOUSERSITE": "1", "PYTHONUNBUFFERED": "1"} | extra


class PipProgress:
    """Turns pip's output lines into one short text: what is fetched now, megabytes so far."""

    def __init__(self) -> None:
        self.megabytes = 0.0
        self.packages = 0

    def read(self, line: str) -> str | None:
        """The text to show after this line, or None when it says nothing new."""
        if line.startswith("Installing collected packages"):
            count = line.count(",") + 1
            return f"unpacking {count} packages, {self.megabytes / 1000:.1f} GB"
        found = DOWNLOAD.match(line)
        if found is None:
            return None
        name, amount, unit = found.groups()
        self.packages += 1
        self.megabytes += float(amount) * MEGABYTES[unit]
        short = os.path.basename(name).split("-")[0]
        return f"{short} {amount} {unit}B ({self.packages} packages, {self.megabytes:.0f} MB)"


def explain(output: str, log: Path) -> str:
    """The one sentence for a pip that failed."""
    rerun = "run the same command again and it continues"
    if any(sign in output for sign in NO_DISK):
        return f"the disk is full; make room, then {rerun}."
    if any(sign in output for sign in NO_NETWORK):
        return f"a package could not be downloaded (no connection to the index); {rerun}."
    errors = [line for line in output.splitlines() if line.startswith("ERROR:")]
    reason = errors[-1].removeprefix("ERROR:").strip() if errors else "no reason given"
    return f"pip failed: {reason} (all of its output: {log}); once that is solved, {rerun}."


def pip(
    python: Path,
    arguments: Sequence[str],
    *,
    log: Path,
    scratch: Path,
    show: Callable[[str], None] = lambda _text: None,
) -> None:
    """Run `python -m pip ARGUMENTS`; LaunchError with one sentence when it fails.

    `scratch` is where pip unpacks downloads: gigabytes that a small /tmp could not hold.
    """
    scratch.mkdir(parents=True, exist_ok=True)
    environment = clean_environment(
        PIP_DISABLE_PIP_VERSION_CHECK="1",
        PIP_NO_INPUT="1",
        PIP_USER="0",
        PIP_NO_COLOR="1",
        PIP_PROGRESS_BAR="off",
        TMPDIR=str(scratch),
        TEMP=str(scratch),
        TMP=str(scratch),
    )
    command = [str(python), "-m", "pip", *arguments]
    progress, lines = PipProgress(), []
    with log.open("a", buffering=1, encoding="utf-8") as record:
        record.write(f"\n$ {' '.join(command)}\n")
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=environment,
            encoding="utf-8",
            errors="replace",
        )
        try:
            assert process.stdout is not None
            for line in process.stdout:
                record.write(line)
                lines.append(line)
                text = progress.read(line)
                if text:
                    show(text)
            code = process.wait()
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait()
    if code != 0:
        raise LaunchError(explain("".join(lines), log))
