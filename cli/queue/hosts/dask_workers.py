"""The servers beside the workers of a Dask cluster: a worker holds the resource `comfy` and asks
the server that its environment names. Dask is imported here alone, when --dask is given."""

from __future__ import annotations

import hashlib
import importlib
import logging
import tempfile
import time
import uuid
import zipfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ....client.errors import RemoteError, ServerGone
from ....client.near import jobs, on_dask
from ....craft_core.errors import CraftError
from .host import Door, Tells

RESOURCE = "comfy"
PACKAGE, ROOT = jobs.__name__.split(".")[0], Path(jobs.__file__).parents[2]
LOOKS = 1.0  # seconds between two looks at the workers
CONNECTS = 30.0  # seconds in which the scheduler must answer
CLOSES = 5.0  # seconds in which the connection must end
# Dask loads the package anew, and its modules as they were: after an update old code would run.
# Of the same code they stay, since another command's job may be running it.
FORGET = f"""
import sys
if getattr(sys.modules.get({PACKAGE!r}), "CODE", None) != CODE:
    for name in list(sys.modules):
        if name == {PACKAGE!r} or name.startswith({PACKAGE + "."!r}):
            sys.modules.pop(name, None)
"""
MOVES = 600.0  # seconds in which a job's files must come from a worker


def import_dask() -> Any:
    """distributed; CraftError where it is not installed."""
    try:
        return importlib.import_module("distributed")
    except ModuleNotFoundError as error:
        raise CraftError(
            f"--dask needs Dask, and this Python has no {error.name}",
            "Dask is an extra that ComfyUI does not bring; several --server need none",
            'Install it with: python -m pip install "dask[distributed]"',
        ) from error


class DaskWorkers:
    """The workers of the scheduler at an address that hold the resource."""

    patience = 600.0
    wanted = f"a Dask worker that was started with --resources {RESOURCE}=1"

    def __init__(self, address: str) -> None:
        self._dask, self._address = import_dask(), address
        for name in ("distributed", "distributed.client"):  # this command says it in its own words
            logging.getLogger(name).setLevel(logging.CRITICAL)
        try:
            self._client = self._dask.Client(address, timeout=CONNECTS)
            self._send_code()
        except (OSError, ValueError) as error:  # ValueError for what is no address
            raise self._gone(error) from error
        self._doors: dict[str, Door] = {}
        self._next = 0.0
        self._topic, self._tells = f"{PACKAGE}-{uuid.uuid4().hex}", dict[str, Tells]()
        self._client.subscribe_topic(self._topic, self._told)

    def __enter__(self) -> DaskWorkers:
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(self._dask.TimeoutError):  # the scheduler may be gone
            self._client.close(timeout=CLOSES)

    def present(self) -> Mapping[str, Door]:
        """The workers that there are, by address; looked for once a second."""
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + LOOKS
            if self._client.status != "running":
                raise self._gone("the connection broke")
            try:
                known = self._client.scheduler_info(n_workers=-1).get("workers", {})
            except OSError as error:
                raise self._gone(error) from error
            self._doors = {
                name: _Worker(self, name)
                for name, one in known.items()
                if one.get("resources", {}).get(RESOURCE)
            }
        return self._doors

    def call(
        self, worker: str, function: Callable[..., Any], given: Any, key: str, tells: Tells | None
    ) -> Any:
        """What the function gives on a worker. ServerGone where the worker goes away."""
        name = f"{key or 'check'}-{uuid.uuid4().hex[:12]}"
        what: tuple[Any, ...] = (jobs.beside, function)
        if tells is not None:
            self._tells[name] = tells
            what = (on_dask.telling, self._topic, name, function)
        future = self._client.submit(*what, *given, key=name, workers=[worker],
                                     resources={RESOURCE: 1}, retries=0, pure=False)  # fmt: skip
        try:
            while not self._ended(future):
                if worker not in self.present():
                    raise ServerGone("its Dask worker has ended.")
            error = future.exception(timeout=MOVES) if future.status == "error" else None
            if error is None:
                return future.result(timeout=MOVES)
        except (self._dask.TimeoutError, self._dask.CancelledError, OSError) as broken:
            raise ServerGone(f"the way to its Dask worker broke ({broken}).") from broken
        finally:
            self._tells.pop(name, None)
            future.release()
        raise _as_here(error)

    def _ended(self, future: Any) -> bool:
        try:
            self._dask.wait(future, timeout=LOOKS)
        except self._dask.TimeoutError:
            return False
        return True

    def _told(self, event: tuple[float, Any]) -> None:
        """Of what a worker says, in Dask's own thread."""
        _, said = event
        tells = self._tells.get(said["of"])
        if tells is not None:
            tells(said["told"])

    def aside(self, worker: str, function: Callable[..., Any], given: Any) -> Any:
        """The same at once, beside what the worker does, for this command or another."""
        if worker not in self.present():  # else Dask tries to reach it for half a minute
            raise ServerGone("its Dask worker has ended.")
        try:
            return self._client.run(on_dask.at_once, function, *given, workers=[worker])[worker]
        except (self._dask.TimeoutError, OSError, KeyError) as error:
            raise ServerGone(f"the way to its Dask worker broke ({error}).") from error
        except Exception as error:  # whatever the function raised, in a process of other code
            raise _as_here(error) from error

    def _send_code(self) -> None:
        """Scheduler and workers get the room that speaks to servers, those that come later too: on
        their machines the pack may be of another version, or under another name."""
        files = (
            one
            for pattern in ("client/*.py", "client/loras/*.py", "client/near/*.py",
                            "craft_core/__init__.py", "craft_core/errors.py")
            for one in sorted(ROOT.glob(pattern))
        )  # fmt: skip
        code = {file.relative_to(ROOT).as_posix(): file.read_bytes() for file in files}
        names = {"CODE": hashlib.sha256(repr(code).encode()).hexdigest()}
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, f"{PACKAGE}.zip")
            with zipfile.ZipFile(path, "w") as archive:
                archive.writestr(f"{PACKAGE}/__init__.py", f"CODE = {names['CODE']!r}\n")
                for name, content in code.items():
                    archive.writestr(f"{PACKAGE}/{name}", content)
            self._client.run_on_scheduler(exec, FORGET, names)
            self._client.run(exec, FORGET, names)
            plugins = importlib.import_module("distributed.diagnostics.plugin")
            for kind in (plugins.SchedulerUploadFile, plugins.UploadFile):
                self._client.register_plugin(kind(str(path)), name=PACKAGE)

    def _gone(self, error: object) -> ServerGone:
        return ServerGone(f"the Dask scheduler {self._address} does not answer ({error}).")


def _as_here(error: BaseException) -> RemoteError:
    """What a worker raised, of the class that this process has: the worker's is another one of the
    same name where a command of another version renewed the code beside a job that ran."""
    if isinstance(error, RemoteError):
        return error
    names = {(one.__module__, one.__qualname__) for one in type(error).__mro__}
    for own in (ServerGone, RemoteError):
        if (own.__module__, own.__qualname__) in names:
            return own(str(error))
    return RemoteError(f"its Dask worker failed ({type(error).__name__}: {error}).")


@dataclass(frozen=True)
class _Worker:
    fleet: DaskWorkers
    name: str

    def call(
        self, function: Callable[..., Any], *given: Any, key: str = "", tells: Tells | None = None
    ) -> Any:
        return self.fleet.call(self.name, function, given, key, tells)

    def aside(self, function: Callable[..., Any], *given: Any) -> Any:
        return self.fleet.aside(self.name, function, given)
