"""How a LoRA is announced to a server: what sender and receiver agree on, read from a request.

Whoever reaches a server can ask this. Nothing of a request is used before it is seen to be sound.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from ...craft_core.errors import CraftError
from .file_names import is_device

RECEIVE = "/craft_lora/receive"  # the pack's route; a POST without a body offers a file
VARIABLE = "CRAFT_LORA_RECEIVE"  # of the receiver's environment: how many bytes it takes
BODY = "application/octet-stream"  # a page of another site cannot send it unasked
SUFFIX = ".safetensors"
LONGEST, LONGEST_PART, DEEPEST = 400, 200, 8  # characters of a name, bytes and number of its parts
# What the receiver answers to an offer, or to a file.
THERE, MADE, SEND, RECEIVED = "there", "made", "send", "received"

_UNITS = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_LIMIT = re.compile(r"([0-9]{1,6}(?:\.[0-9]{1,3})?) ?([KMGT]B)", re.IGNORECASE)
_HASH = re.compile(r"[0-9a-f]{64}")
_WHOLE = re.compile(r"[0-9]{1,15}")
_NOWHERE = re.compile(r'[\\:<>"|?*]')  # in no name on Windows, or more than a name there


@dataclass(frozen=True)
class Announced:
    """A file that is offered or sent. parts: of its name, the folders first. size: its bytes.
    length: of the body, 0 for an offer."""

    parts: tuple[str, ...]
    sha256: str
    size: int
    length: int

    @property
    def name(self) -> str:
        return "/".join(self.parts)


def announced(query: Mapping[str, str], headers: Mapping[str, str]) -> Announced:
    """What a request announces; CraftError for one that is not sound, or that a browser sent."""
    _require_program(headers)
    sha256, size = query.get("sha256", ""), query.get("bytes", "")
    length = headers.get("Content-Length", "")
    if not _HASH.fullmatch(sha256) or not _WHOLE.fullmatch(size) or int(size) == 0:
        raise CraftError(
            f"A file is announced with the hash {sha256[:80]!r} and {size[:30]!r} bytes",
            "The hash is its SHA-256 in 64 small hexadecimal digits, and it is not empty",
            "Send it with the command queue and --send-loras",
        )
    if not _WHOLE.fullmatch(length) or int(length) not in (0, int(size)):
        raise CraftError(
            f"{int(size)} bytes are announced, and a body of {length[:30] or 'no known length'}",
            "The header Content-Length states the file's bytes, or 0 for an offer",
            "Send it with the command queue and --send-loras",
        )
    return Announced(lora_parts(query.get("name", "")), sha256, int(size), int(length))


def _require_program(headers: Mapping[str, str]) -> None:
    """CraftError for what a web page can send, and for bodies that are more than they state."""
    by_page = any(name.lower() == "origin" or name.lower().startswith("sec-fetch-")
                  for name in headers)  # fmt: skip
    kind = headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if by_page or kind != BODY:
        raise CraftError(
            "A web page, or another program than the command line, sends a LoRA",
            f"Only requests of the type {BODY} that no browser makes are taken",
            "Send it with the command queue and --send-loras, or put the file there by hand",
        )
    if headers.get("Content-Encoding") or headers.get("Transfer-Encoding"):
        raise CraftError(
            "A LoRA is sent compressed or in parts of unknown length",
            "A body is the file as it is, and its length is known at the beginning",
            "Send it with the command queue and --send-loras, and look at proxies on the way",
        )


def lora_parts(name: str) -> tuple[str, ...]:
    """The parts of a name under which a LoRA may be put into a folder, on any system; CraftError
    for another one."""
    why = _why_not(name)
    if why:
        raise CraftError(
            f"{name[:200]!r} is no name for a LoRA that is sent: {why}",
            f"It is a path inside the loras folder that ends in {SUFFIX}, such as "
            f"style/ink{SUFFIX}",
            "Rename the file, or put it there by hand",
        )
    return tuple(name.split("/"))


def _why_not(name: str) -> str:
    parts = name.split("/")
    if not name.isprintable():
        return "it has characters that are not shown"
    if len(name) > LONGEST or len(parts) > DEEPEST:
        return f"it has more than {LONGEST} characters or {DEEPEST} parts"
    if _NOWHERE.search(name):
        return 'it has one of \\ : < > " | ? *'
    if any(not part or part[0] in ". " or part[-1] in ". " for part in parts):
        return "a part of it is empty, or begins or ends with a point or a space"
    if any(map(is_device, parts)):
        return "it is a device on Windows"
    if any(len(part.encode()) > LONGEST_PART for part in parts):
        return f"a part of it has more than {LONGEST_PART} bytes"
    return "" if name.lower().endswith(SUFFIX) else f"it does not end in {SUFFIX}"


def limit_of(text: str) -> int:
    """How many bytes a receiver takes, by VARIABLE; 0 for none. CraftError for another text."""
    text = text.strip()
    found = _LIMIT.fullmatch(text)
    if text and text != "0" and found is None:
        raise CraftError(
            f"{VARIABLE} is {text[:60]!r}, so no LoRAs are received",
            "It is a number with KB, MB, GB or TB, such as 2GB",
            "Correct it and start ComfyUI again",
        )
    return round(float(found[1]) * _UNITS[found[2].upper()]) if found else 0
