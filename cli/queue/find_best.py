"""`find-best`: a workflow's Find Best Settings on a running ComfyUI, without its page."""

from __future__ import annotations

import math
import sys
import uuid
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ...client.address import Inputs
from ...client.answers import files_of, number, other_answer
from ...client.client import Client, PromptResult, server_url
from ...client.errors import RemoteError, in_words
from ...client.events import Events
from ...client.facts import as_listed
from ...client.from_page.dynamic_prompts import with_draws
from ...client.workflow import dynamic_texts, read_both
from ...craft_core.errors import CraftError, plain
from ...craft_core.writing import Taken, write_whole
from ..command import PROGRAM, Command, epilog
from ..progress import progress_bar
from .command import SERVER
from .hosts.results import is_link
from .matrix import prompt_key

NODE = "CRAFTFindBest"
WATCHERS = {  # what shows each output, so that the server runs it: a node's type and its input
    "plot": ("PreviewImage", "images"),
    "preset": ("PreviewAny", "source"),
    "report": ("PreviewAny", "source"),
}
_MOST_SHOWN = 20_000  # characters of the report on the terminal; its file has all
FILES = {"plot": "plot.png", "preset": "preset.json", "report": "report.txt"}
SO_FAR = {"preset": "preset_so_far.json", "report": "report_so_far.txt"}  # of a stopped search
NOTICE = "craft_lora.notice"  # the event by which the node says it: comfy_adapter/page/notice.py
STOPPING = 60.0  # seconds in which a server that is told to stop may say what was found


def _add_flags(parser: ArgumentParser) -> None:
    parser.add_argument(
        "workflow", metavar="FILE", type=Path,
        help="A workflow with one Find Best Settings, as the page saves it or exports it as API.",
    )  # fmt: skip
    parser.add_argument(
        "--set", metavar="NODE.INPUT=VALUE", action="append", default=[],
        help="Set an input of the node or of one that leads to it, as in queue: budget=200, "
        "content_weight=0.7; may be repeated.",
    )  # fmt: skip
    parser.add_argument(
        "--server", metavar="URL", default=SERVER,
        help="The ComfyUI that runs. Default: %(default)s.",
    )  # fmt: skip
    parser.add_argument(
        "--out", metavar="FOLDER", type=Path, default=None,
        help=f"Where {', '.join(FILES.values())} go; of a search that is stopped "
        f"{', '.join(SO_FAR.values())}. Default: find_best_NAME in this folder, after FILE.",
    )  # fmt: skip


def _run(options: Namespace) -> None:
    folder = options.out or Path(f"find_best_{options.workflow.stem}")
    for name in FILES.values():
        if (folder / name).exists():
            raise Taken(folder / name)
    client = Client(server_url(options.server))
    try:
        with in_words():
            info = client.object_info()
            whole, page = read_both(options.workflow, info)
            prompt, node = search_alone(whole, options.workflow)
            inputs = Inputs(prompt, info)
            prompt = inputs.with_values(dict(map(inputs.read, options.set)))
            dynamic = [one for one in dynamic_texts(page, info) if one[0] in prompt] if page else []
            prompt = with_draws(prompt, dynamic, prompt_key(prompt))
            prompt |= _watchers(info[NODE], node)
            with SearchProgress(node) as show, _kept_if_it_ends_early(show, folder):
                result = _result(client, prompt, show)
            print(plain(_save(client, result, folder), _MOST_SHOWN))
            print(plain(str(folder.absolute())))
    except RemoteError as error:
        raise CraftError(
            f"The search failed: {error}",
            "It runs on a ComfyUI that is up and has this pack; pictures that were scored are kept",
            "Start it, give its address with --server, and run the same command again",
        ) from error


def _watchers(schema: dict[str, Any], node: str) -> dict[str, Any]:
    """What shows each output of the search, by the name of the output."""
    slots = schema.get("output_name")
    if not (isinstance(slots, list) and all(name in slots for name in WATCHERS)):
        raise other_answer("/object_info", f"{NODE} has no {', no '.join(WATCHERS)}")
    return {
        name: {"class_type": kind, "inputs": {entry: [node, slots.index(name)]}}
        for name, (kind, entry) in WATCHERS.items()
    }


def search_alone(prompt: dict[str, Any], file: Path) -> tuple[dict[str, Any], str]:
    """(the one Find Best Settings and all that leads to it, its id). CraftError for none or two."""
    found = [name for name, node in prompt.items() if node["class_type"] == NODE]
    if len(found) != 1:
        raise CraftError(
            f"{file} has {len(found) or 'no'} Find Best Settings",
            "The workflow has one",
            "Give another, such as workflows/find_best_small_world.json of this pack",
        )
    kept: set[str] = set()
    ahead = [found[0]]
    while ahead:
        name = ahead.pop()
        if name not in kept:
            kept.add(name)
            ahead += _sources(prompt, name)
    return {name: node for name, node in prompt.items() if name in kept}, found[0]


def _sources(prompt: dict[str, Any], name: str) -> Iterator[str]:
    for value in prompt[name]["inputs"].values():
        if is_link(value) and value[0] in prompt:
            yield value[0]


class SearchProgress:
    """A progress bar over the pictures of the search, on stderr. node: its id in the prompt.

    runs: whether the server has begun with the node. found: what the node has said of a preset that
    it found, by the names of SO_FAR; None while it has not."""

    def __init__(self, node: str) -> None:
        self.runs = False
        self.found: dict[str, str] | None = None
        self._node = node
        self._bar: Any = None
        self._total = 0.0

    def __enter__(self) -> SearchProgress:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()

    def __call__(self, kind: str, data: dict[str, Any]) -> None:
        if data.get("node") != self._node:
            return
        self.runs = True
        report, preset = data.get("text"), data.get("preset")
        if kind == NOTICE and isinstance(report, str) and isinstance(preset, str):
            self.found = {"report": report, "preset": preset}
        total = number(data.get("max"))
        if kind == "progress" and total > 0:
            if self._bar is None:
                self._bar, self._total = progress_bar(total=total, unit="picture"), total
            done = min(max(number(data.get("value")), 0.0), self._total)
            self._bar.update(done - self._bar.n)


@contextmanager
def _kept_if_it_ends_early(show: SearchProgress, folder: Path) -> Iterator[None]:
    """Whatever ends the block early, write and print what the search has found until then. Where it
    cannot be written, that is said; what ended the search goes on up as it is."""
    try:
        yield
    except BaseException:  # also Ctrl-C
        show.close()
        if show.found is not None:
            print(plain(show.found["report"], _MOST_SHOWN))
            try:
                folder.mkdir(parents=True, exist_ok=True)
                for name, file in SO_FAR.items():
                    write_whole(folder / file, [_file_of(show.found[name])])
                print(plain(str((folder / SO_FAR["preset"]).absolute())))
            except (CraftError, OSError, ValueError) as error:
                print(plain(f"It cannot be written to {folder}: {error}"), file=sys.stderr)
        raise


def _result(client: Client, prompt: dict[str, Any], show: SearchProgress) -> PromptResult:
    """What the search gave; Ctrl-C stops it on the server."""
    prompt_id = str(uuid.uuid4())
    try:
        with client.listening() as events:
            prompt_id = client.queue(as_listed(client, prompt), prompt_id=prompt_id)
            try:
                return client.follow(events, prompt_id, show, math.inf)
            except KeyboardInterrupt:
                if show.runs:
                    _last_words(client, events, prompt_id, show)
                raise
    except KeyboardInterrupt as interrupt:
        with suppress(RemoteError):
            client.cancel(prompt_id)
        raise KeyboardInterrupt(
            "Stopped; the pictures that were scored are kept. Run the same command again to go on."
        ) from interrupt


def _last_words(client: Client, events: Events, prompt_id: str, show: SearchProgress) -> None:
    """Stop the search, and hear what it says before it ends, as long as a step of a picture takes.
    Another Ctrl-C ends the wait."""
    show.close()
    print("Stopping; Ctrl-C again waits no longer.", file=sys.stderr, flush=True)
    with suppress(RemoteError):
        client.cancel(prompt_id)
        client.follow(events, prompt_id, show, STOPPING)


def _save(client: Client, result: PromptResult, folder: Path) -> str:
    """Write the three files, in place of those of a search that was stopped; the report."""
    report, preset = _text_of(result, "report"), _text_of(result, "preset")
    plots = files_of(result.outputs.get("plot", {}), "images")
    if len(plots) != 1:
        raise _not_there(result, "plot")
    contents = {
        "plot": client.fetch(plots[0]),
        "preset": _file_of(preset),
        "report": _file_of(report),
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _write({folder / FILES[name]: content for name, content in contents.items()})
    except Taken:
        raise
    except (OSError, ValueError) as error:  # ValueError: no path can be so
        raise CraftError(
            f"{folder} cannot be written to ({getattr(error, 'strerror', None) or error})",
            f"{', '.join(FILES.values())} go there",
            "Make room or give another folder with --out, and run the command again; it is quick",
        ) from error
    for file in SO_FAR.values():
        with suppress(OSError):
            (folder / file).unlink(missing_ok=True)
    return report


def _file_of(text: str) -> bytes:
    return f"{text}\n".encode(errors="replace")


def _text_of(result: PromptResult, name: str) -> str:
    lines = result.outputs.get(name, {}).get("text")
    if not (isinstance(lines, list) and lines and all(isinstance(one, str) for one in lines)):
        raise _not_there(result, name)
    return "\n".join(lines)


def _not_there(result: PromptResult, name: str) -> RemoteError:
    return other_answer(f"/history/{result.prompt_id}", f"the search has no {name}")


def _write(contents: dict[Path, bytes]) -> None:
    """All files or none. OSError; Taken where there is one by then."""
    written: list[Path] = []
    try:
        for path, content in contents.items():
            write_whole(path, [content], exclusive=True)
            written.append(path)
    except BaseException:  # also Ctrl-C
        for path in written:
            path.unlink(missing_ok=True)
        raise


COMMANDS = (
    Command(
        ("find-best",),
        "Search the best settings for a pair of LoRAs on a running ComfyUI.",
        "FILE [--set NODE.INPUT=VALUE] [flags]",
        _add_flags,
        _run,
        epilog(
            (
                f"{PROGRAM} find-best workflows/find_best_small_world.json",
                "--set budget=200 --set content_weight=0.7",
            ),
        ),
        computes=False,
    ),
)
