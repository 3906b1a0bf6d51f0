"""Talk to a ComfyUI server: node list, queue a prompt, follow it, fetch its pictures."""

from __future__ import annotations

import http.client
import json
import math
import re
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from ..craft_core.errors import CraftError
from .answers import (
    NoJson,
    PromptRecord,
    event_of,
    files_of,
    known_nodes,
    other_answer,
    parse_json,
    record_of,
    waiting_ids,
)
from .bodies import MOST_JSON, read_body, require_file
from .errors import Forgotten, RemoteError, ServerGone, in_words
from .events import Events
from .progress import title_of
from .websocket import WebSocket

RECEIVE = 1.0  # seconds without an event after which the history is asked
BUSY = 5.0  # the same while events keep coming
FORGETS = 10.0  # seconds without an event after which the queue is asked, too
WAITING = "waiting"  # told as an event: behind how many prompts ("ahead") this one waits
QUIET = 0.2  # seconds between questions where there are no events to wait for
PATIENCE = 15.0  # seconds after the first break in which a server with a job may break connections
_GATEWAYS = (502, 503, 504)  # what a proxy answers for a server that is gone
Answer = TypeVar("Answer")
_ID = re.compile(r"[\w.-]{1,100}", re.ASCII)
ENDINGS = {"execution_success", "execution_error", "execution_interrupted"}


@dataclass(frozen=True)
class PromptResult:
    """What one prompt gave. `outputs` is node id -> the node's own ui outputs."""

    prompt_id: str
    outputs: dict[str, dict[str, Any]]

    def files(self, kind: str = "images") -> list[dict[str, str]]:
        """The saved pictures in node order; the temporary previews where nothing was saved."""
        return _saved([one for output in self.outputs.values() for one in files_of(output, kind)])

    def all_files(self) -> list[dict[str, str]]:
        """The same for files of every kind: pictures, sound, video, ..."""
        return _saved([one for output in self.outputs.values() for one in files_of(output)])


def _saved(found: list[dict[str, str]]) -> list[dict[str, str]]:
    return [item for item in found if item.get("type") == "output"] or found


class Client:
    """One client of the ComfyUI at a URL.

    alive: whether a server that this program started still runs. client_id: the id of an earlier
    client, whose events this one receives.
    """

    def __init__(
        self, url: str, alive: Callable[[], bool] = lambda: True, client_id: str | None = None
    ):
        self.url = url.rstrip("/")
        self.id = client_id or uuid.uuid4().hex
        self._alive = alive
        # The user's own server is not behind a proxy, whatever the environment says.
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def get(self, path: str, timeout: float = 60.0) -> bytes:
        """The body of a GET; RemoteError for one larger than any answer of the host."""
        with self._opener.open(self.url + path, timeout=timeout) as answer:
            return read_body(answer, MOST_JSON)

    def get_json(self, path: str, timeout: float = 60.0) -> Any:
        """The JSON of a GET; NoJson for another answer."""
        return parse_json(self.get(path, timeout))

    def post_json(self, path: str, body: Any, timeout: float = 60.0) -> Any:
        """The JSON answer of a POST, None for an empty one; HTTPError for a refusal."""
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(self.url + path, json.dumps(body).encode(), headers)
        with self._opener.open(request, timeout=timeout) as answer:
            text = read_body(answer, MOST_JSON)
        return parse_json(text) if text.strip() else None

    def object_info(self) -> dict[str, Any]:
        """Every node the server knows: id -> its inputs and outputs."""
        with in_words():
            return known_nodes(self.ask("/object_info"))

    def node_info(self, kind: str) -> dict[str, Any]:
        """The same of one node alone; empty where the server does not know it."""
        path = f"/object_info/{urllib.parse.quote(kind, safe='', errors='surrogatepass')}"
        answer = self._patiently(lambda: self.ask(path))
        with in_words():
            return known_nodes(answer) if answer else {}

    def ask(self, path: str, timeout: float = 60.0) -> Any:
        """The JSON of a GET; RemoteError for a refusal, ServerGone where there is no answer."""
        with self._asking():
            return self.get_json(path, timeout)

    def fetch(self, item: dict[str, str]) -> bytes:
        """The bytes of one file of a PromptResult; RemoteError where they are no such file."""
        query = {name: item.get(name, "") for name in ("filename", "subfolder", "type")}
        address = f"{self.url}/view?{query_text(query)}"

        def ask() -> bytes:
            with self._asking(), self._opener.open(address, timeout=60.0) as answer:
                content = read_body(answer)
                require_file(query["filename"], answer.headers.get_content_type(), content)
            return content

        return self._patiently(ask)

    def interrupt(self) -> None:
        """Stop what runs now."""
        self.post_json("/interrupt", {})

    def cancel(self, prompt_id: str) -> None:
        """Take one prompt out of the queue, or stop it where it runs."""
        with self._asking():
            self.post_json("/queue", {"delete": [prompt_id]})
            self.post_json("/interrupt", {"prompt_id": prompt_id})

    def queue(
        self,
        prompt: dict[str, Any],
        workflow: dict[str, Any] | None = None,
        prompt_id: str | None = None,
    ) -> str:
        """Queue an API-format prompt, returns its id; RemoteError in the host's words if it, or a
        part of it, is refused.

        `workflow` is the UI format, saved by the host inside the pictures. `prompt_id` is a UUID;
        the server chooses one where it is None.
        """
        body: dict[str, Any] = {"prompt": prompt, "client_id": self.id}
        if workflow is not None:
            body["extra_data"] = {"extra_pnginfo": {"workflow": workflow}}
        if prompt_id is None:
            return self._queue(body)
        body["prompt_id"] = prompt_id
        tried = False

        def ask() -> str:
            """An answer may be lost where the prompt was not, which may have ended by now."""
            nonlocal tried
            if tried:
                waits, record = self._found(prompt_id)
                if waits or record is not None:
                    return prompt_id
            tried = True
            return self._queue(body)

        return self._patiently(ask)

    def _queue(self, body: dict[str, Any]) -> str:
        try:
            with self._asking(refusing=True):
                answer = self.post_json("/prompt", body)
        except urllib.error.HTTPError as error:
            with self._asking():
                refusal = read_body(error, MOST_JSON).decode("utf-8", errors="replace")
            raise RemoteError(explain_refusal(refusal, body["prompt"])) from error
        prompt_id = answer.get("prompt_id") if isinstance(answer, dict) else None
        if not (isinstance(prompt_id, str) and is_id(prompt_id)):
            raise other_answer("/prompt", "it has no prompt_id")
        if answer.get("node_errors"):  # the server would run the other nodes, saying nothing more
            self.cancel(prompt_id)
            raise RemoteError(explain_refusal(json.dumps(answer), body["prompt"]))
        return prompt_id

    def will_finish(self, prompt_id: str) -> bool:
        """Whether the server has this prompt in its queue, or has finished it without an error."""
        waits, record = self._patiently(lambda: self._found(prompt_id))
        return waits if record is None else record.succeeded

    def run(
        self,
        prompt: dict[str, Any],
        *,
        workflow: dict[str, Any] | None = None,
        show: Callable[[str, dict[str, Any]], None] = lambda _kind, _data: None,
        limit: float = 3600.0,
    ) -> PromptResult:
        """Queue a prompt, hand every event about it to `show`, return what it gave.

        RemoteError with the node's own message when a node fails, when the server dies, when it
        is interrupted or takes longer than `limit` seconds.
        """
        with self.listening() as events:
            return self.follow(events, self.queue(prompt, workflow), show, limit)

    @contextmanager
    def listening(self) -> Iterator[Events]:
        """The server's events for this client; begin before queueing, so that none is missed."""
        place = urllib.parse.urlsplit(self.url)
        secure = place.scheme == "https"
        port = place.port or (443 if secure else 80)
        path = f"{place.path}/ws?clientId={urllib.parse.quote(self.id)}"
        with Events(lambda: WebSocket(place.hostname or "", port, path, secure=secure)) as events:
            yield events

    def follow(
        self,
        events: Events,
        prompt_id: str,
        show: Callable[[str, dict[str, Any]], None],
        limit: float,
    ) -> PromptResult:
        """Wait for a queued prompt as `run` does; Forgotten where the server no longer has it."""
        deadline = time.monotonic() + limit
        self._follow(events, prompt_id, show, deadline)
        return self._result(prompt_id, deadline)

    @contextmanager
    def _asking(self, *, refusing: bool = False) -> Iterator[None]:
        """Turns what goes wrong inside the block into a RemoteError. refusing: but for an answer
        that refuses, whose body has yet to be read."""
        with in_words():
            try:
                yield
            except urllib.error.HTTPError as error:
                if refusing and error.code not in _GATEWAYS:
                    raise
                kind = ServerGone if error.code in _GATEWAYS else RemoteError
                raise kind(f"{error.url} was answered by {error.code} {error.reason}.") from error
            except NoJson as error:
                raise ServerGone(f"{self.url} is not a ComfyUI server.") from error
            except (OSError, http.client.HTTPException) as error:
                if not self._alive():
                    raise ServerGone("ComfyUI stopped while it was working.") from error
                reason = getattr(error, "reason", error)
                raise ServerGone(f"the connection to {self.url} broke ({reason}).") from error

    def _patiently(self, ask: Callable[[], Answer]) -> Answer:
        """What `ask` gives, asked again for a while where the server does not answer."""
        end, pause = math.inf, QUIET
        while True:
            try:
                return ask()
            except ServerGone:
                now = time.monotonic()
                end = min(end, now + PATIENCE)
                if not self._alive() or now + pause > end:
                    raise
            time.sleep(pause)
            pause *= 2

    def _follow(
        self,
        events: Events,
        prompt_id: str,
        show: Callable[[str, dict[str, Any]], None],
        deadline: float,
    ) -> None:
        """Read events until the prompt has ended.

        A prompt that is already in the history may still have events to be read. Then its last
        event ends the wait too, or RECEIVE seconds without any.
        """
        ended = self._has_ended(prompt_id)
        asked = look = time.monotonic()  # when the history was asked, and the queue will be
        while True:
            message = events.receive(RECEIVE)
            now = time.monotonic()
            event = None if message is None else event_of(message)
            if event is not None and _is_of(event, prompt_id):
                look = now + FORGETS
                show(*event)
                if event[0] in ENDINGS:
                    return
            if message is not None and now - asked < BUSY:
                continue
            if ended:
                return
            self._check_running(deadline)
            ended, asked = self._has_ended(prompt_id), now
            if not ended and now >= look:
                look = now + FORGETS
                ahead = self._ahead(prompt_id)
                if ahead:
                    show(WAITING, {"prompt_id": prompt_id, "ahead": ahead})

    def _has_ended(self, prompt_id: str) -> bool:
        return self._patiently(lambda: self._history(prompt_id)) is not None

    def _ahead(self, prompt_id: str) -> int:
        """How many prompts run before this one; Forgotten for one that is in neither the queue nor
        the history."""
        waiting = self._patiently(self._waiting)
        if prompt_id in waiting:
            return waiting.index(prompt_id)
        if not self._has_ended(prompt_id):
            raise Forgotten
        return 0

    def _check_running(self, deadline: float) -> None:
        if not self._alive():
            raise ServerGone("ComfyUI stopped while it was working.")
        if time.monotonic() > deadline:
            raise RemoteError("the workflow took longer than the time limit.")

    def _found(self, prompt_id: str) -> tuple[bool, PromptRecord | None]:
        """(whether the prompt is in the queue, its record in the history)."""
        # The queue is asked first: a prompt that ends in between is then in the history.
        waits = prompt_id in self._waiting()
        return waits, self._history(prompt_id)

    def _waiting(self) -> list[str]:
        """The prompts that run and wait, in their order."""
        with self._asking():
            return waiting_ids(self.get_json("/queue"))

    def _history(self, prompt_id: str) -> PromptRecord | None:
        """The record of a finished prompt; None while it is queued or running."""
        with self._asking():
            return record_of(self.get_json(f"/history/{urllib.parse.quote(prompt_id)}"), prompt_id)

    def _result(self, prompt_id: str, deadline: float) -> PromptResult:
        """The finished prompt's outputs (the record comes a moment after the last event)."""
        record, asked = self._patiently(lambda: self._history(prompt_id)), time.monotonic()
        while record is None:
            self._check_running(deadline)
            time.sleep(QUIET)
            if time.monotonic() - asked >= FORGETS:
                self._ahead(prompt_id)
                asked = time.monotonic()
            record = self._patiently(lambda: self._history(prompt_id))
        if not record.succeeded:
            raise RemoteError(explain_failure(record.messages))
        return PromptResult(prompt_id, record.outputs)


def _is_of(event: tuple[str, dict[str, Any]], prompt_id: str) -> bool:
    """Whether a server tells it of the prompt; WAITING is said here alone."""
    return event[1].get("prompt_id") == prompt_id and event[0] != WAITING


def query_text(values: Mapping[str, Any]) -> str:
    """The query of an address. Half a character, as a file's name that is no UTF-8 may have one,
    is the server's to refuse."""
    return urllib.parse.urlencode(values, errors="surrogatepass")


def is_id(text: str) -> bool:
    """Whether a text is an id of a prompt or a client: one that may stand in an address."""
    return _ID.fullmatch(text) is not None


def server_url(given: str) -> str:
    """A server as users write it (`host:8188`, `https://host/path`) as a URL."""
    url = given if "://" in given else f"http://{given}"
    try:
        place = urllib.parse.urlsplit(url)
        host = (place.hostname or "").encode("idna")
        sound = place.scheme in ("http", "https") and host and (place.port or True)
    except ValueError:  # a port that is no number, a name that no network knows
        sound = False
    sound = sound and url.isprintable() and " " not in url
    if not sound:
        raise CraftError(
            f"{given!r} is no server's address",
            "It is a URL such as http://127.0.0.1:8188",
            "Copy it from the browser that shows ComfyUI's page",
        )
    return url.rstrip("/")


def explain_refusal(refusal: str, prompt: dict[str, Any]) -> str:
    """What the host said when it refused a prompt: one line for each node at fault."""
    try:
        answer = parse_json(refusal)
    except NoJson:
        answer = None
    if not isinstance(answer, dict):
        return f"ComfyUI refused the workflow: {refusal.strip()[:300]}"
    reports = answer.get("node_errors")
    lines = [
        f"{_title(prompt, node_id, report)}: {_sentence(error)}"
        for node_id, report in (reports.items() if isinstance(reports, dict) else ())
        for error in _listed(report, "errors")
    ]
    return "ComfyUI refused the workflow: " + "\n  ".join(lines or [_sentence(answer.get("error"))])


def _listed(table: Any, name: str) -> list[Any]:
    found = table.get(name) if isinstance(table, dict) else None
    return found if isinstance(found, list) else []


def _sentence(error: Any) -> str:
    if not isinstance(error, dict):
        return str(error or "it did not say why.")
    message, details = str(error.get("message", "")), str(error.get("details", "")).strip()
    return f"{message}: {details}" if details else message


def _title(prompt: dict[str, Any], node_id: str, report: Any) -> str:
    kind = str(report.get("class_type", "")) if isinstance(report, dict) else ""
    return f"node {node_id} ({title_of(prompt.get(node_id) or {}) or kind})"


def explain_failure(messages: list[tuple[str, dict[str, Any]]]) -> str:
    """Why a prompt that was running did not finish, in the failing node's own words."""
    for kind, data in messages:
        if kind == "execution_error":
            node = f"node {data.get('node_id')} ({data.get('node_type')})"
            return f"{node} failed: {str(data.get('exception_message', '')).strip()}"
        if kind == "execution_interrupted":
            return "the run was interrupted."
    return "the run failed; the server's log has the reason."
