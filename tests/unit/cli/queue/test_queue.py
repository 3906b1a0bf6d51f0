"""The command against a small server: it saves pictures with their parameters, reports a failure
and goes on with the next job, and a second run continues where the first stopped."""

import io
import json
import signal
import threading

import pytest
from craft_lora_pack.cli.main import main
from craft_lora_pack.cli.queue.journal import NAME
from craft_lora_pack.client import client
from craft_lora_pack.client.client import Client, server_url
from craft_lora_pack.craft_core.errors import CraftError
from fake_comfyui import FAILING_SEED, LORAS, OBJECT_INFO, PARTLY_WRONG, PROMPT, FakeComfyUI
from PIL import Image

PAGE = {
    "nodes": [
        {"id": 1, "type": "Router", "widgets_values": ["cat.safetensors", "ink.safetensors", 1.0,
         "plain", "a cat"], "outputs": [{"name": "MODEL", "type": "MODEL"}]},
        {"id": 2, "type": "Sampler", "widgets_values": [7, "fixed", True, 1.0],
         "inputs": [{"name": "model", "type": "MODEL", "link": 1}],
         "outputs": [{"name": "IMAGE", "type": "IMAGE"}]},
        {"id": 3, "type": "Save", "widgets_values": ["x"],
         "inputs": [{"name": "images", "type": "IMAGE", "link": 2}]},
    ],
    "links": [[1, 1, 0, 2, 0, "MODEL"], [2, 2, 0, 3, 0, "IMAGE"]],
}  # fmt: skip


@pytest.fixture
def server():
    with FakeComfyUI() as running:
        yield running


@pytest.fixture
def queue(server, tmp_path, capsys):
    """Run the command: its status, stdout's and stderr's text."""
    file, out = tmp_path / "demo.json", tmp_path / "out"
    file.write_text(json.dumps(PROMPT))

    def run(*arguments, url=server.url):
        given = ["queue", str(file), "--server", url, "--out", str(out), *arguments]
        status = main(given)
        printed = capsys.readouterr()
        return status, printed.out, printed.err

    run.file, run.out = file, out
    return run


def pictures(queue):
    return sorted(file.name for file in queue.out.glob("*.png"))


def seeds(server):
    return [prompt["2"]["inputs"]["seed"] for prompt in server.ran]


def test_a_matrix_becomes_pictures_named_after_it(server, queue):
    status, out, _ = queue("--matrix", "content=dog,cat", "seed=1..2", "--set", "2.strength=0.5")
    assert status == 0
    assert pictures(queue) == [
        f"demo_content-{name}_seed-{seed}_00001.png" for name in ("cat", "dog") for seed in (1, 2)
    ]
    assert out.splitlines()[-1] == "4 done, 0 done before, 0 failed"
    assert out.splitlines()[0] == str(queue.out / "demo_content-dog_seed-1_00001.png")
    assert [prompt["1"]["inputs"]["content_lora"] for prompt in server.ran] == [
        LORAS[0], LORAS[0], LORAS[1], LORAS[1],
    ]  # fmt: skip
    assert all(prompt["2"]["inputs"]["strength"] == 0.5 for prompt in server.ran)
    with Image.open(queue.out / "demo_content-cat_seed-1_00001.png") as image:
        assert json.loads(image.info["prompt"]) == {"number": 3}
        recorded = json.loads(image.info["craft_queue"])["parameters"]
    assert recorded == {"content": "cat", "seed": "1"}


@pytest.mark.parametrize("refuses", [True, False])
def test_jobs_run_whatever_a_server_says_of_a_node_and_it_is_asked_once(server, queue, refuses):
    """How it lists files is asked of a node that has one in a folder."""
    if refuses:
        server.refused.add("/object_info/Router")
    status, out, err = queue("--matrix", "content=dog", "seed=1..4")
    assert status == 0 and len(server.ran) == 4, err
    assert server.asked.count("/object_info/Router") == 1


def test_a_workflow_of_the_page_runs_as_its_export_does(server, queue):
    queue.file.write_text(json.dumps(PAGE))
    assert queue("--set", "seed=4")[0] == 0
    (prompt,) = server.ran
    assert {node: one["inputs"] for node, one in prompt.items()} == {
        node: one["inputs"] | ({"seed": 4} if node == "2" else {}) for node, one in PROMPT.items()
    }


def workflows(server):
    return [body.get("extra_data", {}).get("extra_pnginfo", {}).get("workflow")
            for body in server.bodies]  # fmt: skip


def test_pictures_of_a_workflow_of_the_page_restore_it_with_the_jobs_values(server, queue):
    page = json.loads(json.dumps(PAGE))
    page["nodes"][1] |= {"title": "Mine", "pos": [1, 2]}
    page["nodes"].append({"id": 9, "type": "MarkdownNote", "widgets_values": ["a note"]})
    queue.file.write_text(json.dumps(page))
    assert queue("--matrix", "seed=4,5", "content=dog", "--set", "prompt=a dog")[0] == 0
    for seed, shown in zip((4, 5), workflows(server), strict=True):
        values = {node["id"]: node["widgets_values"] for node in shown["nodes"]}
        assert values[2] == [seed, "fixed", True, 1.0] and values[9] == ["a note"]
        assert values[1] == [LORAS[0], "ink.safetensors", 1.0, "plain", "a dog"]
        assert shown["links"] == page["links"]
        assert (shown["nodes"][1]["title"], shown["nodes"][1]["pos"]) == ("Mine", [1, 2])


def test_dynamic_texts_are_drawn_for_each_job_and_alike_when_it_runs_again(
    server, queue, monkeypatch
):
    text = ["STRING", {"dynamicPrompts": True}]
    monkeypatch.setitem(OBJECT_INFO["Router"]["input"]["required"], "prompt", text)
    page = json.loads(json.dumps(PAGE))
    page["nodes"][0]["widgets_values"][4] = "a {red|blue|green|white} cat // as it comes"
    queue.file.write_text(json.dumps(page))
    assert queue("--matrix", "seed=1..12")[0] == 0
    drawn = [prompt["1"]["inputs"]["prompt"] for prompt in server.ran]
    assert 1 < len(set(drawn)) <= 4 and all(one.endswith(" cat ") for one in drawn)
    for number, shown in enumerate(workflows(server), 1):
        assert shown["nodes"][0]["widgets_values"] == page["nodes"][0]["widgets_values"]
        assert shown["nodes"][1]["widgets_values"][0] == number
    for file in queue.out.iterdir():
        file.unlink()
    assert queue("--matrix", "seed=1..12")[0] == 0
    again = [prompt["1"]["inputs"]["prompt"] for prompt in server.ran[12:]]
    assert again == drawn
    assert queue("--matrix", "seed=1..12")[1].startswith("0 done, 12 done before")


def test_an_exported_prompt_is_sent_as_it_is(server, queue, monkeypatch):
    text = ["STRING", {"dynamicPrompts": True}]
    monkeypatch.setitem(OBJECT_INFO["Router"]["input"]["required"], "prompt", text)
    assert queue("--set", "prompt={a|b}")[0] == 0  # the page has drawn when it exports
    assert server.ran[0]["1"]["inputs"]["prompt"] == "{a|b}"


@pytest.mark.parametrize("alpha", [0.5, 0.2])
def test_another_entry_of_a_list_is_restored_with_the_inputs_that_it_brings(server, queue, alpha):
    queue.file.write_text(json.dumps(PAGE))
    assert queue("--set", "method=mixed", "--set", f"method.alpha={alpha}")[0] == 0
    (shown,) = workflows(server)
    values = [LORAS[1], LORAS[2], 1.0, "mixed", alpha, 0.0, "a cat"]
    assert shown["nodes"][0] == {**PAGE["nodes"][0], "widgets_values": values}
    assert shown["nodes"][1:] == PAGE["nodes"][1:] and shown["links"] == PAGE["links"]


def test_a_value_that_no_widget_of_the_page_shows_leaves_the_workflow_out(
    server, queue, monkeypatch
):
    linked = ["FLOAT", {"forceInput": True}]
    monkeypatch.setitem(OBJECT_INFO["Sampler"]["input"]["required"], "strength", linked)
    queue.file.write_text(json.dumps(PAGE))
    assert queue("--set", "strength=0.5")[0] == 0
    assert workflows(server) == [None]


def test_an_exported_prompt_has_no_workflow_of_the_page(server, queue):
    assert queue("--set", "seed=4")[0] == 0 and workflows(server) == [None]


def test_a_failing_job_is_told_in_its_own_words_and_the_others_run(server, queue):
    seeds_axis = f"seed=1,{FAILING_SEED},3"
    status, out, err = queue("--matrix", seeds_axis, "style=ink,nothing")
    assert status == 1
    assert "job 3 (seed=13 style=ink) failed: node 2 (Sampler) failed: unlucky" in err
    assert "job 2 (seed=1 style=nothing) failed: ComfyUI refused the workflow" in err
    assert "node 1 (Router): Value not in list: style_lora: 'nothing'" in err
    assert "Error: 4 of 6 jobs failed" in err
    assert "2 done, 0 done before, 4 failed" in out
    assert seeds(server) == [1, FAILING_SEED, 3] and len(pictures(queue)) == 2


def test_a_job_of_which_the_server_would_run_a_part_only_is_a_failing_job(server, queue):
    status, _, err = queue("--matrix", f"filename_prefix=good,{PARTLY_WRONG}")
    assert status == 1 and "node 3 (Save): Bad prefix" in err
    assert len(server.ran) == len(server.cancelled) == 1 and server.waiting == []


def test_the_same_command_runs_only_what_is_not_done(server, queue):
    queue("--matrix", f"seed=1,{FAILING_SEED},3")
    status, out, _ = queue("--matrix", f"seed=1,{FAILING_SEED},3,4")
    assert status == 1 and "1 done, 2 done before, 1 failed" in out
    assert seeds(server) == [1, FAILING_SEED, 3, FAILING_SEED, 4]
    (queue.out / "demo_seed-3_00001.png").unlink()
    queue("--matrix", "seed=1,3,4")
    assert seeds(server)[5:] == [3] and len(pictures(queue)) == 3


def interrupt_when_queued(server):
    def wait():
        server.arrived.acquire()
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    server.going.clear()
    threading.Thread(target=wait, daemon=True).start()


def test_ctrl_c_leaves_the_job_to_the_server_and_the_next_command_picks_it_up(server, queue):
    interrupt_when_queued(server)
    status, _, err = queue("--matrix", "seed=1..2")
    assert status == 130 and "Run the same command again to go on." in err
    assert server.cancelled == [] and pictures(queue) == []
    threading.Timer(0.2, server.going.set).start()
    status, out, _ = queue("--matrix", "seed=1..2")
    assert status == 0 and "2 done, 0 done before" in out
    assert seeds(server) == [1, 2]  # the first one was not queued a second time


def test_ctrl_c_ends_the_job_on_the_server_where_that_is_asked_for(server, queue):
    interrupt_when_queued(server)
    assert queue("--matrix", "seed=1..2", "--interrupt-server")[0] == 130
    assert len(server.cancelled) == 1
    server.going.set()
    assert queue("--matrix", "seed=1..2")[0] == 0
    assert seeds(server) == [1, 2]


def test_a_job_that_a_restarted_server_has_forgotten_is_queued_again(server, queue):
    interrupt_when_queued(server)
    queue("--matrix", "seed=1..2")
    server.forget()
    server.going.set()
    assert queue("--matrix", "seed=1..2")[0] == 0
    assert seeds(server) == [1, 2]


def test_a_dry_run_prints_the_jobs_and_queues_none(server, queue):
    status, out, _ = queue("--matrix", "content=dog,cat", "seed=1..2", "--dry-run")
    assert status == 0 and out.splitlines() == [
        "1/4 content=dog seed=1",
        "2/4 content=dog seed=2",
        "3/4 content=cat seed=1",
        "4/4 content=cat seed=2",
    ]
    assert server.ran == [] and not queue.out.exists()


def test_no_server_is_told_with_what_to_do(queue):
    status, _, err = queue(url="http://127.0.0.1:9")
    assert status == 1 and "127.0.0.1:9" in err and "Start it" in err
    assert err.count("\n") == 1


def test_a_server_that_goes_away_ends_the_batch_and_what_is_done_stays_done(queue, monkeypatch):
    monkeypatch.setattr(client, "PATIENCE", 0.5)
    with FakeComfyUI() as server:
        ran = server._run

        def dies(body):
            if len(server.ran) == 1:
                server.stop()
            else:
                ran(body)

        server._run = dies
        status, _, err = queue("--matrix", "seed=1..3", url=server.url)
    assert status == 1 and "the connection to" in err and "stays done" in err
    assert pictures(queue) == ["demo_seed-1_00001.png"]
    assert "2 done, 1 done before" in queue("--matrix", "seed=1..3")[1]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('{"1": {}}', "is no workflow"),
        ('{"1": {"class_type": "Unheard", "inputs": {}}}', "needs the node 'Unheard'"),
        ("{", "not a JSON file"),
    ],
)
def test_what_is_no_workflow_of_this_server_is_told(queue, content, words):
    queue.file.write_text(content)
    status, _, err = queue()
    assert status == 1 and words in err and not queue.out.exists()


def test_the_line_of_a_job_says_how_to_find_it_again(server, queue):
    queue("--matrix", "seed=1")
    lines = [json.loads(line) for line in (queue.out / NAME).read_text().splitlines()]
    assert [line["state"] for line in lines] == ["queued", "done"]
    assert lines[0]["prompt_id"] in server.history
    assert lines[1]["files"] == ["demo_seed-1_00001.png"]
    assert lines[1]["parameters"] == {"seed": "1"}


def test_other_files_of_a_job_come_with_its_pictures(server, queue, monkeypatch):
    monkeypatch.setattr(Client, "fetch", lambda _, item: item["filename"].encode())
    sound, preview = {"filename": "s.flac", "type": "output"}, {"filename": "p", "type": "temp"}
    follow = Client.follow

    def more(self, *arguments):
        result = follow(self, *arguments)
        result.outputs["9"] = {"audio": [sound], "images": [preview]}
        return result

    monkeypatch.setattr(Client, "follow", more)
    assert queue("--set", "seed=1")[0] == 0
    assert (queue.out / "demo_s_00001.flac").read_bytes() == b"s.flac"
    assert {file.suffix for file in queue.out.iterdir()} == {".png", ".flac", ".jsonl"}


@pytest.mark.parametrize(
    ("given", "url"),
    [
        ("127.0.0.1:8188", "http://127.0.0.1:8188"),
        ("https://host/comfy/", "https://host/comfy"),
        ("localhost", "http://localhost"),
    ],
)
def test_a_server_is_written_as_in_a_browser(given, url):
    assert server_url(given) == url


@pytest.mark.parametrize("given", ["ftp://host", "http://", "host:port"])
def test_what_is_no_address_is_told(given):
    with pytest.raises(CraftError, match="no server's address"):
        server_url(given)


def test_a_bar_counts_the_nodes_and_steps_inside_a_job(server, queue):
    _, _, err = queue("--matrix", "seed=1..2")
    assert "2/2 seed=2" in err and "100%" in err
    assert io.StringIO(err).readline()
