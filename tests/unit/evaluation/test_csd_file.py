"""CSD's file is read in every spelling, and what is no such file is refused in words."""

from __future__ import annotations

import os
import pickle
import re
import sys
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor

import pytest
import safetensors.torch
import torch
from laws.csd_release import (
    FEATURES,
    GRID,
    LAYERS,
    PATCH,
    SPELLINGS,
    WIDTH,
    csd_weights,
    write_release,
)

from craft_core.errors import CraftError
from craft_core.evaluation.encoders.csd_file import CSDSizes, read_csd

DEEP = 18  # levels of a tuple that has itself twice in each: 2 ** 18 brackets in words


class Code:
    """What a pickle can hold: a call, here of functions that would make a file."""

    def __init__(self, function, *given):
        self.call = function, given

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("mapped", [True, False])
@pytest.mark.parametrize("name", SPELLINGS)
def test_every_spelling_gives_the_same_weights_and_sizes(tmp_path, name, mapped):
    weights, path = csd_weights(), tmp_path / name
    SPELLINGS[name](path, weights)
    file = read_csd(path, mapped)
    assert file.sizes == CSDSizes(WIDTH, LAYERS, PATCH, GRID, FEATURES, FEATURES)
    assert file.sizes.image == PATCH * GRID
    assert file.tensors.keys() == weights.keys()
    for key, one in file.tensors.items():
        torch.testing.assert_close(one.float(), weights[key].to(one.dtype).float(), atol=0, rtol=0)


def test_the_releases_own_sizes_are_read_from_shapes_alone(tmp_path):
    """ViT-L/14 at 224 pixels, with 297 tensors. The file has no numbers, and is refused for that
    alone."""
    layers = 24
    shapes = csd_weights(layers=2, width=64)
    small = {"64": 1024, "192": 3072, "256": 4096, "17": 257, "24": 768, "4": 14, "3": 3}
    large = {}
    for name, one in shapes.items():
        shape = tuple(small[str(size)] for size in one.shape)
        for index in range(layers) if ".resblocks.1." in name else [None]:
            key = name if index is None else name.replace(".1.", f".{index}.", 1)
            large[key] = torch.zeros(1).expand(shape)
    path = tmp_path / "large.pth"
    write_release(path, large)
    assert len(large) == 297
    with pytest.raises(CraftError, match="more numbers than fit into it"):
        read_csd(path)


def test_nothing_that_a_reading_allows_stays_allowed(tmp_path):
    path = tmp_path / "release.pth"
    write_release(path, csd_weights())
    before = set(torch.serialization.get_safe_globals())
    read_csd(path)
    assert set(torch.serialization.get_safe_globals()) == before
    with pytest.raises(pickle.UnpicklingError, match="not an allowed global"):
        torch.load(path, weights_only=True)


@pytest.fixture
def _in_turns():
    """Threads take turns as often as Python lets them."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("_in_turns")
def test_two_readings_at_once_do_not_forbid_each_other_what_they_allow(tmp_path):
    """What torch allows, it allows in the whole process."""
    path = tmp_path / "release.pth"
    write_release(path, csd_weights(layers=2, width=64))
    before = set(torch.serialization.get_safe_globals())
    with ThreadPoolExecutor(2) as threads:
        files = list(threads.map(read_csd, [path] * 200))
    assert {file.sizes.width for file in files} == {64} and len(files) == 200
    assert set(torch.serialization.get_safe_globals()) == before


def without(name):
    return lambda weights: {key: one for key, one in weights.items() if key != name}


def changed(name, value):
    return lambda weights: weights | {name: value}


BLOCK = "backbone.transformer.resblocks"
FAULTS = {
    "no style": (without("last_layer_style"), "it has no last_layer_style"),
    "no content": (without("last_layer_content"), "it has no last_layer_content"),
    "no patches": (without("backbone.conv1.weight"), "it has no backbone.conv1.weight"),
    "no bias": (without(f"{BLOCK}.1.attn.in_proj_bias"), "no .*1.attn.in_proj_bias"),
    "a gap": (
        lambda weights: {key: one for key, one in weights.items() if f"{BLOCK}.1." not in key},
        r"it has no .*resblocks.1.attn.*and \d+ more",
    ),
    "one layer": (lambda _: csd_weights(layers=1), "has 1 layers of width 128"),
    "no layer": (lambda _: csd_weights(layers=0), "has 0 layers"),
    "a width": (lambda _: csd_weights(width=32), "width 32 for pictures of 16 pixels"),
    "other style": (
        changed("last_layer_style", torch.ones(64, FEATURES)),
        r"last_layer_style has the shape \(64, 24\) in place of \(128, 24\)",
    ),
    "an axis": (changed("last_layer_style", torch.ones(WIDTH)), "and not 2 axes"),
    "no feature": (changed("last_layer_content", torch.ones(WIDTH, 0)), r"shape \(128, 0\)"),
    "positions": (
        changed("backbone.positional_embedding", torch.ones(18, WIDTH)),
        r"shape \(18, 128\) in place of \(17, 128\)",
    ),
    "a name": (changed("backbone.more", torch.ones(1)), "it also has backbone.more"),
    "whole numbers": (
        changed("last_layer_style", torch.ones(WIDTH, FEATURES, dtype=torch.int64)),
        "last_layer_style is of torch.int64",
    ),
}  # fmt: skip


@pytest.mark.parametrize("spelling", ["plain.safetensors", "release.pth"])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_file_with_other_names_or_shapes_is_refused(tmp_path, fault, spelling):
    change, message = FAULTS[fault]
    path = tmp_path / spelling
    SPELLINGS[spelling](path, change(csd_weights()))
    with pytest.raises(CraftError, match=f"^{re.escape(spelling)} is no CSD file: .*{message}"):
        read_csd(path)


def test_a_clip_tower_is_no_csd(tmp_path):
    path = tmp_path / "clip.safetensors"
    tower = {key.replace("backbone.", "visual."): one for key, one in csd_weights().items()}
    safetensors.torch.save_file({k: one for k, one in tower.items() if "last" not in k}, path)
    with pytest.raises(CraftError, match="no last_layer_style.*by Load CLIP Vision"):
        read_csd(path)


def test_code_in_a_file_is_never_run(tmp_path):
    made = tmp_path / "made.txt"
    opens, runs = Code(open, str(made), "w"), Code(os.system, f"touch {made}")
    for name, content, asked in (
        ("weights.pth", {"model_state_dict": {"last_layer_style": opens}}, "open"),
        ("beside.pth", {"model_state_dict": csd_weights(), "args": opens}, "open"),
        ("system.pth", {"model_state_dict": csd_weights(), "args": runs}, os.name),
    ):
        path = tmp_path / name
        torch.save(content, path)
        with pytest.raises(CraftError, match=f"{name} is refused: it asks for .*{asked}") as raised:
            read_csd(path)
        assert "weights_only" not in str(raised.value)
    (tmp_path / "bare.pkl").write_bytes(pickle.dumps(opens))
    with pytest.raises(CraftError):
        read_csd(tmp_path / "bare.pkl")
    assert not made.exists()


def deep():
    """A tuple of few bytes in a file, whose text has no end."""
    found = ("key",)
    for _ in range(DEEP):
        found = (found, found)
    return found


def test_of_what_is_no_name_the_error_says_its_type(tmp_path):
    path = tmp_path / "deep.pth"
    torch.save({deep(): torch.ones(1)}, path)
    assert path.stat().st_size < 4000
    with pytest.raises(CraftError, match=r"deep\.pth is no CSD file: tuple is no tensor"):
        read_csd(path)


def test_of_an_error_that_carries_what_a_file_holds_its_type_is_said(tmp_path):
    path = tmp_path / "deep.pth"
    torch.save({"model_state_dict": Code(torch.serialization._get_layout, deep())}, path)
    with pytest.raises(CraftError, match=r"deep\.pth cannot be read: .* \(KeyError\)"):
        read_csd(path)


@pytest.mark.parametrize("mapped", [True, False])
def test_what_a_file_puts_in_place_of_a_tensors_methods_is_not_called(tmp_path, mapped):
    weights, path = csd_weights(), tmp_path / "methods.pth"
    one = torch.nn.Parameter(weights["last_layer_style"])
    for name in ("detach", "clone", "is_floating_point", "to"):
        setattr(one, name, OrderedDict)
    torch.save(weights | {"last_layer_style": one}, path)
    file = read_csd(path, mapped)
    torch.testing.assert_close(
        file.tensors["last_layer_style"], weights["last_layer_style"], atol=0, rtol=0
    )


@pytest.mark.parametrize("name", ["safe_globals", "get_safe_globals"])
def test_a_torch_that_cannot_be_told_what_to_allow_reads_no_checkpoint_and_says_so(
    tmp_path, monkeypatch, name
):
    monkeypatch.delattr(torch.serialization, name)
    for spelling in ("release.pth", "plain.safetensors"):
        SPELLINGS[spelling](tmp_path / spelling, csd_weights())
    with pytest.raises(CraftError, match=r"release\.pth is not read: torch .*2\.5.*Update"):
        read_csd(tmp_path / "release.pth")
    assert read_csd(tmp_path / "plain.safetensors").sizes.width == WIDTH


OTHERS = {
    "a list": [torch.ones(1)],
    "a tensor": torch.ones(1),
    "words": {"last_layer_style": "words"},
    "numbers": {1: torch.ones(1)},
    "sparse": csd_weights() | {"last_layer_style": torch.ones(WIDTH, FEATURES).to_sparse()},
    "two": {"a.last_layer_style": torch.ones(1), "b.last_layer_style": torch.ones(1)},
    "nothing": {},
}


@pytest.mark.parametrize("other", OTHERS)
def test_what_else_a_checkpoint_may_hold_is_refused(tmp_path, other):
    path = tmp_path / "other.pt"
    torch.save(OTHERS[other], path)
    with pytest.raises(CraftError, match="no CSD file"):
        read_csd(path)


def test_what_is_no_file_of_tensors_is_refused(tmp_path):
    whole = tmp_path / "whole.pth"
    write_release(whole, csd_weights())
    content = whole.read_bytes()
    torch.save(csd_weights(), tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    (tmp_path / "short.pth").write_bytes(content[: len(content) // 2])
    (tmp_path / "empty.pth").touch()
    (tmp_path / "text.pth").write_text("no weights")
    (tmp_path / "text.safetensors").write_text("no weights")
    (tmp_path / "named.safetensors").write_bytes(content)
    for name in ("old.pth", "short.pth", "empty.pth", "text.pth", "text.safetensors",
                 "named.safetensors", "gone.pth", "gone.safetensors"):  # fmt: skip
        with pytest.raises(CraftError, match=name):
            read_csd(tmp_path / name)
