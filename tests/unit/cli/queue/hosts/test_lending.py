"""LoRAs that a server lacks are sent to it if asked: the content that the others have, once, and
over nothing."""

from __future__ import annotations

import hashlib
import json
import socket
import threading

import pytest
from craft_lora_pack.cli.main import main
from craft_lora_pack.cli.queue.hosts import batch, lending
from craft_lora_pack.client.errors import RemoteError
from craft_lora_pack.client.loras import sending
from craft_lora_pack.client.loras.announced import RECEIVED, SEND
from fake_comfyui import LORAS, PROMPT

DOG, CAT, INK, _ = LORAS
CONTENTS = {name: f"the content of {name}".encode() * 1000 for name in LORAS}
HASHES = {name: hashlib.sha256(content).hexdigest() for name, content in CONTENTS.items()}
MATRIX = ["--matrix", "seed=1..4"]


def without(*names):
    return {name: one for name, one in HASHES.items() if name not in names}


@pytest.fixture(autouse=True)
def small_and_quick(quick, monkeypatch):
    monkeypatch.setattr(sending, "PIECE", 5000)
    monkeypatch.setattr(sending, "WAITS", 5.0)


@pytest.fixture
def queue(tmp_path, capsys):
    """Run the command on these servers with the folder `loras`: its status and stderr's text."""
    file = tmp_path / "demo.json"
    file.write_text(json.dumps(PROMPT))
    for name, content in CONTENTS.items():
        path = tmp_path / "loras" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)

    def run(servers, *arguments, folder="loras"):
        words = [word for one in servers for word in ("--server", one.url)]
        words += ["--send-loras", str(tmp_path / folder)] if folder else []
        status = main(["queue", str(file), *words, "--out", str(tmp_path / "out"),
                       *(arguments or MATRIX)])  # fmt: skip
        return status, capsys.readouterr().err

    run.folder = tmp_path
    return run


def done(queue):
    return len(list((queue.folder / "out").glob("*.png")))


def test_a_host_that_lacks_loras_gets_those_of_the_jobs_and_runs(hosts, queue):
    sound, lacking = hosts(hashes=HASHES), hosts(hashes={})
    status, err = queue([sound, lacking])
    assert status == 0 and "left out" not in err and done(queue) == 4, err
    assert lacking.received == {name: CONTENTS[name] for name in (CAT, INK)}
    assert not sound.received and not sound.offers and len(lacking.ran) > 1
    assert f"{lacking.url}: {CAT} is there ({len(CONTENTS[CAT])} bytes)" in err
    assert err.count(f"{lacking.url}: ComfyUI") == 1


@pytest.mark.parametrize("first", [0, 1])
def test_servers_of_windows_and_of_other_systems_run_the_same_jobs(hosts, queue, first):
    """They list the same file under names with other slashes; the first gives the jobs theirs."""
    several = [hosts(hashes=HASHES, windows=first == 0), hosts(hashes=HASHES, windows=first == 1)]
    status, err = queue(several, "--matrix", "content=dog", "seed=1..4", folder="")
    assert status == 0 and done(queue) == 4 and "left out" not in err, err
    assert all(one.ran for one in several)
    asked = [path for one in several for path in one.asked if path.startswith("/object_info/")]
    assert not asked  # what each has it said before its first job


def test_a_server_of_windows_gets_a_lora_of_a_subfolder_once(hosts, queue):
    sound, lacking = hosts(hashes=HASHES), hosts(hashes=without(DOG), windows=True)
    status, err = queue([sound, lacking], "--matrix", "content=dog", "seed=1..4")
    assert status == 0 and "left out" not in err and lacking.received == {DOG: CONTENTS[DOG]}, err
    assert lacking.ran


def test_nothing_is_sent_where_nobody_asked_for_it(hosts, queue):
    sound, lacking = hosts(hashes=HASHES), hosts(hashes=without(CAT))
    status, err = queue([sound, lacking], folder="")
    assert status == 0 and f"{CAT}: missing here" in err and not lacking.offers


def test_where_all_lack_it_all_get_it(hosts, queue):
    """Also one alone."""
    several = [hosts(hashes=without(CAT)) for _ in range(6)]
    status, err = queue(several)
    assert status == 0 and all(list(one.received) == [CAT] for one in several), err
    alone = hosts(hashes=without(INK))
    assert queue([alone], "--matrix", "seed=9")[0] == 0 and list(alone.received) == [INK]


def test_what_a_host_has_under_another_name_is_not_sent(hosts, queue):
    sound, lacking = (
        hosts(hashes=HASHES),
        hosts(hashes=without(CAT) | {"old.safetensors": HASHES[CAT]}),
    )
    status, err = queue([sound, lacking])
    assert status == 0 and not lacking.received and lacking.offers == [CAT]
    assert f"{CAT} is there: it had the content under another name" in err


def test_another_content_than_the_others_have_is_not_sent(hosts, queue):
    sound, lacking = hosts(hashes=HASHES | {CAT: "b" * 64}), hosts(hashes=without(CAT))
    status, err = queue([sound, lacking])
    assert status == 0 and not lacking.offers and done(queue) == 4
    assert f"is another file than that on {sound.url}, so nothing is sent" in err
    assert f"{lacking.url} is left out" in err and not lacking.ran


def test_one_that_lacks_two_gets_none_where_one_is_another_file(hosts, queue):
    sound, lacking = hosts(hashes=HASHES | {INK: "b" * 64}), hosts(hashes={})
    assert queue([sound, lacking])[0] == 0 and not lacking.received and not lacking.offers


def test_a_host_with_another_file_under_the_name_keeps_it_and_is_left_out(hosts, queue):
    several = [hosts(hashes=HASHES), hosts(hashes=HASHES), hosts(hashes=HASHES | {CAT: "b" * 64})]
    status, err = queue(several)
    assert status == 0 and f"{several[2].url} is left out: {CAT}: bbbbbbbbbbbb... here" in err
    assert several[2].hashes[CAT] == "b" * 64 and not several[2].offers


def test_one_that_comes_late_gets_what_the_first_have(hosts, queue):
    sound = hosts(hashes=HASHES | {CAT: "b" * 64})
    late = []

    def begins(number):
        if number == 2:
            late.append(hosts(hashes=without(CAT), port=place))

    place = free_port()
    sound.at_job = begins
    words = ["--matrix", "seed=101..140", "--server", f"http://127.0.0.1:{place}"]
    status, err = queue([sound], *words)
    assert status == 0 and f"{late[0].url} is left out: it lacks {CAT}" in err, err


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


REFUSING = {
    "off": ({"pack": "1.0"}, "takes no LoRAs"),
    "without the pack": ({"pack": ""}, "has no CRAFT LoRA that takes LoRAs"),
}


@pytest.mark.parametrize("case", REFUSING)
def test_a_host_that_takes_none_is_left_out_and_says_how_it_would(hosts, queue, case):
    made, reason = REFUSING[case]
    sound, lacking = hosts(hashes=HASHES), hosts(hashes=without(CAT), **made)
    lacking.takes = False
    status, err = queue([sound, lacking])
    assert status == 0 and done(queue) == 4 and not lacking.ran
    line = next(line for line in err.splitlines() if f"{lacking.url} is left out" in line)
    assert reason in line and "CRAFT_LORA_RECEIVE" in line


def test_what_the_folder_lacks_is_as_without_it(hosts, queue):
    (queue.folder / "empty").mkdir()
    sound, lacking = hosts(hashes=HASHES), hosts(hashes=without(CAT))
    status, err = queue([sound, lacking], folder="empty")
    assert status == 0 and f"{lacking.url} is left out: {CAT}: missing here" in err


def test_a_folder_that_is_none_is_said_at_once(hosts, queue):
    host = hosts(hashes=HASHES)
    status, err = queue([host], folder="nowhere")
    assert status == 1 and "nowhere is no folder" in err and not host.ran


def test_a_name_that_leads_out_of_the_folder_is_not_looked_up(queue):
    (queue.folder / "secret.safetensors").write_bytes(b"x")
    (queue.folder / "loras" / "weights.ckpt").write_bytes(b"x")
    lent = lending.LentLoras([queue.folder / "loras"])
    names = ["../secret.safetensors", str(queue.folder / "secret.safetensors"), "weights.ckpt",
             "the node X", "a\0.safetensors", CAT]  # fmt: skip
    assert lent.of(dict.fromkeys(names, "missing")) == [CAT]
    assert lent.of({CAT: HASHES[CAT]}) == []
    assert lent.of({DOG.replace("/", "\\"): "missing"}) == [DOG.replace("/", "\\")]


def test_a_connection_that_breaks_is_tried_again_and_not_for_ever(hosts, queue):
    def broken(_):
        raise ConnectionResetError

    sound, lacking, again = (
        hosts(hashes=HASHES),
        hosts(hashes=without(CAT)),
        hosts(hashes=without(CAT)),
    )
    sound.going.clear()
    lacking.at_read = broken
    again.at_read = lambda number: broken(number) if number == 1 else None
    lacking._http.handle_error = again._http.handle_error = lambda *_: None

    def goes_on():
        while not (again.received and len(lacking.offers) == lending.MOST_TIMES):
            threading.Event().wait(0.05)
        threading.Event().wait(1.0)
        sound.going.set()

    threading.Thread(target=goes_on, daemon=True).start()
    status, err = queue([sound, lacking, again])
    assert status == 0 and again.received == {CAT: CONTENTS[CAT]}, err
    assert f"{lacking.url} is left out: {CAT} was sent 3 times, and it lacks it" in err
    assert len(lacking.offers) == lending.MOST_TIMES and not lacking.received


def test_a_connection_to_the_only_host_that_breaks_is_tried_again(hosts, queue):
    def broken(number):
        if number == 1:
            raise ConnectionResetError

    alone = hosts(hashes=without(CAT))
    alone.at_read = broken
    alone._http.handle_error = lambda *_: None
    status, err = queue([alone])
    assert status == 0 and alone.received == {CAT: CONTENTS[CAT]} and done(queue) == 4, err
    assert f"{alone.url} did not get all" in err and len(alone.offers) == 2


def test_the_bar_says_nothing_of_a_lora_that_has_come(hosts, queue, monkeypatch):
    said = []
    for name in ("note", "show", "tell"):
        real = getattr(batch.Display, name)

        def kept(self, *given, name=name, real=real):
            said.append((name, given[-1]))
            real(self, *given)

        monkeypatch.setattr(batch.Display, name, kept)
    assert queue([hosts(hashes=without(CAT))])[0] == 0
    kinds = [kind for kind, _ in said]
    assert kinds[kinds.index("note") :][:3] == ["note", "show", "tell"]


def test_a_host_that_refuses_halfway_is_sent_no_more(monkeypatch):
    """What it says is there before it closes, when some systems would lose it."""
    told = threading.Event()
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\n" + b'{"error": "no room"}'

    def refuses(listening):
        one, _ = listening.accept()
        with one:
            one.recv(1 << 16)
            one.sendall(answer)
            told.set()
            while one.recv(1 << 16):
                pass

    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=refuses, args=(listening,), daemon=True).start()
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        token = sending.begin_upload(url, CAT, HASHES[CAT], 1000)
        assert told.wait(5.0)
        with pytest.raises(RemoteError, match="no room"):
            sending.send_piece(url, token, b"x" * 100)
        sending.drop_upload(url, token)


CHANGES = {
    "shorter": (CONTENTS[CAT][:6000], "became shorter as it was sent"),
    "other": (b"x" * len(CONTENTS[CAT]), "It has another hash"),
}


@pytest.mark.parametrize("how", CHANGES)
def test_a_file_that_changes_while_it_is_sent_is_refused(hosts, queue, monkeypatch, how):
    content, reason = CHANGES[how]
    begin = sending.begin_upload

    def changed(*given):
        (queue.folder / "loras" / CAT).write_bytes(content)
        return begin(*given)

    monkeypatch.setattr(sending, "begin_upload", changed)
    sound, lacking = hosts(hashes=HASHES), hosts(hashes=without(CAT))
    status, err = queue([sound, lacking])
    assert status == 0 and not lacking.received and not sending._uploads
    assert f"{lacking.url} is left out" in err and reason in err


def test_how_far_it_is_is_said_in_bytes():
    assert str(lending.OnTheWay(CAT, 12_300_000, 144_000_000)) == f"{CAT}: 12.3 of 144.0 MB"


def test_pieces_go_beside_whatever_a_server_does_meanwhile(tmp_path):
    """Between two pieces a worker may take another command's job: the server waits for no turn."""

    class Door:
        def __init__(self):
            self.turns, self.beside = [], []

        def call(self, function, *given, key="", tells=None):
            self.turns.append(function)
            return {sending.offer: SEND, sending.begin_upload: "token"}.get(function, RECEIVED)

        def aside(self, function, *given):
            self.beside.append(function)

    path = tmp_path / "x.safetensors"
    path.write_bytes(b"1" * 12_000)
    door = Door()
    assert lending._sent(door, path.name, path, "a" * 64, 12_000, lambda _: None) == RECEIVED
    assert door.turns == [sending.offer, sending.begin_upload, sending.end_upload]
    assert door.beside == [sending.send_piece] * 3
