"""Start a real ComfyUI server on the loopback, wait until it answers, stop it."""

import contextlib
import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from craft_lora_pack.client.client import Client

from ..errors import LaunchError
from .hosts import Host
from .pip import clean_environment
from .workspace import PACKS, USER_MODELS

LOOPBACK = "127.0.0.1"
USUAL_PORT = 8288  # not ComfyUI's own 8188, which yours may have
START_LIMIT = 300.0  # seconds; a cold start on a slow disk imports two gigabytes
TAIL_LINES = 15
COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def free_port() -> int:
    """A loopback port that nobody uses at this moment."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return probe.getsockname()[1]


def usual_port() -> int:
    """The same port each time, so that the page keeps its settings; any free one while it is in
    use."""
    try:
        return require_port(USUAL_PORT)
    except LaunchError:
        return free_port()


def require_port(port: int) -> int:
    """The port the user asked for, or one sentence when it is taken."""
    if not 1 <= port <= 65535:
        raise LaunchError(f"--port {port} is not a port; give a number from 1 to 65535.")
    with socket.socket() as probe:
        if os.name != "nt":  # a port of a server that has just stopped is free again
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError as error:
            reason = error.strerror or error
            raise LaunchError(
                f"port {port} cannot be used ({reason}); give another one, or leave --port away."
            ) from error
    return port


class Server:
    """One ComfyUI process: `with Server(host, base) as server: server.client.object_info()`.

    more: further options of ComfyUI's command line."""

    def __init__(
        self, host: Host, base: Path, *, cpu: bool, port: int | None = None,
        more: Sequence[str] = (),
    ):  # fmt: skip
        self.port = port or free_port()
        self.log = base / "logs" / f"server-{self.port}.log"
        self._temp = base / "temp" / str(self.port)
        self.client = Client(self.url, alive=self.alive)
        self._command = [*server_command(host, base, self.port, cpu=cpu), *more]
        self._environment = clean_environment()
        if host.own:
            self._environment["PYTHONDONTWRITEBYTECODE"] = "1"
        self._folder = base
        self._process: subprocess.Popen | None = None

    @property
    def url(self) -> str:
        """The address of the page."""
        return f"http://{LOOPBACK}:{self.port}"

    @property
    def folder(self) -> Path:
        """Where its models, pictures and settings are."""
        return self._folder

    def __enter__(self) -> "Server":
        try:
            self.start()
        except BaseException:  # also Ctrl-C while it boots: leave no server behind
            self.stop()
            raise
        return self

    def __exit__(self, *_exception) -> None:
        self.stop()

    def start(self) -> None:
        """Start the process and wait until it answers."""
        assert self._process is None, "started twice"
        drop_old_logs(self.log.parent)
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self._folder,
                env=self._environment,
            )
        deadline = time.monotonic() + START_LIMIT
        while not self._answers():
            if not self.alive():
                raise LaunchError(f"ComfyUI stopped while starting.\n{self.log_tail()}")
            if time.monotonic() > deadline:
                raise LaunchError(
                    f"ComfyUI did not answer within {START_LIMIT:.0f} s.\n{self.log_tail()}"
                )
            time.sleep(0.2)

    def _answers(self) -> bool:
        try:
            self.client.get_json("/system_stats", timeout=2)
        except (OSError, http.client.HTTPException, json.JSONDecodeError):
            return False
        return True

    def alive(self) -> bool:
        """Whether the process runs."""
        return self._process is not None and self._process.poll() is None

    def wait(self) -> int:
        """Wait until the server ends by itself; its exit status."""
        assert self._process is not None
        return self._process.wait()

    def stop(self) -> None:
        """Ask the process to end, so that it deletes temporary files; kill it if it does not."""
        process, self._process = self._process, None
        if process is not None and process.poll() is None:
            _end(process)
        shutil.rmtree(self._temp, ignore_errors=True)

    def kill(self) -> None:
        """End the process at once, as a crash does."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def log_text(self) -> str:
        """Everything the server has written, without the codes for colours."""
        if not self.log.exists():
            return ""
        return COLOUR.sub("", self.log.read_text("utf-8", errors="replace"))

    def log_tail(self) -> str:
        """The last lines of the log, and where the rest is."""
        lines = self.log_text().splitlines()[-TAIL_LINES:]
        return "\n".join(["Its last lines:", *(f"  {line}" for line in lines), f"Log: {self.log}"])

    def failed_packs(self) -> list[str]:
        """Our packs that the host could not load, each with the host's reason."""
        return failed_imports(self.log_text())


def _end(process: subprocess.Popen) -> None:
    if os.name == "nt":
        process.terminate()
    else:
        process.send_signal(signal.SIGINT)
    try:
        process.wait(timeout=10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def drop_old_logs(folder: Path, keep: int = 4) -> None:
    """Make the folder, and leave only its newest logs in it."""
    folder.mkdir(parents=True, exist_ok=True)
    logs = sorted(folder.glob("server-*.log"), key=lambda log: log.stat().st_mtime, reverse=True)
    for log in logs[keep:]:
        with contextlib.suppress(OSError):  # still open in another server, on Windows
            log.unlink()


def server_command(host: Host, base: Path, port: int, *, cpu: bool) -> list[str]:
    """The command line: our base directory, an in-memory database, no page, no cloud nodes."""
    command = [str(host.python), str(host.comfyui / "main.py")]
    command += ["--listen", LOOPBACK, "--port", str(port)]
    command += ["--base-directory", str(base), "--disable-auto-launch", "--disable-api-nodes"]
    command += ["--temp-directory", str(base / "temp" / str(port))]
    command += ["--database-url", "sqlite:///:memory:"]
    if (base / USER_MODELS).is_file():
        command += ["--extra-model-paths-config", str(base / USER_MODELS)]
    return [*command, "--cpu"] if cpu else command


def failed_imports(log: str) -> list[str]:
    """`pack: reason` for each of our packs that a host's log reports as failed."""
    failures = []
    for line in log.splitlines():
        found = re.search(r"\(IMPORT FAILED\): (.*)$", line)
        name = re.split(r"[\\/]", found.group(1).strip())[-1] if found else ""
        if name in PACKS:
            failures.append(f"{name}: {_failure_reason(log, name)}")
    return failures


def _failure_reason(log: str, name: str) -> str:
    """The host's own words about a pack that it could not load."""
    for line in log.splitlines():
        if name in line and ("Cannot import" in line or "comfy_entrypoint" in line):
            return line.partition(": ")[2].strip() or line.strip()
    return "the log names no reason"
