"""What XY Grid showed in its last run is there for a page that is loaded again."""

import asyncio
import json
import os
import time
from types import SimpleNamespace

import pytest
from budget import BUDGET, SLOWER
from comfy_api.latest import io
from craft_lora_pack.comfy_adapter.page import routes
from craft_lora_pack.comfy_adapter.use import shown_grid as module
from craft_lora_pack.comfy_adapter.use.shown_grid import ShownGrid, shown_grid
from craft_lora_pack.nodes.compare import XYGrid, _kept

LABELS = {"rows": ["direct"], "columns": ["seed 1", "seed 2"]}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_root", lambda: tmp_path / "grids")
    return tmp_path / "grids"


def cell(column, preset="{}"):
    return {"row": 0, "column": column, "picture": "data:,", "scores": "", "preset": preset}


def grid(*cells):
    return {**LABELS, "cells": list(cells)}


def test_the_cells_of_the_last_run_are_shown_with_its_last_line():
    kept = ShownGrid.begun("w", "5:7")
    kept.add("cell 1 of 2", grid())
    kept.add("cell 2 of 2", grid(cell(0)))
    kept.add("Stopped: 1 of 2 cells are done.", grid())
    assert shown_grid("w", "5:7") == {
        "text": "Stopped: 1 of 2 cells are done.", "grid": grid(cell(0)),
    }  # fmt: skip
    again = ShownGrid.begun("w", "5:7")
    assert shown_grid("w", "5:7") is None
    again.add("2 of 2 cells", grid(cell(0, "a"), cell(1)))
    again.add("2 cells are done.", grid(cell(0, "b")))
    assert shown_grid("w", "5:7")["grid"]["cells"] == [cell(0, "b"), cell(1)]


def test_a_grid_shows_on_no_other_node_and_in_no_other_workflow(folder):
    ShownGrid.begun("w", "5").add("done", grid(cell(0)))
    for workflow, node in [("w", "6"), ("v", "5"), ("", ""), ("../w", "5"), ("w5", "")]:
        assert shown_grid(workflow, node) is None
    ShownGrid.begun("../../out", "/etc").add("done", grid(cell(0)))
    assert len(list(folder.iterdir())) == 2
    assert {path.suffix for path in folder.rglob("*")} == {".jsonl"}


@pytest.mark.parametrize(
    "extra", [None, {}, [], {"workflow": None}, {"workflow": "w"}, {"workflow": {"id": 5}},
              {"workflow": {"id": ""}}],
)  # fmt: skip
def test_a_prompt_of_no_workflow_keeps_nothing(folder, extra):
    kept = _kept(SimpleNamespace(unique_id="5", extra_pnginfo=extra))
    kept.add("done", grid(cell(0)))
    assert not folder.exists() and _kept(None).path is None


def test_the_node_is_given_the_workflow_that_its_prompt_was_queued_from(folder):
    assert io.Hidden.extra_pnginfo in XYGrid.define_schema().hidden
    kept = _kept(SimpleNamespace(unique_id="5", extra_pnginfo={"workflow": {"id": "w"}}))
    kept.add("done", grid(cell(0)))
    assert shown_grid("w", "5")["text"] == "done"


def test_lines_that_were_cut_are_left_out(folder):
    ShownGrid.begun("w", "5").add("1 of 2 cells", grid(cell(0)))
    (path,) = folder.iterdir()
    whole = path.read_bytes()
    path.write_bytes(
        whole + b'["2 of 2", {"rows"\n[]\n5\n["a", {"cells": [{}]}]\n\xff\n' + b"[" * 9999
    )
    assert shown_grid("w", "5") == {"text": "1 of 2 cells", "grid": grid(cell(0))}


def test_what_is_kept_is_bounded(folder, monkeypatch):
    monkeypatch.setattr(module, "_MOST_GRIDS", 3)
    monkeypatch.setattr(module, "_MOST_BYTES", 1000)
    for node in range(5):
        kept = ShownGrid.begun("w", str(node))
        for column in range(20):
            kept.add("a cell", grid(cell(column)))
        os.utime(kept.path, (node, node))
        assert kept.path.stat().st_size <= 1000 and shown_grid("w", str(node))
    assert [node for node in range(5) if shown_grid("w", str(node))] == [2, 3, 4]


def test_a_folder_that_takes_no_file_is_no_fault(folder):
    folder.write_text("a file")
    kept = ShownGrid.begun("w", "5")
    kept.add("done", grid(cell(0)))
    assert kept.path is None


def test_the_page_asks_a_route_that_answers_for_any_ids(monkeypatch):
    def answer(**query):
        request = SimpleNamespace(rel_url=SimpleNamespace(query=query))
        return json.loads(asyncio.run(routes._shown_grid(request)).text)

    ShownGrid.begun("w", "5").add("done", grid(cell(0)))
    assert answer(workflow="w", node="5") == {"shown": {"text": "done", "grid": grid(cell(0))}}
    assert answer() == answer(workflow="x" * 9999, node="../5\0") == {"shown": None}

    def breaks(*_):
        raise PermissionError(13, "not yours", "a")

    monkeypatch.setattr(routes, "shown_grid", breaks)
    assert "not yours" in answer(workflow="w", node="5")["error"]


def test_what_is_kept_is_read_in_one_pass(folder):
    ShownGrid.begun("w", "1")
    (path,) = folder.iterdir()
    line = '["a", {"cells": [{"row": %d, "column": 0}]}]\n'
    path.write_text("".join(line % n for n in range(100_000)))
    start = time.process_time()
    shown = shown_grid("w", "1")
    assert time.process_time() - start < BUDGET * SLOWER
    assert [one["row"] for one in shown["grid"]["cells"]] == list(range(100_000))
