"""LoRAs that are sent to a ComfyUI: taken only where it was asked for, whole, and never over or
outside anything; whoever asks, and whatever breaks."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlencode, urlsplit

import folder_paths
import pytest
import torch
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from craft_lora_pack.client.loras.announced import BODY, RECEIVE, VARIABLE
from craft_lora_pack.comfy_adapter.page import routes
from craft_lora_pack.comfy_adapter.receive import allowance, incoming, places, route
from craft_lora_pack.craft_core import writing
from craft_lora_pack.craft_core.errors import CraftError
from safetensors.torch import save
from server import PromptServer

NAME = "new/ink.safetensors"


def content_of(value: float) -> bytes:
    return save({"a.lora_up.weight": torch.full((64, 4), value),
                 "a.lora_down.weight": torch.full((4, 64), value)})  # fmt: skip


CONTENT, OTHER = content_of(1.0), content_of(2.0)


@pytest.fixture
def loras(tmp_path, monkeypatch) -> Iterator[Path]:
    """Two empty loras folders of a server that takes a megabyte; the first one."""
    folders = [str(tmp_path / "loras"), str(tmp_path / "more")]
    for one in folders:
        os.mkdir(one)
    known = folder_paths.folder_names_and_paths
    monkeypatch.setitem(known, "loras", (folders, known["loras"][1]))
    folder_paths.filename_list_cache.pop("loras", None)
    server = SimpleNamespace(routes=web.RouteTableDef())
    monkeypatch.setattr(PromptServer, "instance", server, raising=False)
    monkeypatch.setattr(route, "_allowance", allowance.Allowance())
    monkeypatch.setattr(allowance, "SPARE", 0)
    monkeypatch.setenv(VARIABLE, "1MB")
    routes.add_page_routes()
    yield Path(folders[0])
    folder_paths.filename_list_cache.pop("loras", None)


def asked(content: bytes, name: str = NAME, body: bytes | None = None, **changes: Any) -> dict:
    """What aiohttp's client takes to send it; body: another one than the file. changes: to the
    query, and headers."""
    query = {"name": name, "sha256": hashlib.sha256(content).hexdigest(),
             "bytes": str(len(content)), **changes.pop("query", {})}  # fmt: skip
    headers = {"Content-Type": BODY, **changes.pop("headers", {})}
    return {"params": query, "data": content if body is None else body, "headers": headers}


def offered(content: bytes, name: str = NAME) -> dict:
    return asked(content, name, b"")


def ask(*questions: dict, at_once: bool = False) -> list[dict[str, Any]]:
    async def answered() -> list[dict[str, Any]]:
        app = web.Application(client_max_size=1000)
        app.add_routes(PromptServer.instance.routes)
        async with TestClient(TestServer(app)) as client:

            async def one(question: dict) -> dict[str, Any]:
                async with client.post(RECEIVE, **question) as answer:
                    assert answer.status == 200
                    return json.loads(await answer.text())

            if at_once:
                return list(await asyncio.gather(*map(one, questions)))
            return [await one(question) for question in questions]

    return asyncio.run(answered())


def files(folder: Path) -> dict[str, bytes]:
    """Everything in the folder, also what is half-written; folders as empty."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else b""
            for path in folder.rglob("*")}  # fmt: skip


def test_a_lora_that_is_sent_is_there_whole_and_listed(loras):
    assert folder_paths.get_filename_list("loras") == []
    assert ask(offered(CONTENT), asked(CONTENT)) == [{"state": "send"}, {"state": "received"}]
    assert files(loras) == {"new": b"", NAME: CONTENT}
    assert [one.replace(os.sep, "/") for one in folder_paths.get_filename_list("loras")] == [NAME]
    assert ask(asked(CONTENT), offered(CONTENT)) == [{"state": "there"}] * 2
    assert files(loras) == {"new": b"", NAME: CONTENT}


@pytest.mark.parametrize("said", ["", "0", "0GB", "  "])
def test_it_is_off_unless_it_is_asked_for(loras, monkeypatch, said):
    monkeypatch.setenv(VARIABLE, said)
    for answer in ask(asked(CONTENT), offered(CONTENT), {"data": b"x"}):
        assert "takes no LoRAs" in answer["error"] and f"{VARIABLE}=2GB" in answer["error"]
    monkeypatch.delenv(VARIABLE)
    assert "takes no LoRAs" in ask(asked(CONTENT))[0]["error"]
    assert files(loras) == {}


def test_a_limit_that_is_none_is_said_and_takes_nothing(loras, monkeypatch):
    monkeypatch.setenv(VARIABLE, "lots")
    assert "'lots', so no LoRAs are received" in ask(asked(CONTENT))[0]["error"]
    assert files(loras) == {}


@pytest.mark.parametrize("name", [
    "", "..", "../a.safetensors", "a/../../b.safetensors", "/etc/a.safetensors",
    "//host/a.safetensors", "C:/a.safetensors", "C:a.safetensors", "..\\a.safetensors",
    "a\0.safetensors", "a\n.safetensors", "a\x1b[31m.safetensors", "\u202egnp.safetensors",
    "a.safetensors/", "a.safetensors ", ".safetensors", ".git/a.safetensors", "a.ckpt", "a.py",
    "a.safetensors.py", "nul.safetensors", "con .safetensors", "a./b.safetensors",
    "a" * 300 + ".safetensors", "a/" * 200 + "a.safetensors", "猫" * 90 + ".safetensors",
    "a.safetensors:stream.safetensors", "a?.safetensors", "\udcff.safetensors",
])  # fmt: skip
def test_a_name_that_leads_elsewhere_is_refused(loras, name):
    question = asked(CONTENT, name.encode("utf-8", "replace").decode())
    (answer,) = ask(question)
    assert "is no name for a LoRA that is sent" in answer["error"]
    assert files(loras) == {} and files(loras.parent) == {"loras": b"", "more": b""}


HEADERS = {
    "a page": {"Origin": "http://127.0.0.1:8188"}, "no origin": {"Origin": "null"},
    "a form": {"Content-Type": "text/plain"},
    "another form": {"Content-Type": "multipart/form-data; boundary=x"},
    "a fetch": {"Sec-Fetch-Site": "same-origin"},
    "JSON": {"Content-Type": "application/json"},
}  # fmt: skip


@pytest.mark.parametrize("who", HEADERS)
def test_no_page_can_send_one(loras, who):
    for question in (asked(CONTENT, headers=HEADERS[who]), asked(CONTENT, body=b"",
                     headers=HEADERS[who])):  # fmt: skip
        assert "A web page, or another program" in ask(question)[0]["error"]
    assert files(loras) == {}


ANNOUNCED = {
    "no hash": {"sha256": ""}, "a short hash": {"sha256": "a" * 63},
    "large digits": {"sha256": "A" * 64}, "no bytes": {"bytes": ""}, "none": {"bytes": "0"},
    "fewer": {"bytes": "10"}, "signed": {"bytes": "-1"}, "many": {"bytes": "9" * 5000},
    "other digits": {"bytes": "١٢"},
}  # fmt: skip


@pytest.mark.parametrize("what", ANNOUNCED)
def test_what_is_not_announced_soundly_is_refused(loras, what):
    (answer,) = ask(asked(CONTENT, query=ANNOUNCED[what]))
    assert "announced" in answer["error"] and files(loras) == {}


def test_a_body_of_unknown_length_or_compressed_is_refused(loras):
    async def pieces():
        yield CONTENT

    assert "unknown length" in ask(asked(CONTENT) | {"data": pieces()})[0]["error"]
    packed = asked(CONTENT, headers={"Content-Encoding": "deflate"})
    assert "compressed" in ask(packed)[0]["error"]
    assert files(loras) == {}


def test_another_content_than_announced_is_not_kept(loras):
    for body in (OTHER, bytes(len(CONTENT))):
        assert "have another hash" in ask(asked(CONTENT, body=body))[0]["error"]
    assert files(loras) == {}


@pytest.mark.parametrize("content", [
    b"x", b"\x80\x04" + b"." * 500, (1 << 62).to_bytes(8, "little") + b"{}", CONTENT[:-1],
    CONTENT + b"more",
])  # fmt: skip
def test_what_is_no_safetensors_file_gets_no_name(loras, content):
    assert "no safetensors file" in ask(asked(content))[0]["error"]
    assert files(loras) == {}


@pytest.mark.parametrize("folder", ["loras", "more"])
def test_a_file_that_is_there_is_never_overwritten_nor_hidden(loras, folder):
    place = loras.parent / folder / NAME
    place.parent.mkdir()
    place.write_bytes(OTHER)
    before = files(loras.parent)
    for answer in ask(asked(CONTENT), offered(CONTENT)):
        assert "another file under the name" in answer["error"]
    assert ask(asked(OTHER), offered(OTHER)) == [{"state": "there"}] * 2
    assert files(loras.parent) == before


def test_what_has_the_name_and_is_no_file_stays(loras):
    (loras / "folder.safetensors").mkdir()
    (loras / "link.safetensors").symlink_to(loras / "nothing")
    (loras / "file").write_bytes(b"mine")
    for name in ("folder.safetensors", "link.safetensors", "file/ink.safetensors"):
        assert "error" in ask(asked(CONTENT, name))[0]
    assert (loras / "link.safetensors").is_symlink() and not (loras / "nothing").exists()
    assert set(files(loras)) == {"folder.safetensors", "link.safetensors", "file"}


def test_a_link_that_leads_out_is_not_followed(loras):
    outside = loras.parent / "outside"
    outside.mkdir()
    (loras / "away").symlink_to(outside)
    (loras / "circle").symlink_to(loras / "circle")
    (loras / "inside").mkdir()
    (loras / "alias").symlink_to(loras / "inside")
    for name in ("away/ink.safetensors", "away/new/ink.safetensors"):
        assert "a link in it leads there" in ask(asked(CONTENT, name))[0]["error"]
    assert "error" in ask(asked(CONTENT, "circle/ink.safetensors"))[0]
    assert files(outside) == {}
    assert ask(asked(CONTENT, "alias/ink.safetensors")) == [{"state": "received"}]
    assert (loras / "inside" / "ink.safetensors").read_bytes() == CONTENT


def test_a_link_between_folders_hides_nothing(loras, monkeypatch):
    """Nor does a folder of models inside another one: the file has several names then."""
    known = folder_paths.folder_names_and_paths
    more = loras.parent / "more"
    for folder in (loras / "inside", loras / "sub", more / "inside"):
        folder.mkdir()
    (loras / "alias").symlink_to(loras / "inside")
    monkeypatch.setitem(known, "other", ([str(loras / "sub"), str(more)], {".safetensors"}))
    for place in (more / "inside" / "ink.safetensors", more / "dog.safetensors"):
        place.write_bytes(OTHER)
    before = files(loras.parent)
    for name in ("alias/ink.safetensors", "sub/dog.safetensors"):
        for answer in ask(asked(CONTENT, name), offered(OTHER, name)):
            assert "which is another file" in answer["error"]
    assert files(loras.parent) == before
    names = ["alias/cat.safetensors", "sub/cat.safetensors"]
    assert ask(*(asked(CONTENT, name) for name in names)) == [{"state": "received"}] * 2


def test_a_folder_that_becomes_a_link_meanwhile_gets_nothing(loras, monkeypatch):
    outside = loras.parent / "outside"
    outside.mkdir()
    flush = writing.PartialFile.flush

    def swapped(self: Any) -> None:
        flush(self)
        (loras / "new").symlink_to(outside)

    monkeypatch.setattr(writing.PartialFile, "flush", swapped)
    assert "a link in it leads there" in ask(asked(CONTENT))[0]["error"]
    assert set(files(loras)) == {"new"} and files(outside) == {}


def test_the_same_content_under_another_name_is_copied_and_not_sent_again(loras):
    """Not linked: who writes over one of the two changes only that."""
    (loras / "old.safetensors").write_bytes(OTHER)
    (loras / "had.safetensors").write_bytes(CONTENT)
    assert ask(offered(CONTENT)) == [{"state": "made"}]
    assert (loras / NAME).read_bytes() == CONTENT
    assert not (loras / NAME).samefile(loras / "had.safetensors")
    assert set(files(loras)) == {"old.safetensors", "had.safetensors", "new", NAME}


def test_a_copy_without_room_leaves_no_folders(loras, monkeypatch):
    (loras / "had.safetensors").write_bytes(CONTENT)
    monkeypatch.setenv(VARIABLE, "1KB")
    assert VARIABLE in ask(offered(CONTENT, "a/b/ink.safetensors"))[0]["error"]
    assert set(files(loras)) == {"had.safetensors"}


def test_a_file_that_is_replaced_before_it_is_copied_gets_no_further_name(loras, monkeypatch):
    had = loras / "had.safetensors"
    had.write_bytes(CONTENT)

    def replaced(one: Any) -> Path | None:
        found = like(one)
        had.write_bytes(OTHER)
        return found

    like = places.like
    monkeypatch.setattr(route, "like", replaced)
    assert "were announced" in ask(offered(CONTENT))[0]["error"]
    assert files(loras) == {"had.safetensors": OTHER}


def test_only_a_few_files_are_read_to_find_the_same_content(loras, monkeypatch):
    monkeypatch.setattr(places, "MOST_LIKE", 2)
    for name, content in {"a": OTHER, "b": content_of(3.0), "c": CONTENT}.items():
        (loras / f"{name}.safetensors").write_bytes(content)
    assert ask(offered(CONTENT)) == [{"state": "send"}]
    monkeypatch.setattr(places, "MOST_LIKE", 3)
    assert ask(offered(CONTENT)) == [{"state": "made"}]


def test_an_offer_without_room_is_refused_before_anything_is_sent(loras, monkeypatch):
    monkeypatch.setenv(VARIABLE, "1KB")
    assert VARIABLE in ask(offered(CONTENT))[0]["error"]
    monkeypatch.setenv(VARIABLE, "1MB")
    monkeypatch.setattr(allowance, "SPARE", 1 << 60)
    assert "MB free" in ask(offered(CONTENT))[0]["error"]
    assert files(loras) == {}


def test_what_cannot_be_tidied_up_is_received_all_the_same(loras, monkeypatch):
    close = writing.PartialFile.close

    def held_open(self: Any) -> None:
        close(self)
        raise PermissionError(13, "another program has it open")

    monkeypatch.setattr(writing.PartialFile, "close", held_open)
    assert ask(asked(CONTENT)) == [{"state": "received"}]
    assert files(loras)[NAME] == CONTENT


def test_all_files_together_stay_below_the_limit(loras, monkeypatch):
    monkeypatch.setenv(VARIABLE, f"{2 * len(CONTENT) / 1000:.3f}KB")
    names = [f"{n}.safetensors" for n in range(3)]
    answers = ask(*(asked(content_of(float(n)), name) for n, name in enumerate(names)))
    assert answers[:2] == [{"state": "received"}] * 2
    assert VARIABLE in answers[2]["error"] and set(files(loras)) == set(names[:2])


def test_what_failed_counts_not(loras, monkeypatch):
    monkeypatch.setenv(VARIABLE, f"{len(CONTENT) // 1000 + 1}KB")
    for _ in range(5):
        ask(asked(CONTENT, body=OTHER))
    assert ask(asked(CONTENT)) == [{"state": "received"}]


def test_the_number_of_files_is_bounded_and_of_those_at_once(loras, monkeypatch):
    monkeypatch.setattr(allowance, "MOST_FILES", 2)
    names = [f"{n}.safetensors" for n in range(3)]
    answers = ask(*(offered(CONTENT, name) if n else asked(CONTENT, name)
                    for n, name in enumerate(names)))  # fmt: skip
    assert answers[:2] == [{"state": "received"}, {"state": "made"}]
    assert "have come to this ComfyUI since" in answers[2]["error"]
    monkeypatch.setattr(allowance, "MOST_AT_ONCE", 0)
    assert "on their way" in ask(asked(OTHER, "b.safetensors"))[0]["error"]


def test_a_disk_without_room_is_told_before_a_byte_is_written(loras, monkeypatch):
    monkeypatch.setattr(allowance, "SPARE", 1 << 60)
    assert "MB free" in ask(asked(CONTENT))[0]["error"] and files(loras) == {}


def test_what_is_on_its_way_has_its_room_on_the_disk(loras, monkeypatch):
    free = SimpleNamespace(free=1000)
    monkeypatch.setattr(allowance, "disk_usage", lambda _: free)
    one = allowance.Allowance()
    with one.holding(600, loras), pytest.raises(CraftError, match="MB free"):
        with one.holding(600, loras):
            pass
    with one.holding(600, loras):
        pass


@pytest.mark.parametrize("breaks", ["write", "flush", "place"])
def test_a_disk_that_fills_up_leaves_nothing(loras, monkeypatch, breaks):
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(writing.PartialFile, breaks, full)
    assert "No space left" in ask(asked(CONTENT))[0]["error"]
    assert files(loras) == {}
    monkeypatch.undo()


def test_of_two_at_once_one_wins_and_the_same_content_is_success(loras):
    answers = ask(*[asked(CONTENT)] * 3, at_once=True)
    assert {"state": "received"} in answers
    assert all(one.get("state") in ("received", "there") for one in answers)
    assert files(loras) == {"new": b"", NAME: CONTENT}


def test_of_two_contents_at_once_one_wins_and_the_other_is_told(loras, monkeypatch):
    """Both are whole before either has the name."""
    is_there = places.is_there
    monkeypatch.setattr(route, "is_there", lambda one: is_there(one) if looks() else False)
    seen: list[int] = []

    def looks() -> bool:
        seen.append(1)
        return len(seen) > 2

    answers = ask(asked(CONTENT), asked(OTHER), at_once=True)
    assert sorted(map(list, answers)) == [["error"], ["state"]]
    assert files(loras)[NAME] in (CONTENT, OTHER) and set(files(loras)) == {"new", NAME}
    (told,) = (one["error"] for one in answers if "error" in one)
    assert "another file under the name" in told


def served(do) -> None:
    """do(port): in a thread, beside a server of the routes."""

    async def serve() -> None:
        app = web.Application()
        app.add_routes(PromptServer.instance.routes)
        async with TestServer(app) as server:
            await asyncio.to_thread(do, server.port)

    asyncio.run(serve())


def begun(port: int, content: bytes) -> socket.socket:
    """A connection over which half of the file has gone."""
    place = urlsplit(f"{RECEIVE}?{urlencode(asked(content)['params'])}")
    one = socket.create_connection(("127.0.0.1", port))
    head = (f"POST {place.geturl()} HTTP/1.1\r\nHost: a\r\nContent-Type: {BODY}\r\n"
            f"Content-Length: {len(content)}\r\n\r\n")  # fmt: skip
    one.sendall(head.encode() + content[: len(content) // 2])
    return one


def gone(folder: Path) -> bool:
    end = time.monotonic() + 20
    while files(folder) and time.monotonic() < end:
        time.sleep(0.02)
    return not files(folder)


def test_what_a_sender_that_goes_away_left_is_removed(loras, caplog, monkeypatch):
    monkeypatch.setattr(route, "PIECE", 10)

    def do(port: int) -> None:
        one = begun(port, CONTENT)
        end = time.monotonic() + 20
        while not files(loras) and time.monotonic() < end:
            time.sleep(0.02)
        assert len(files(loras)) == 1 and NAME not in files(loras)
        one.close()
        assert gone(loras)

    served(do)
    assert "could not be answered" not in caplog.text
    assert ask(asked(CONTENT)) == [{"state": "received"}]


@pytest.mark.parametrize("limit", ["IDLE", "SLOWEST"])
def test_a_sender_that_is_too_slow_is_told(loras, monkeypatch, limit):
    monkeypatch.setattr(route, "IDLE", 0.3)
    if limit == "SLOWEST":
        monkeypatch.setattr(route, "SLOWEST", 1e9)

    def do(port: int) -> None:
        with begun(port, CONTENT) as one:
            assert b"did not come in time" in one.recv(5000)
        assert gone(loras)

    served(do)


def test_a_server_that_ends_leaves_nothing_half_written(loras, monkeypatch):
    monkeypatch.setattr(route, "PIECE", 10)

    async def serve() -> None:
        app = web.Application()
        app.add_routes(PromptServer.instance.routes)
        async with TestServer(app) as server:
            one = await asyncio.to_thread(begun, server.port, CONTENT)
            while not files(loras):
                await asyncio.sleep(0.02)
        one.close()

    asyncio.run(serve())
    assert files(loras) == {}


def test_no_more_than_a_few_pieces_are_held(loras, monkeypatch):
    large = save({"a": torch.zeros(1 << 22, dtype=torch.uint8)})
    monkeypatch.setenv(VARIABLE, "10MB")
    sizes = []
    write = incoming.Incoming.write

    def counted(self: Any, piece: bytes) -> None:
        sizes.append(len(piece))
        write(self, piece)

    monkeypatch.setattr(incoming.Incoming, "write", counted)
    assert ask(asked(large)) == [{"state": "received"}]
    assert sum(sizes) == len(large) and max(sizes) < 2 * route.PIECE and len(sizes) > 1
