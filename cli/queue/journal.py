"""What became of each job, a line for each, so that the same command goes on where it stopped."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ...client.answers import NoJson, parse_json
from ...client.client import is_id
from ...craft_core.errors import CraftError
from .matrix import Job

NAME = "queue.jsonl"
MOST_LINE = 1 << 23  # bytes; the longest that is written names all files of a job
MOST_CUT = 100_000  # lines that cannot be read; each stop of a computer leaves one
QUEUED, DONE, FAILED = "queued", "done", "failed"


def _wrong(line: Any) -> str:
    """What makes a line no line of a journal; empty for one that is."""
    if not isinstance(line, dict):
        return "a line is no table"
    if not (isinstance(line.get("job"), str) and isinstance(line.get("state"), str)):
        return "a line has no job or no state"
    if not isinstance(line.get("server", ""), str):
        return "a line's server is no text"
    files, ids = (
        line.get("files", []),
        [line[one] for one in ("client", "prompt_id") if one in line],
    )
    if not (isinstance(files, list) and all(_is_name(name) for name in files)):
        return "a line's files are no names of files"
    if not all(isinstance(one, str) and is_id(one) for one in ids):
        return "a line's client or prompt_id is no id"
    return ""


def _is_name(name: Any) -> bool:
    return isinstance(name, str) and bool(name) and not set(name) & set("/\\\0")


class Journal:
    """The journal of an output folder; `client` is the id under which its jobs were queued.

    CraftError for a file that is no journal; OSError.
    """

    def __init__(self, folder: Path, new_client: str) -> None:
        self._folder, self._file = folder, folder / NAME
        self._last: dict[str, dict[str, Any]] = {}
        self.client = new_client
        self._cut = False  # whether the last line lacks its end
        for line in self._lines():
            self._last[line["job"]] = line
            self.client = line.get("client", self.client)

    def _lines(self) -> Iterator[dict[str, Any]]:
        if not self._file.exists():
            return
        cut = 0
        with self._file.open("rb") as file:
            while text := file.readline(MOST_LINE + 1):
                self._cut = not text.endswith(b"\n")
                if len(text) > MOST_LINE:
                    raise self._no_journal(f"a line has more than {MOST_LINE} bytes")
                try:
                    line = parse_json(text)
                except NoJson:  # cut off when the computer stopped
                    cut += 1
                    if cut > MOST_CUT:
                        raise self._no_journal(f"more than {MOST_CUT} lines are no JSON") from None
                    continue
                wrong = _wrong(line)
                if wrong:
                    raise self._no_journal(wrong)
                yield line

    def _no_journal(self, reason: str) -> CraftError:
        return CraftError(
            f"{self._file} is not a journal of this command: {reason}",
            "The output folder keeps one",
            "Give another folder with --out",
        )

    def is_done(self, job: Job) -> bool:
        """Whether a job has ended well and all its files are still there."""
        line = self._last.get(job.key, {})
        files = line.get("files", [])
        return line.get("state") == DONE and all((self._folder / name).is_file() for name in files)

    def prompt_id(self, job: Job) -> str | None:
        """The id of a job that was queued and whose end was not seen yet; None for others."""
        line = self._last.get(job.key, {})
        return line.get("prompt_id") if line.get("state") == QUEUED else None

    def server(self, job: Job) -> str | None:
        """The server that such a job was given to, where the command had several."""
        return self._last.get(job.key, {}).get("server")

    def files(self, job: Job) -> list[str]:
        """The names of a done job's files."""
        return self._last[job.key].get("files", [])

    def queued(self, job: Job, prompt_id: str, server: str | None = None) -> None:
        """server: which one, where there are several."""
        where = {} if server is None else {"server": server}
        self._write(job, QUEUED, prompt_id=prompt_id, client=self.client, **where)

    def done(self, job: Job, files: list[str]) -> None:
        self._write(job, DONE, files=files)

    def failed(self, job: Job, error: str) -> None:
        self._write(job, FAILED, error=error)

    def _write(self, job: Job, state: str, **more: Any) -> None:
        line = {"job": job.key, "parameters": dict(job.parameters), "state": state, **more}
        self._last[job.key] = line
        # Half characters of a name that is no UTF-8 are written as JSON's own \\udc80.
        text = ("\n" if self._cut else "") + json.dumps(line, ensure_ascii=False) + "\n"
        self._cut = True  # as long as it is not seen to be whole: the disk may be full
        with self._file.open("a", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text)
        self._cut = False
