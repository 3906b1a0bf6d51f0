"""What became of each job, a line for each, so that the same command goes on where it stopped."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ...craft_core.errors import CraftError
from .matrix import Job

NAME = "queue.jsonl"
QUEUED, DONE, FAILED = "queued", "done", "failed"


class Journal:
    """The journal of an output folder; `client` is the id under which its jobs were queued."""

    def __init__(self, folder: Path, new_client: str) -> None:
        self._folder, self._file = folder, folder / NAME
        self._last: dict[str, dict[str, Any]] = {}
        self.client = new_client
        self._cut = False  # whether the last line lacks its end
        for line in self._lines():
            self._last[line["job"]] = line
            self.client = line.get("client", self.client)

    def _lines(self) -> Iterator[dict[str, Any]]:
        if not self._file.is_file():
            return
        content = self._file.read_text("utf-8")
        self._cut = bool(content) and not content.endswith("\n")
        for text in content.split("\n"):
            try:
                line = json.loads(text)
            except json.JSONDecodeError:  # cut off when the computer stopped
                continue
            if not (isinstance(line, dict) and "job" in line and "state" in line):
                raise CraftError(
                    f"{self._file} is not a journal of this command",
                    "The output folder keeps one",
                    "Give another folder with --out",
                )
            yield line

    def is_done(self, job: Job) -> bool:
        """Whether a job has ended well and all its files are still there."""
        line = self._last.get(job.key, {})
        files = line.get("files", [])
        return line.get("state") == DONE and all((self._folder / name).is_file() for name in files)

    def prompt_id(self, job: Job) -> str | None:
        """The id of a job that was queued and whose end was not seen yet; None for others."""
        line = self._last.get(job.key, {})
        return line["prompt_id"] if line.get("state") == QUEUED else None

    def queued(self, job: Job, prompt_id: str) -> None:
        self._write(job, QUEUED, prompt_id=prompt_id, client=self.client)

    def done(self, job: Job, files: list[str]) -> None:
        self._write(job, DONE, files=files)

    def failed(self, job: Job, error: str) -> None:
        self._write(job, FAILED, error=error)

    def _write(self, job: Job, state: str, **more: Any) -> None:
        line = {"job": job.key, "parameters": dict(job.parameters), "state": state, **more}
        self._last[job.key] = line
        with self._file.open("a", encoding="utf-8") as file:
            file.write(("\n" if self._cut else "") + json.dumps(line, ensure_ascii=False) + "\n")
        self._cut = False
