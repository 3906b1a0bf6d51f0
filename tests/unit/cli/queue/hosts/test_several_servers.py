"""Several servers make what one makes: every job once, under the same names, whichever server goes
away or comes late; one that would give other pictures runs none."""

from __future__ import annotations

import io
import json
import re
import signal
import socket
import threading
from collections import Counter

import pytest
from craft_lora_pack.cli.main import main
from craft_lora_pack.cli.queue.journal import NAME
from fake_comfyui import FAILING_SEED, LORAS, PROMPT
from PIL import Image

pytestmark = pytest.mark.usefixtures("quick")


@pytest.fixture
def queue(tmp_path, capsys):
    """Run the command on these servers: its status, stdout's and stderr's text."""
    file = tmp_path / "demo.json"
    file.write_text(json.dumps(PROMPT))

    def run(servers, *arguments, out="out"):
        places = [word for one in servers for word in ("--server", getattr(one, "url", one))]
        status = main(["queue", str(file), *places, "--out", str(tmp_path / out), *arguments])
        printed = capsys.readouterr()
        return status, printed.out, printed.err

    run.file, run.folder = file, tmp_path
    return run


def pictures(queue, out="out"):
    return {file.name: file.read_bytes() for file in (queue.folder / out).glob("*.png")}


def lines(queue, out="out"):
    text = (queue.folder / out / NAME).read_text("utf-8")
    return [json.loads(line) for line in text.splitlines()]


def seeds(host):
    return [prompt["2"]["inputs"]["seed"] for prompt in host.ran]


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def done_once(queue, jobs, out="out"):
    """Every job has one line that says so, and a file that no other job has."""
    files = [name for line in lines(queue, out) if line["state"] == "done"
             for name in line["files"]]  # fmt: skip
    keys = Counter(line["job"] for line in lines(queue, out) if line["state"] == "done")
    return len(keys) == jobs and set(keys.values()) == {1} and sorted(files) == sorted(
        pictures(queue, out)
    ) and len(files) == jobs  # fmt: skip


MATRIX = ["--matrix", "content=dog,cat", "seed=1..10"]


def test_the_files_and_their_bytes_are_those_of_one_server(hosts, queue):
    several = [hosts() for _ in range(3)]
    status, out, err = queue(several, *MATRIX)
    assert status == 0 and out.splitlines()[-1] == "20 done, 0 done before, 0 failed", err
    assert queue([hosts()], *MATRIX, out="one")[0] == 0
    assert pictures(queue) == pictures(queue, "one") and done_once(queue, 20)
    assert all(seeds(host)[0] == 1 for host in several)  # the first job, on each
    assert sum(len(host.ran) for host in several) == 20 + 2


def test_pictures_name_the_hashes_that_the_servers_told(hosts, queue):
    prompt = json.loads(json.dumps(PROMPT))
    prompt["1"]["inputs"]["ckpt_name"] = "base.safetensors"
    prompt["2"]["inputs"]["steps"] = 5
    queue.file.write_text(json.dumps(prompt))
    known = dict.fromkeys(LORAS, "a" * 64) | {"base.safetensors": "b" * 64}
    said = set()
    assert queue([hosts(hashes=known), hosts(hashes=known)], "--matrix", "seed=1..4")[0] == 0
    for content in pictures(queue).values():
        with Image.open(io.BytesIO(content)) as image:
            said.add(image.info["parameters"].split("Seed: ")[1][3:])
    assert said == {
        f"Model hash: {'b' * 10}, Model: base, "
        f'Lora hashes: "cat: {"a" * 10}, ink: {"a" * 10}"'
    }  # fmt: skip


def test_jobs_of_the_same_name_are_numbered_in_the_matrixs_order(hosts, queue):
    prompts = ",".join(f"{'very ' * 20}long prompt {n}" for n in range(6))
    matrix = ["--matrix", f"prompt={prompts}"]
    assert queue([hosts(), hosts()], *matrix)[0] == 0
    assert queue([hosts()], *matrix, out="one")[0] == 0
    assert pictures(queue) == pictures(queue, "one") and len(pictures(queue)) == 6


def test_200_jobs_while_one_host_dies_and_one_comes_late(hosts, queue):
    first, second, third = hosts(), hosts(), hosts()
    late, place = [], free_port()

    def begins(number):
        if number == 20:
            late.append(hosts(port=place))

    second.at_job = lambda number: second.stop() if number == 10 else None
    third.at_job = begins
    servers = [first, second, third, f"http://127.0.0.1:{place}"]
    status, out, err = queue(servers, "--matrix", "seed=101..300")
    assert status == 0 and out.splitlines()[-1] == "200 done, 0 done before, 0 failed", err
    assert done_once(queue, 200) and len(late[0].ran) > 1
    assert f"{second.url} is gone" in err and f"{servers[3]} is gone" in err


PAIRS = {
    **PROMPT,
    "4": {"class_type": "Save", "inputs": {"images": ["1", 0], "filename_prefix": "pairs"}},
}


def test_a_file_of_several_jobs_is_saved_once_whichever_servers_made_it(hosts, queue):
    """What does not depend on the seed is one file for all seeds; each server makes its own."""
    queue.file.write_text(json.dumps(PAIRS))
    several = [hosts() for _ in range(3)]
    assert queue(several, *MATRIX)[0] == 0
    assert queue([hosts()], *MATRIX, out="one")[0] == 0
    assert sorted(pictures(queue)) == sorted(pictures(queue, "one"))
    assert len(pictures(queue)) == 20 + 2
    made = {line["job"]: line["files"] for line in lines(queue) if line["state"] == "done"}
    alone = {line["job"]: line["files"] for line in lines(queue, "one") if line["state"] == "done"}
    assert made == alone


def test_servers_that_have_made_some_of_it_already_give_the_same(hosts, queue):
    """What a server has kept comes first in its list: that is no other picture."""
    queue.file.write_text(json.dumps(PAIRS))
    warm, cold = [hosts(), hosts()], hosts()
    for number, host in enumerate(warm):
        assert queue([host], *MATRIX[:2], "seed=101", out=f"before{number}")[0] == 0
    assert queue([*warm, cold], "--matrix", "content=dog,cat", "seed=1..2")[0] == 0
    status, out, err = queue([*warm, cold], *MATRIX)
    assert status == 0 and out.splitlines()[-1] == "16 done, 4 done before, 0 failed", out + err
    assert "is left out" not in err
    assert queue([hosts()], *MATRIX, out="one")[0] == 0
    assert sorted(pictures(queue)) == sorted(pictures(queue, "one"))


def test_what_a_command_had_written_before_it_could_say_so_is_no_second_file(hosts, queue):
    assert queue([hosts(), hosts()], *MATRIX)[0] == 0
    before, journal = pictures(queue), queue.folder / "out" / NAME
    kept = [line for line in journal.read_text().splitlines() if '"done"' not in line]
    journal.write_text("".join(f"{line}\n" for line in kept))
    assert "20 done" in queue([hosts(), hosts()], *MATRIX)[1]
    assert pictures(queue) == before


def test_failing_jobs_are_told_as_one_server_tells_them(hosts, queue):
    """Also the first ones, with which the servers are compared."""
    matrix = ["--matrix", f"style=nothing,ink,{LORAS[3]}", f"seed={FAILING_SEED},1,2"]
    status, out, err = queue([hosts(), hosts()], *matrix)
    _, alone, same = queue([hosts()], *matrix, out="one")
    told = re.compile(r"job \d+ \(.*?\) failed: .*")
    assert status == 1 and sorted(told.findall(err)) == sorted(told.findall(same))
    assert "4 done, 0 done before, 5 failed" in out and out[-40:] == alone[-40:]
    assert pictures(queue) == pictures(queue, "one")


OTHERS = {
    "card": ({"card": "other"}, "its pictures of the first job are not those of"),
    "version": ({"version": "0.27.0"}, "ComfyUI: 0.27.0 here, 0.30.0 on"),
    "pack": ({"pack": "0.9"}, "CRAFT LoRA: 0.9 here, 1.0 on"),
    "content of a file": (
        {"hashes": dict.fromkeys(LORAS, "a" * 64) | {LORAS[0]: "b" * 64}},
        f"{LORAS[0]}: bbbbbbbbbbbb... here, aaaaaaaaaaaa... on",
    ),
    "file": ({"hashes": dict.fromkeys(LORAS[1:], "a" * 64)}, f"{LORAS[0]}: missing here"),
}


@pytest.mark.parametrize("other", OTHERS)
def test_a_host_that_would_give_other_pictures_is_named_and_runs_no_job(hosts, queue, other):
    made, reason = OTHERS[other]
    first, odd, last = hosts(), hosts(**made), hosts()
    status, _, err = queue([first, odd, last], *MATRIX)
    assert status == 0 and f"{odd.url} is left out: " in err and reason in err
    assert seeds(odd) == [1] and done_once(queue, 20)  # the first job alone
    assert queue([hosts()], *MATRIX, out="one")[0] == 0
    assert pictures(queue) == pictures(queue, "one")


def test_a_host_without_a_node_of_the_workflow_is_left_out(hosts, queue, monkeypatch):
    lacking, sound = hosts(), hosts()
    answer = lacking.answer
    lacking.answer = lambda path: {
        name: one for name, one in answer(path).items() if path != "/object_info" or name != "Save"
    }
    status, _, err = queue([lacking, sound], *MATRIX)
    assert status == 0 and "the node Save: missing here" in err and len(sound.ran) == 20


def test_where_all_would_give_others_than_the_folder_has_none_runs(hosts, queue):
    assert queue([hosts(), hosts()], "--matrix", "seed=1..4")[0] == 0
    news = hosts(card="new"), hosts(card="new")
    status, _, err = queue(news, "--matrix", "seed=1..8")
    assert status == 1 and "No server gives the pictures that are in" in err
    assert err.count("Error:") == 1 and len(pictures(queue)) == 4


def test_the_pictures_of_the_folder_decide_who_may_go_on(hosts, queue):
    assert queue([hosts(card="old"), hosts(card="old")], "--matrix", "seed=1..4")[0] == 0
    servers = [hosts(card="new"), hosts(card="new"), hosts(card="old")]
    assert "4 done, 4 done before" in queue(servers, "--matrix", "seed=1..8")[1]
    assert seeds(servers[2])[1:] == [5, 6, 7, 8]


def test_a_job_that_ends_every_server_is_given_up_and_the_others_run(hosts, queue):
    def ends(host):
        def stop(_):
            if host.bodies[-1]["prompt"]["2"]["inputs"]["seed"] == 104:
                host.stop()

        return stop

    several = [hosts() for _ in range(5)]
    for host in several:
        host.at_job = ends(host)
    status, out, err = queue(several, "--matrix", "seed=101..140")
    assert status == 1 and "39 done, 0 done before, 1 failed" in out
    assert "job 4 (seed=104) failed: 3 servers went away while they ran it." in err


def test_the_command_ends_where_no_server_is_left_and_the_same_goes_on(hosts, queue):
    first, second = hosts(), hosts()
    first.at_job = lambda number: first.stop() if number == 5 else None
    second.at_job = lambda number: second.stop() if number == 9 else None
    status, _, err = queue([first, second], *MATRIX)
    assert status == 1 and "no server is left" in err and "stays done" in err
    assert "Traceback" not in err
    assert queue([hosts(), hosts()], *MATRIX)[0] == 0 and done_once(queue, 20)


def test_one_server_finishes_what_several_began_and_the_other_way_round(hosts, queue):
    assert queue([hosts(), hosts()], "--matrix", "seed=1..4")[0] == 0
    assert "4 done, 4 done before" in queue([hosts()], "--matrix", "seed=1..8")[1]
    assert "4 done, 8 done before" in queue([hosts(), hosts()], "--matrix", "seed=1..12")[1]
    assert done_once(queue, 12)


def test_a_job_of_which_the_journal_names_no_server_is_written_anew(hosts, queue):
    """One server's command left it: the id that another host queues it under is in the journal."""
    single, several = hosts(), [hosts(), hosts()]
    single.at_job = lambda number: single.stop() if number == 3 else None
    assert queue([single], "--matrix", "seed=1..6")[0] == 1
    left = lines(queue)[-1]
    assert left["state"] == "queued" and "server" not in left
    assert queue(several, "--matrix", "seed=1..6")[0] == 0 and done_once(queue, 6)
    again = [line for line in lines(queue) if line["job"] == left["job"] and line.get("server")]
    ids = {one for host in several for one in host.queued}
    assert [line["state"] for line in again] == ["queued"] and again[0]["prompt_id"] in ids


def interrupt_when_both_work(several):
    """Let the first job pass on each, and interrupt once the next has come to each."""

    def wait():
        for host in several:
            host.arrived.acquire()
            host.arrived.acquire()
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    for host in several:
        host.at_job = lambda number, host=host: host.going.clear() if number == 2 else None
    threading.Thread(target=wait, daemon=True).start()


def test_ctrl_c_leaves_the_jobs_to_the_servers_and_the_same_command_fetches_them(hosts, queue):
    several = [hosts(), hosts()]
    interrupt_when_both_work(several)
    status, _, err = queue(several, "--matrix", "seed=1..10")
    assert status == 130 and "the jobs that ran are finished by the servers" in err
    for host in several:
        host.going.set()
    assert "9 done, 1 done before" in queue(several, "--matrix", "seed=1..10")[1]
    ran = Counter(seed for host in several for seed in seeds(host))
    assert done_once(queue, 10) and {ran[seed] for seed in range(2, 11)} == {1}


def test_ctrl_c_ends_the_jobs_where_that_is_asked_for(hosts, queue):
    several = [hosts(), hosts()]
    interrupt_when_both_work(several)
    assert queue(several, "--matrix", "seed=1..10", "--interrupt-server")[0] == 130
    assert all(host.cancelled for host in several) and not any(host.waiting for host in several)


def test_a_dry_run_asks_one_server_and_queues_none(hosts, queue):
    several = [hosts(), hosts()]
    status, out, _ = queue(several, "--matrix", "seed=1..2", "--dry-run")
    assert status == 0 and out.splitlines() == ["1/2 seed=1", "2/2 seed=2"]
    assert not any(host.ran for host in several)


def test_no_server_at_all_is_told_in_one_line(queue):
    status, _, err = queue([f"http://127.0.0.1:{free_port()}" for _ in range(2)])
    assert status == 1 and "Start it" in err and err.count("\n") == 1


def test_the_same_server_twice_is_one(hosts, queue):
    host = hosts()
    assert queue([host, host], "--matrix", "seed=1..3")[0] == 0 and seeds(host) == [1, 2, 3]
