"""Talk to a ComfyUI server: node list, queue a prompt, follow it, fetch its pictures."""

from __future__ import annotations

import http.client
import json
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from ..craft_core.errors import CraftError
from .bodies import MOST_JSON, read_body, require_file
from .errors import RemoteError, ServerGone
from .progress import title_of
from .websocket import WebSocket

RECEIVE = 1.0  # seconds without an event after which the history is asked
QUIET = 0.2  # seconds between questions where there are no events to wait for
ENDINGS = {"execution_success", "execution_error", "execution_interrupted"}


@dataclass(frozen=True)
class PromptResult:
    """What one prompt gave. `outputs` is node id -> the node's own ui outputs."""

    prompt_id: str
    outputs: dict[str, dict[str, Any]]

    def files(self, kind: str = "images") -> list[dict[str, str]]:
        """The saved pictures in node order; the temporary previews where nothing was saved."""
        return _saved([item for output in self.outputs.values() for item in output.get(kind, [])])

    def all_files(self) -> list[dict[str, str]]:
        """The same for files of every kind: pictures, sound, video, ..."""
        lists = [items for output in self.outputs.values() for items in output.values()]
        found = [item for items in lists if isinstance(items, list) for item in items]
        return _saved([item for item in found if isinstance(item, dict) and "filename" in item])


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
        """The JSON of a GET."""
        return json.loads(self.get(path, timeout))

    def post_json(self, path: str, body: Any, timeout: float = 60.0) -> Any:
        """The JSON answer of a POST, None for an empty one; HTTPError for a refusal."""
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(self.url + path, json.dumps(body).encode(), headers)
        with self._opener.open(request, timeout=timeout) as answer:
            text = read_body(answer, MOST_JSON)
        return json.loads(text) if text.strip() else None

    def object_info(self) -> dict[str, Any]:
        """Every node the server knows: id -> its inputs and outputs."""
        with self._asking():
            return self.get_json("/object_info")

    def fetch(self, item: dict[str, str]) -> bytes:
        """The bytes of one file of a PromptResult; RemoteError where they are no such file."""
        query = {name: item.get(name, "") for name in ("filename", "subfolder", "type")}
        address = f"{self.url}/view?{urllib.parse.urlencode(query)}"
        with self._asking(), self._opener.open(address, timeout=60.0) as answer:
            content = read_body(answer)
            require_file(query["filename"], answer.headers.get_content_type(), content)
        return content

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
        if prompt_id is not None:
            body["prompt_id"] = prompt_id
        if workflow is not None:
            body["extra_data"] = {"extra_pnginfo": {"workflow": workflow}}
        try:
            answer = self.post_json("/prompt", body)
        except urllib.error.HTTPError as error:
            refusal = read_body(error, MOST_JSON).decode("utf-8", errors="replace")
            raise RemoteError(explain_refusal(refusal, prompt)) from error
        if answer.get("node_errors"):  # the server would run the other nodes, saying nothing more
            self.cancel(answer["prompt_id"])
            raise RemoteError(explain_refusal(json.dumps(answer), prompt))
        return answer["prompt_id"]

    def will_finish(self, prompt_id: str) -> bool:
        """Whether the server has this prompt in its queue, or has finished it without an error."""
        with self._asking():
            # The queue is asked first: a prompt that ends in between is then in the history.
            waiting = self.get_json("/queue")
            record = self._history(prompt_id)
        if record is not None:
            return _succeeded(record)
        lists = (waiting.get("queue_running") or [], waiting.get("queue_pending") or [])
        return any(item[1] == prompt_id for items in lists for item in items)

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
    def listening(self) -> Iterator[WebSocket]:
        """The server's events for this client; begin before queueing, so that none is missed."""
        place = urllib.parse.urlsplit(self.url)
        secure = place.scheme == "https"
        port = place.port or (443 if secure else 80)
        path = f"{place.path}/ws?clientId={self.id}"
        with self._asking(), WebSocket(place.hostname or "", port, path, secure=secure) as events:
            yield events

    def follow(
        self,
        events: WebSocket,
        prompt_id: str,
        show: Callable[[str, dict[str, Any]], None],
        limit: float,
    ) -> PromptResult:
        """Wait for a queued prompt as `run` does."""
        deadline = time.monotonic() + limit
        self._follow(events, prompt_id, show, deadline)
        return self._result(prompt_id, deadline)

    @contextmanager
    def _asking(self) -> Iterator[None]:
        """Turns what goes wrong inside the block into a RemoteError."""
        try:
            yield
        except urllib.error.HTTPError as error:
            raise RemoteError(
                f"{error.url} was answered by {error.code} {error.reason}."
            ) from error
        except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
            raise ServerGone(f"{self.url} is not a ComfyUI server.") from error
        except (OSError, http.client.HTTPException) as error:
            if not self._alive():
                raise ServerGone("ComfyUI stopped while it was working.") from error
            reason = getattr(error, "reason", error)
            raise ServerGone(f"the connection to {self.url} broke ({reason}).") from error

    def _follow(
        self,
        events: WebSocket,
        prompt_id: str,
        show: Callable[[str, dict[str, Any]], None],
        deadline: float,
    ) -> None:
        """Read events until the prompt has ended.

        A prompt that is already in the history may still have events to be read. Then its last
        event ends the wait too, or RECEIVE seconds without any.
        """
        ended = self._history(prompt_id) is not None
        while True:
            message = events.receive(RECEIVE)
            if message is None:
                if ended:
                    return
                ended = self._history(prompt_id) is not None
                self._check_running(deadline)
                continue
            event = json.loads(message)
            kind, data = event.get("type", ""), event.get("data") or {}
            if data.get("prompt_id") != prompt_id:
                continue
            show(kind, data)
            if kind in ENDINGS:
                return

    def _check_running(self, deadline: float) -> None:
        if not self._alive():
            raise ServerGone("ComfyUI stopped while it was working.")
        if time.monotonic() > deadline:
            raise RemoteError("the workflow took longer than the time limit.")

    def _history(self, prompt_id: str) -> dict[str, Any] | None:
        """The record of a finished prompt; None while it is queued or running."""
        return self.get_json(f"/history/{prompt_id}").get(prompt_id)

    def _result(self, prompt_id: str, deadline: float) -> PromptResult:
        """The finished prompt's outputs (the record comes a moment after the last event)."""
        record = self._history(prompt_id)
        while record is None:
            self._check_running(deadline)
            time.sleep(QUIET)
            record = self._history(prompt_id)
        if not _succeeded(record):
            messages = (record.get("status") or {}).get("messages") or []
            raise RemoteError(explain_failure(messages))
        return PromptResult(prompt_id, record.get("outputs") or {})


def _succeeded(record: dict[str, Any]) -> bool:
    return (record.get("status") or {}).get("status_str") == "success"


def server_url(given: str) -> str:
    """A server as users write it (`host:8188`, `https://host/path`) as a URL."""
    url = given if "://" in given else f"http://{given}"
    place = urllib.parse.urlsplit(url)
    try:
        sound = place.scheme in ("http", "https") and place.hostname and (place.port or True)
    except ValueError:  # a port that is no number
        sound = False
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
        answer = json.loads(refusal)
    except json.JSONDecodeError:
        return f"ComfyUI refused the workflow: {refusal.strip()[:300]}"
    lines = []
    for node_id, report in (answer.get("node_errors") or {}).items():
        title = _title(prompt, node_id, report.get("class_type", ""))
        for error in report.get("errors", []):
            lines.append(f"{title}: {_sentence(error)}")
    if not lines:
        error = answer.get("error") or {}
        lines = [_sentence(error) if isinstance(error, dict) else str(error)]
    return "ComfyUI refused the workflow: " + "\n  ".join(lines)


def _sentence(error: dict[str, Any]) -> str:
    message, details = str(error.get("message", "")), str(error.get("details", "")).strip()
    return f"{message}: {details}" if details else message


def _title(prompt: dict[str, Any], node_id: str, kind: str) -> str:
    return f"node {node_id} ({title_of(prompt.get(node_id) or {}) or kind})"


def explain_failure(messages: list[Any]) -> str:
    """Why a prompt that was running did not finish, in the failing node's own words."""
    for kind, data in messages:
        if kind == "execution_error":
            node = f"node {data.get('node_id')} ({data.get('node_type')})"
            return f"{node} failed: {str(data.get('exception_message', '')).strip()}"
        if kind == "execution_interrupted":
            return "the run was interrupted."
    return "the run failed; the server's log has the reason."
