"""`python -m craft_core find-best` on the real server."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest
from craft_lora_pack.cli.main import main
from craft_lora_pack.cli.queue.find_best import FILES, NODE, SO_FAR, search_alone
from craft_lora_pack.client.client import Client
from craft_lora_pack.craft_core.presets import node_values
from PIL import Image
from workflow_prompts import base_folder

from launcher.paths import ROOT

WORKFLOW = ROOT / "workflows" / "find_best_small_world.json"
QUICK = ["steps=2", "budget=8", "methods=direct", "schedules=constant", "strengths=0.5, 1"]


@pytest.fixture
def find(live_server, tmp_path, capsys):
    def run(*settings: str, workflow: Path = WORKFLOW, url: str = live_server.url):
        flags = [part for one in (*QUICK, *settings) for part in ("--set", one)]
        status = main(["find-best", str(workflow), "--server", url, "--out", str(tmp_path), *flags])
        return status, *capsys.readouterr()

    return run


def test_a_search_leaves_its_preset_plot_and_report(find, tmp_path):
    status, out, err = find("content_weight=0.7")
    assert status == 0, err
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted(FILES.values())
    preset = json.loads((tmp_path / "preset.json").read_text("utf-8"))
    assert (preset["content_weight"], preset["steps"]) == (0.7, 2)
    assert preset["method"] == {"method": "direct"}
    report = (tmp_path / "report.txt").read_text("utf-8")
    assert report.startswith("Best: direct") and report.strip() in out
    with Image.open(tmp_path / "plot.png") as plot:
        assert min(plot.size) > 500
    assert "picture" in err  # the bar
    status, _, err = find()
    assert status == 1 and "plot.png" in err  # never over another result


def test_ctrl_c_stops_the_search_and_the_same_command_goes_on(
    live_server, find, tmp_path, monkeypatch
):
    seen, follow = [], Client.follow

    def interrupted(client, events, prompt_id, show, limit):
        def stop(kind, data):
            show(kind, data)
            if kind == "progress" and data["value"] >= 3 and len(seen) == 1:
                raise KeyboardInterrupt

        seen.append(prompt_id)
        return follow(client, events, prompt_id, stop, limit)

    monkeypatch.setattr(Client, "follow", interrupted)
    status, out, err = find("first_seed=50")
    assert status == 130 and "Run the same command again" in err
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted(SO_FAR.values())
    preset = json.loads((tmp_path / SO_FAR["preset"]).read_text("utf-8"))
    assert preset["stopped_after"] >= 3 and node_values(preset).router["method"] == "direct"
    assert out.startswith(f"Stopped after {preset['stopped_after']} of at most 8 pictures.")
    client, waited = live_server.server.client, threading.Event()
    while client.get_json("/queue")["queue_running"]:
        waited.wait(0.2)
    assert client.get_json(f"/history/{seen[0]}")[seen[0]]["status"]["status_str"] == "error"

    monkeypatch.setattr(Client, "follow", follow)
    journals = (base_folder(live_server) / "user").glob("__craft_lora/find_best/*.jsonl")
    journal = max(journals, key=lambda one: one.stat().st_mtime_ns)  # other tests left some, too
    stopped = journal.read_text("utf-8")
    assert stopped.count(", 50, ") >= 2
    status, out, err = find("first_seed=50")
    assert status == 0 and out.startswith("Best: "), err
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted(FILES.values())
    whole = journal.read_text("utf-8")
    assert whole.startswith(stopped) and whole != stopped


def test_only_what_leads_to_the_search_is_run(live_server):
    whole = live_server.prompt_of(WORKFLOW)
    alone, node = search_alone(whole, WORKFLOW)
    assert whole[node]["class_type"] == NODE
    assert {one["class_type"] for one in alone.values()}.isdisjoint({"SaveImage", "VAEDecode"})
    assert {"CheckpointLoaderSimple", "LoadImage"} < {one["class_type"] for one in alone.values()}


def test_a_workflow_without_a_search_and_a_wrong_value_are_said(find, tmp_path):
    demo = ROOT / "workflows" / "fuse_to_file_small_world.json"
    status, _, err = find(workflow=demo)
    assert status == 1 and "has no Find Best Settings" in err
    status, _, err = find("budget=many")
    assert status == 1 and "budget" in err
    status, _, err = find("methods=klora")
    assert status == 1 and "klora" in err
    status, _, err = find(url="http://127.0.0.1:1")
    assert status == 1 and "--server" in err
    assert list(tmp_path.iterdir()) == []
