"""What a server says of itself: versions, the nodes of some prompts, model files, free memory.

Two servers that say the same of the same things may still draw differently, as on other cards.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from .answers import NoJson, number, parse_json
from .client import Client, query_text
from .errors import RemoteError, ServerGone
from .widgets import Json, all_inputs, choices_of, kind_of, same_files, with_chosen, with_nested

FILES = "/craft_lora/files"  # the pack's route; ComfyUI itself tells no hash of a model file
SUFFIXES = (".safetensors", ".sft", ".gguf", ".ckpt", ".pt", ".pth", ".bin")
LIST, ROWS = "CRAFTLoRAList", "loras"  # the pack's node whose files stand in a JSON text
NO_FILES = ("same", "none")  # what a row says in place of its second file
MISSING = "missing"
HASHING = 1800.0  # seconds in which a server must have read a file

Use = tuple[str, str, str]  # a node's type, its input, the model file that it names


def model_uses(prompt: Json) -> frozenset[Use]:
    """The model files that a prompt names, and where."""
    return frozenset(
        (node["class_type"], name, value)
        for node in prompt.values()
        for name, given in node["inputs"].items()
        for value in _files_in(node["class_type"], name, given)
    )


def _files_in(kind: str, name: str, value: Any) -> Iterator[str]:
    if (kind, name) == (LIST, ROWS):
        yield from _files_of_rows(value)
    elif isinstance(value, str) and value.lower().endswith(SUFFIXES):
        yield value


def _files_of_rows(text: Any) -> Iterator[str]:
    for row in rows_on(text):
        for file in (row.get("lora"), row.get("second_lora")):
            if isinstance(file, str) and file not in ("", *NO_FILES):
                yield file


def rows_on(text: Any) -> list[Json]:
    """The rows of a LoRA List that are on; none of a text that the node would refuse."""
    try:
        rows = parse_json(text) if isinstance(text, str) else []
    except NoJson:
        return []
    found = rows if isinstance(rows, list) else []
    return [row for row in found if isinstance(row, dict) and row.get("on", True)]


def facts_of(client: Client, types: Iterable[str], uses: Iterable[Use]) -> Json:
    """`facts`: name -> what the server says, MISSING for what it lacks. `sizes`: model file ->
    bytes, where it tells. `free`: bytes of its device. `info`: the schemas of the nodes that it
    has. RemoteError; ServerGone."""
    stats = client.ask("/system_stats")
    info = client.object_info()
    about = _of_pack(client, {})
    facts, types = {"ComfyUI": _version(stats)}, sorted(set(types))
    if about:
        facts["CRAFT LoRA"] = str(about.get("version"))
    for one in types:
        names = sorted(name for name, _ in all_inputs(info[one])) if one in info else []
        facts[f"the node {one}"] = f"with {', '.join(names)}" if one in info else MISSING
    sizes: dict[str, float] = {}
    uses = list(uses)
    of_rows = {file for kind, name, file in uses if (kind, name) == (LIST, ROWS)}
    for name, its in _listed(info, uses).items():
        file = _of_pack(client, {"name": its}) if about and its else {}
        if name in of_rows and "sha256" in file and file["sha256"] is None:
            its = ""  # the host lists no files for a text
        facts[name] = str(file.get("sha256") or "there") if its else MISSING
        sizes[name] = number(file.get("bytes"))
    known = {one: info[one] for one in types if one in info}
    return {"facts": facts, "sizes": sizes, "free": _free(stats), "info": known}


def hash_told(client: Client, name: str) -> str | None:
    """The SHA-256 of a model file, where the server's pack tells one. It may have to read the file
    first. RemoteError; ServerGone."""
    told = _of_pack(client, {"name": name}).get("sha256")
    return told if isinstance(told, str) else None


def as_listed(client: Client, prompt: Json, known: Json | None = None) -> Json:
    """The prompt with its model files as the server, which may be of another system, lists them.
    What it does not list stays as it is, and so does all if it does not say. ServerGone.

    known: what it said of its nodes for earlier prompts; what it says now is put there. It is asked
    again about a node only where that did not list a file.
    """
    known = {} if known is None else known
    uses = model_uses(prompt)
    listed = _listed(known, uses)
    kinds = {kind for kind, _, file in uses
             if _has_spellings(file) and (kind not in known or not listed[file])}  # fmt: skip
    known |= {kind: _said_of(client, kind) for kind in sorted(kinds)}
    return with_listed(prompt, known)


def _said_of(client: Client, kind: str) -> Json:
    """What a server says of a node; empty where it does not. ServerGone."""
    try:
        return client.node_info(kind).get(kind, {})
    except ServerGone:
        raise
    except RemoteError:
        return {}


def with_listed(prompt: Json, info: Json) -> Json:
    """The prompt with its model files as these nodes of a server list them."""
    named = dict(prompt)
    for node_id, node in prompt.items():
        given = node["inputs"]
        respelled = {name: value for name, value in given.items() if _has_spellings(value)}
        if not respelled:
            continue
        specs = with_chosen(all_inputs(info.get(node["class_type"], {})), given)
        new = {name: _name_in(spec, respelled[name]) for name, spec in specs if name in respelled}
        inputs = given | {name: its for name, its in new.items() if its}
        if inputs != given:
            named[node_id] = node | {"inputs": inputs}
    return named


def _has_spellings(value: Any) -> bool:
    """Whether a file's name may be another on another system."""
    return isinstance(value, str) and bool(set(value) & set("/\\") or not value.isascii())


def _listed(info: Json, uses: Iterable[Use]) -> dict[str, str]:
    """Model file -> how the server lists it; empty where a node that takes it does not list it.
    Of entries that bring an input of the same name, it is enough that one lists it."""
    found: dict[str, str] = {}
    schemas: dict[str, dict[str, list[Any]]] = {}  # node's type -> input -> what it may be
    for kind, name, file in sorted(uses):
        if kind not in schemas:
            schemas[kind] = {}
            for own, spec in with_nested(all_inputs(info.get(kind, {}))):
                schemas[kind].setdefault(own, []).append(spec)
        specs = schemas[kind].get(name)
        its = next(filter(None, (_name_in(spec, file) for spec in specs)), "") if specs else file
        found[file] = its if found.get(file, file) else ""
    return found


def _name_in(spec: Any, file: Any) -> str:
    """How a list has a file, empty where it does not; the name itself for another input."""
    if kind_of(spec) != "COMBO" or not isinstance(file, str):
        return file
    found = same_files(file, [one for one in choices_of(spec) if isinstance(one, str)])
    return found[0] if len(found) == 1 else ""


def _of_pack(client: Client, query: dict[str, str]) -> Json:
    """What the pack's route says; empty where the server has no pack that has it."""
    try:
        answer = client.ask(f"{FILES}?{query_text(query)}", HASHING)
    except ServerGone:
        raise
    except RemoteError:
        return {}
    return answer if isinstance(answer, dict) else {}


def _version(stats: Any) -> str:
    system = stats.get("system") if isinstance(stats, dict) else None
    version = system.get("comfyui_version") if isinstance(system, dict) else None
    return str(version or "of an unknown version")


def _free(stats: Any) -> float:
    devices = stats.get("devices") if isinstance(stats, dict) else None
    first = devices[0] if isinstance(devices, list) and devices else None
    return number(first.get("vram_free")) if isinstance(first, dict) else 0.0
