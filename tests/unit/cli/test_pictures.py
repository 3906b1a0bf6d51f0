"""Pictures and captions are read from disk in one order, and none goes without a caption."""

from __future__ import annotations

from pathlib import PureWindowsPath
from types import SimpleNamespace

import pytest
from craft_lora_pack.cli import pictures
from craft_lora_pack.cli.pictures import find_pictures
from craft_lora_pack.craft_core.errors import CraftError


def fill(folder, **captions):
    folder.mkdir(parents=True, exist_ok=True)
    for name, caption in captions.items():
        (folder / f"{name}.png").write_bytes(b"")
        if caption is not None:
            (folder / f"{name}.txt").write_text(caption, "utf-8")
    return folder


def found(given, caption="", flag="images"):
    return [(one.path.name, one.caption) for one in find_pictures(given, caption, flag)]


def test_a_folder_gives_its_pictures_by_name_with_their_text_files(tmp_path):
    fill(tmp_path, b=" a house\n", a="a  cat in\nthe snow")
    (tmp_path / "notes.md").write_text("no picture")
    assert found([str(tmp_path)]) == [("a.png", "a cat in the snow"), ("b.png", "a house")]


def test_a_text_file_of_windows_has_a_mark_at_its_beginning_that_is_not_learned(tmp_path):
    fill(tmp_path, a="\ufeffa cat")
    assert found([str(tmp_path)]) == [("a.png", "a cat")]


def test_pictures_have_one_order_on_every_system():
    """Paths of Windows sort without regard to case."""
    paths = [PureWindowsPath(name) for name in ("b.png", "C.png", "a.png")]
    assert [one.name for one in sorted(paths)] == ["a.png", "b.png", "C.png"]
    found = pictures._by_name(SimpleNamespace(iterdir=lambda: paths))
    assert [one.name for one in found] == ["C.png", "a.png", "b.png"]


def test_a_caption_for_all_stands_before_text_files(tmp_path):
    fill(tmp_path, a="a cat", b=None)
    assert found([str(tmp_path)], "sks") == [("a.png", "sks"), ("b.png", "sks")]


def test_files_and_folders_keep_the_order_they_are_given_in(tmp_path):
    one, two = fill(tmp_path / "one", z="last"), fill(tmp_path / "two", a="first")
    assert [name for name, _ in found([str(one / "z.png"), str(two)])] == ["z.png", "a.png"]


def test_a_numbered_folder_inside_counts_its_pictures_that_often(tmp_path):
    fill(tmp_path / "3_dog", a="a dog")
    fill(tmp_path / "plain", b="a cat")
    assert [name for name, _ in found([str(tmp_path)])] == ["a.png"] * 3 + ["b.png"]


def test_a_marker_is_read_as_in_a_prompt(tmp_path):
    fill(tmp_path, a="<c>a dog</c> in <s>ink</s>")
    assert found([str(tmp_path)]) == [("a.png", "<c>a dog</c> in <s>ink</s>")]
    with pytest.raises(CraftError, match="a.png"):
        found([str(tmp_path)], "<c>a dog <s>in</c> ink</s>")


@pytest.mark.parametrize("caption", [None, "", " \n"])
def test_a_picture_without_a_caption_is_named_with_what_to_do(tmp_path, caption):
    fill(tmp_path, a=caption)
    with pytest.raises(CraftError) as caught:
        found([str(tmp_path)], flag="content")
    assert "a.txt" in str(caught.value) and "--content-caption" in str(caught.value)


@pytest.mark.parametrize("flag", ["images", "prior", "content", "style"])
def test_what_is_not_there_or_empty_is_named_with_its_flag(tmp_path, flag):
    for path in (tmp_path / "missing", fill(tmp_path / "empty")):
        with pytest.raises(CraftError) as caught:
            found([str(path)], flag=flag)
        assert f"--{flag}" in str(caught.value) and path.name in str(caught.value)


def test_a_caption_that_is_no_text_is_named(tmp_path):
    fill(tmp_path, a=None)
    (tmp_path / "a.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(CraftError, match="a.txt"):
        found([str(tmp_path)])
