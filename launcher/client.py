"""Talk to a ComfyUI server: node list, queue a prompt, follow it, fetch its pictures."""

import json
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .errors import LaunchError
from .websocket import WebSocket

RECEIVE = 1.0  # seconds without an event after which the history is asked
QUIET = 0.2  # seconds between questions where there are no events to wait for
ENDINGS = {"execution_success", "execution_error", "execution_interrupted"}


@dataclass(frozen=True)
class Result:
    """What one prompt gave. `outputs` is node id -> the node's own ui outputs."""

    prompt_id: str
    outputs: dict[str, dict[str, Any]]

    def files(self, kind: str = "images") -> list[dict[str, str]]:
        """The saved pictures in node order; the temporary previews where nothing was saved."""
        found = [item for output in self.outputs.values() for item in output.get(kind, [])]
        saved = [item for item in found if item.get("type") == "output"]
        return saved or found


class Client:
    """One connection's worth of a ComfyUI server. `alive` tells whether the server still runs."""

    def __init__(self, host: str, port: int, alive: Callable[[], bool] = lambda: True):
        self.id = uuid.uuid4().hex
        self._address = (host, port)
        self._alive = alive
        # The loopback is never behind a proxy, whatever the environment says.
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def get(self, path: str, timeout: float = 60.0) -> bytes:
        """The body of a GET."""
        with self._opener.open(self._url(path), timeout=timeout) as answer:
            return answer.read()

    def get_json(self, path: str, timeout: float = 60.0) -> Any:
        """The JSON of a GET."""
        return json.loads(self.get(path, timeout))

    def post_json(self, path: str, body: Any, timeout: float = 60.0) -> Any:
        """The JSON answer of a POST, None for an empty one; HTTPError for a refusal."""
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(self._url(path), json.dumps(body).encode(), headers)
        with self._opener.open(request, timeout=timeout) as answer:
            text = answer.read()
        return json.loads(text) if text.strip() else None

    def _url(self, path: str) -> str:
        return "http://{}:{}".format(*self._address) + path

    def object_info(self) -> dict[str, Any]:
        """Every node the server knows: id -> its inputs and outputs."""
        return self.get_json("/object_info")

    def fetch(self, item: dict[str, str]) -> bytes:
        """The bytes of one file of a Result."""
        query = {name: item.get(name, "") for name in ("filename", "subfolder", "type")}
        return self.get("/view?" + urllib.parse.urlencode(query))

    def interrupt(self) -> None:
        """Stop what runs now."""
        self.post_json("/interrupt", {})

    def queue(self, prompt: dict[str, Any], workflow: dict[str, Any] | None = None) -> str:
        """Queue an API-format prompt, returns its id; LaunchError in the host's words if refused.

        `workflow` is the UI format, saved by the host inside the pictures.
        """
        body: dict[str, Any] = {"prompt": prompt, "client_id": self.id}
        if workflow is not None:
            body["extra_data"] = {"extra_pnginfo": {"workflow": workflow}}
        try:
            return self.post_json("/prompt", body)["prompt_id"]
        except urllib.error.HTTPError as error:
            refusal = error.read().decode("utf-8", errors="replace")
            raise LaunchError(explain_refusal(refusal, prompt)) from error

    def run(
        self,
        prompt: dict[str, Any],
        *,
        workflow: dict[str, Any] | None = None,
        show: Callable[[str, dict[str, Any]], None] = lambda _kind, _data: None,
        limit: float = 3600.0,
    ) -> Result:
        """Queue a prompt, hand every event about it to `show`, return what it gave.

        LaunchError with the node's own message when a node fails, when the server dies, when it
        is interrupted or takes longer than `limit` seconds.
        """
        deadline = time.monotonic() + limit
        try:
            with WebSocket(*self._address, f"/ws?clientId={self.id}") as events:
                prompt_id = self.queue(prompt, workflow)
                self._follow(events, prompt_id, show, deadline)
        except OSError as error:
            if not self._alive():
                raise LaunchError("ComfyUI stopped while it was working.") from error
            raise LaunchError(f"the connection to ComfyUI broke ({error}).") from error
        return self._result(prompt_id, deadline)

    def _follow(
        self,
        events: WebSocket,
        prompt_id: str,
        show: Callable[[str, dict[str, Any]], None],
        deadline: float,
    ) -> None:
        """Read events until the prompt has ended."""
        while True:
            message = events.receive(RECEIVE)
            if message is None:
                if self._history(prompt_id) is not None:
                    return
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
            raise LaunchError("ComfyUI stopped while it was working.")
        if time.monotonic() > deadline:
            raise LaunchError("the workflow took longer than the time limit.")

    def _history(self, prompt_id: str) -> dict[str, Any] | None:
        """The record of a finished prompt; None while it is queued or running."""
        return self.get_json(f"/history/{prompt_id}").get(prompt_id)

    def _result(self, prompt_id: str, deadline: float) -> Result:
        """The finished prompt's outputs (the record comes a moment after the last event)."""
        record = self._history(prompt_id)
        while record is None:
            self._check_running(deadline)
            time.sleep(QUIET)
            record = self._history(prompt_id)
        status = record.get("status") or {}
        if status.get("status_str") != "success":
            raise LaunchError(explain_failure(status.get("messages") or []))
        return Result(prompt_id, record.get("outputs") or {})


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
    node = prompt.get(node_id) or {}
    title = (node.get("_meta") or {}).get("title") or kind or node.get("class_type", "")
    return f"node {node_id} ({title})"


def explain_failure(messages: list[Any]) -> str:
    """Why a prompt that was running did not finish, in the failing node's own words."""
    for kind, data in messages:
        if kind == "execution_error":
            node = f"node {data.get('node_id')} ({data.get('node_type')})"
            return f"{node} failed: {str(data.get('exception_message', '')).strip()}"
        if kind == "execution_interrupted":
            return "the run was interrupted."
    return "the run failed; the server's log has the reason."
