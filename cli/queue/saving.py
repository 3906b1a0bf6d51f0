"""Files named after their job, and the job written into pictures."""

from __future__ import annotations

import itertools
import json
import os
import re
import struct
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

from ...craft_core.writing import Taken, write_whole
from .matrix import Job
from .parameters import parameters_text

CHUNK = "craft_queue"
SIGNATURE = b"\x89PNG\r\n\x1a\n"
IHDR_END = len(SIGNATURE) + 25  # the header chunk always comes first and is always this long
MOST_VALUE, MOST_PREFIX, MOST_NAME = (
    40,
    20,
    160,
)  # letters, letters, bytes; file systems take names of 255 bytes
MOST_SUFFIX = 16
_PREFIX_BYTES, _SUFFIX_BYTES = 60, 16  # of what a server chooses, whatever its alphabet
_WINDOWS = os.name == "nt"
_MOST_PATH = 259  # letters of a path on Windows
_BEHIND = MOST_PREFIX + MOST_SUFFIX + 8  # letters: /, _ and the prefix, _00001, and the ending
_LEAST_NAME = 20  # bytes
_COUNTED = re.compile(r"_\d+_?$")  # how the host numbers files
_UNSAFE = re.compile(r"[^\w.+-]+")
_ENDINGS = re.compile(r"\.(safetensors|sft|gguf|png|jpe?g|webp)$", re.IGNORECASE)


def most_name(folder: Path) -> int:
    """Bytes of a job's name in a folder: fewer in a deep one on Windows, whose paths are short."""
    if not _WINDOWS:
        return MOST_NAME
    left = _MOST_PATH - len(str(folder.absolute())) - _BEHIND
    return min(MOST_NAME, max(_LEAST_NAME, left))


def stems(
    workflow: str, job: Job, items: Sequence[Mapping[str, str]], most: int = MOST_NAME
) -> list[str]:
    """The names of a job's files without number and ending: `demo_content-dog_seed-3`, followed,
    where nodes save under several prefixes, by the file's own: `demo_content-dog_seed-3_sheet`.
    most: as in file_stem."""
    prefixes = [_COUNTED.sub("", PurePosixPath(item["filename"]).stem) for item in items]
    whole = file_stem(workflow, job.parameters, most)
    several = len(set(prefixes)) > 1
    own = [_cut(_safe(one)[:MOST_PREFIX], _PREFIX_BYTES) for one in prefixes]
    return [f"{whole}_{one}" if several else whole for one in own]


def file_stem(workflow: str, parameters: Mapping[str, str], most: int = MOST_NAME) -> str:
    """Names and values without what file systems refuse, cut where they are long. most: bytes."""
    parts = [_safe(workflow)]
    for name, value in parameters.items():
        parts.append(f"{_safe(name)}-{_safe(_ENDINGS.sub('', value))[:MOST_VALUE]}")
    return _cut("_".join(parts), most).rstrip("._ ")


def _cut(text: str, most: int) -> str:
    """As many letters as fit into so many bytes."""
    return text.encode()[:most].decode(errors="ignore")


def _safe(text: str) -> str:
    return _UNSAFE.sub("_", text).strip("._") or "_"


def save_output(
    content: bytes,
    folder: Path,
    stem: str,
    workflow: str,
    job: Job,
    filename: str,
    first: int = 1,
    hashes: Mapping[str, str] | None = None,
) -> str:
    """Write one file of a job under a name that no file has, by whatever program; returns the name.

    It is the first free one of stem_00001, stem_00002, ..., from the number `first` on. No partial
    file is left. hashes: as in with_job.
    """
    whole = with_job(content, workflow, job, hashes)
    for number in itertools.count(first):
        path = folder / output_name(stem, number, filename)
        if path.exists():
            continue
        try:
            write_whole(path, [whole], exclusive=True)
        except Taken:
            continue
        return path.name
    raise AssertionError("there is always a next number")


def output_name(stem: str, number: int, filename: str) -> str:
    """A numbered name with the ending that the server gave the file."""
    suffix = _UNSAFE.sub("", Path(filename.replace("\\", "/")).suffix.lower())[:MOST_SUFFIX]
    return f"{stem}_{number:05}{_cut(suffix, _SUFFIX_BYTES)}"


def with_job(
    content: bytes, workflow: str, job: Job, hashes: Mapping[str, str] | None = None
) -> bytes:
    """A PNG with two more texts: workflow and parameters of the job as JSON, and its settings in
    the words of another program, where it has such; other files as they are. hashes: model file ->
    SHA-256, of those that are known, for the settings."""
    if not content.startswith(SIGNATURE):
        return content
    before, after = _around(content, workflow, job)
    settings = parameters_text(job.prompt, hashes)
    return before + (_text_chunk("parameters", settings) if settings else b"") + after


def is_with_job(there: bytes, content: bytes, workflow: str, job: Job) -> bool:
    """Whether a file is what with_job makes of the content, whatever settings it says."""
    if not content.startswith(SIGNATURE):
        return there == content
    before, after = _around(content, workflow, job)
    return there.startswith(before) and there[len(before) :].endswith(after)


def _around(content: bytes, workflow: str, job: Job) -> tuple[bytes, bytes]:
    """A PNG with the job as JSON, up to where its settings stand and from there on."""
    facts = {"workflow": workflow, "parameters": dict(job.parameters)}
    return content[:IHDR_END] + _text_chunk(CHUNK, json.dumps(facts)), content[IHDR_END:]


def _text_chunk(keyword: str, text: str) -> bytes:
    """tEXt for a text in Latin-1, else iTXt in UTF-8."""
    try:
        body = b"tEXt" + keyword.encode() + b"\0" + text.encode("latin-1")
    except UnicodeEncodeError:
        body = b"iTXt" + keyword.encode() + b"\0" * 5 + text.encode("utf-8", "replace")
    return struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
