"""On a full disk a run goes on without what it would have kept, and what was kept stays whole."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import folder_paths
import pytest
import torch
from craft_lora_pack.comfy_adapter.model import measured
from craft_lora_pack.comfy_adapter.use.kept_cells import KeptCells
from craft_lora_pack.comfy_adapter.use.search_journal import SearchJournal
from craft_lora_pack.comfy_adapter.use.shown_grid import ShownGrid, shown_grid
from craft_lora_pack.craft_core.fusion import FUSION
from craft_lora_pack.craft_core.lora import STATISTICS
from craft_lora_pack.craft_core.search import GridSetting

resource = pytest.importorskip("resource")
SIZES = [0, 1, 60, 200]
STATISTIC = next(iter(STATISTICS))
LAYERS = ["middle_block.1.proj_in", "middle_block.1.proj_out"]


@pytest.fixture(autouse=True)
def kept(tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr(folder_paths, "get_user_directory", lambda: str(tmp_path / "user"))
    return tmp_path / "user" / "__craft_lora"


@pytest.fixture
def limit() -> Iterator[Callable[[int], None]]:
    """Sets how large a file may become, as a full disk does; undone afterwards."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # then a write is an error
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


@pytest.fixture
def full(limit, monkeypatch) -> Callable[[int], None]:
    """The same, with nothing said, as what tests print goes into files too."""
    monkeypatch.setattr("logging.Logger._log", lambda *_, **__: None)
    return limit


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def setting(seed: int) -> GridSetting:
    return GridSetting(FUSION["direct"], {}, "all", 1.0, 0.5, None, "cfg", {}, 3.0, seed)


@pytest.mark.parametrize("size", SIZES)
def test_a_search_goes_on_without_its_journal(full, size):
    journal = SearchJournal.of(["a"])
    first = (("direct", 1), (0.25, 0.5))
    journal.add(*first)
    full(journal.path.stat().st_size + size)
    scored = {first[0]: first[1]}
    for seed in range(2, 30):
        scored["direct", seed] = (0.125, 0.75)
        journal.add(("direct", seed), scored["direct", seed])
    assert journal.scores == scored and journal.path is None
    full(resource.RLIM_INFINITY)
    again = SearchJournal.of(["a"])
    assert again.scores[first[0]] == first[1] and again.scores.items() <= scored.items()
    again.add(("direct", 99), (0.5, 0.5))
    later = SearchJournal.of(["a"]).scores
    assert later == again.scores and ("direct", 99) in later


@pytest.mark.parametrize("size", SIZES)
def test_a_grid_goes_on_without_its_cells(full, kept, size):
    cells = KeptCells.of(["a"])
    latent = torch.ones(1, 4, 16, 16)
    cells.put(setting(1), latent)
    before = contents(kept)
    full(size)
    cells.put(setting(1), latent * 2)
    cells.put(setting(2), latent)
    assert cells.folder is None and cells.get(setting(1)) is None
    assert contents(kept) == before
    full(resource.RLIM_INFINITY)
    again = KeptCells.of(["a"])
    assert torch.equal(again.get(setting(1)), latent) and again.get(setting(2)) is None


@pytest.mark.parametrize("size", SIZES)
def test_a_grid_goes_on_without_what_it_shows(full, size):
    cells = [{"row": 0, "column": n, "picture": "data:,"} for n in range(20)]
    labels = {"rows": ["a"], "columns": ["b"]}
    shown = ShownGrid.begun("w", "1")
    shown.add("cell 1", {**labels, "cells": cells[:1]})
    full(shown.path.stat().st_size + size)
    for number in range(1, 20):
        shown.add(f"cell {number + 1}", {**labels, "cells": cells[number : number + 1]})
    assert shown.path is None
    full(resource.RLIM_INFINITY)
    found = shown_grid("w", "1")["grid"]["cells"]
    assert found == cells[: len(found)] and found


@pytest.mark.parametrize("size", SIZES)
def test_a_run_goes_on_without_its_measurements(full, kept, tmp_path, size):
    file = tmp_path / "lora.safetensors"
    file.write_bytes(b"any content")
    numbers = measured.FileNumbers(str(file), LAYERS, "cpu")
    numbers[STATISTIC, LAYERS[0], 0] = 0.5
    numbers.save()
    before = contents(kept)
    assert before
    full(size)
    for k in range(1, 20):
        numbers[STATISTIC, LAYERS[1], k] = 0.25
    numbers.save()
    assert contents(kept) == before  # as it was, and nothing beside it
    assert len(numbers) == 20
    full(resource.RLIM_INFINITY)
    again = measured.FileNumbers(str(file), LAYERS, "cpu")
    assert dict(again) == {(STATISTIC, LAYERS[0], 0): 0.5}
