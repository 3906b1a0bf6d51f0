"""A mistake is one message and status 1 before the host is entered; Ctrl-C waits for its step."""

from __future__ import annotations

import importlib
import re
import signal

import pytest
import torch
from craft_lora_pack.cli.main import main
from craft_lora_pack.cli.progress import Progress
from craft_lora_pack.cli.train.common import layer_sets
from craft_lora_pack.craft_core.training import Pace, Training

IMAGES = ["--images", __file__, "--caption", "a file"]
LORA = ["train", "lora", "--role", "content", "--checkpoint", "model.safetensors"]


def failed(capsys, *arguments) -> str:
    assert main([*arguments]) == 1
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.count("\n") == 1
    assert printed.err.startswith("Error: ")
    return printed.err


def test_a_missing_folder_of_pictures_is_told(capsys, tmp_path):
    assert "no file or folder" in failed(capsys, *LORA, "--images", str(tmp_path / "none"))


def test_a_model_needs_all_three_parts(capsys):
    bare = LORA[:4]
    assert "No model given" in failed(capsys, *bare, *IMAGES)
    assert "no --clip and no --vae" in failed(capsys, *bare, *IMAGES, "--unet", "model.safetensors")


def test_layer_sets_are_a_preset_or_a_file_of_patterns(capsys, tmp_path):
    assert "b-lora" in failed(capsys, *LORA, *IMAGES, "--layer-sets", "c-lora")
    bad = tmp_path / "patterns.txt"
    bad.write_text("contents: mid_block")
    assert "Line 1" in failed(capsys, *LORA, *IMAGES, "--layer-sets", str(bad))


def test_a_file_of_patterns_may_have_the_mark_that_windows_begins_texts_with(tmp_path):
    file = tmp_path / "patterns.txt"
    file.write_text("content: mid_block", "utf-8-sig")
    assert layer_sets(str(file), ()) == "content: mid_block"


@pytest.mark.parametrize("flag", ["--comfyui", "--base-directory", "--custom-node"])
def test_a_folder_of_the_host_that_is_not_there_is_told(capsys, tmp_path, monkeypatch, flag):
    host = tmp_path / "ComfyUI"
    (host / "comfy").mkdir(parents=True)
    (host / "comfy" / "cli_args.py").touch()
    monkeypatch.setenv("COMFYUI_PATH", str(tmp_path))
    missing = str(tmp_path / "missing")
    assert missing in failed(capsys, *LORA, *IMAGES, flag, missing)


def test_no_comfyui_at_all_is_told(capsys, monkeypatch, tmp_path):
    # The clone may be in custom_nodes.
    monkeypatch.setattr("craft_lora_pack.cli.host.PACK", tmp_path)
    monkeypatch.delenv("COMFYUI_PATH", raising=False)
    assert "--comfyui" in failed(capsys, *LORA, *IMAGES)


class OneNumber:
    """A recipe that pulls a number to zero."""

    def __init__(self) -> None:
        self.number = torch.ones((), requires_grad=True)

    def parameters(self):
        return {"number": self.number}

    def backward(self, draw, share):
        loss = self.number.square()
        (share * loss).backward()
        return {"square": float(loss.detach())}

    def settings(self):
        return {}

    def write(self, path, metadata):
        raise NotImplementedError


@pytest.mark.parametrize(("asked_in", "done"), [(1, 1), (2, 2), (3, 3)])
def test_ctrl_c_ends_a_training_between_two_steps(asked_in, done):
    training = Training(OneNumber(), Pace(steps=3, rate=0.1))
    backward = training.recipe.backward

    def interrupted(draw, share):
        if training.step + 1 == asked_in:
            signal.raise_signal(signal.SIGINT)
        return backward(draw, share)

    training.recipe.backward = interrupted
    before = signal.getsignal(signal.SIGINT)
    with Progress() as progress:
        if asked_in < 3:
            with pytest.raises(KeyboardInterrupt):
                training.run(progress)
        else:  # nothing is left to stop
            training.run(progress)
        assert signal.getsignal(signal.SIGINT) == signal.SIG_DFL  # the next one ends it at once
    assert training.step == done
    assert signal.getsignal(signal.SIGINT) == before


@pytest.mark.parametrize(
    "error",
    [
        PermissionError(13, "Permission denied", "place"),
        OSError(36, "File name too long", "a" * 5000),
        RecursionError("deep"),
        MemoryError(),
        OverflowError("large"),
        re.error("pattern"),
        UnicodeEncodeError("utf-8", "\ud800", 0, 1, "half"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_breaks_by_the_users_files_is_one_message(capsys, monkeypatch, error):
    def breaks(*_):
        raise error

    monkeypatch.setattr("craft_lora_pack.cli.methods.method_table", breaks)
    told = failed(capsys, "methods", "--markdown")
    assert len(told) <= 2010


def test_a_fault_of_the_program_is_seen_as_one(monkeypatch):
    def breaks(*_):
        raise KeyError("ours")

    monkeypatch.setattr("craft_lora_pack.cli.methods.method_table", breaks)
    with pytest.raises(KeyError):
        main(["methods", "--markdown"])


@pytest.mark.parametrize(
    "given", ["a" * 5000, "a\0b", "\udc80", "."], ids=["long", "NUL", "half", "."]
)
@pytest.mark.parametrize(
    "arguments",
    [
        ("inspect",),
        (*LORA, "--images"),
        (*LORA, *IMAGES, "--layer-sets"),
        (*LORA, *IMAGES, "--comfyui"),
        ("fuse", "--method", "direct", "--save", "a.safetensors", "--content-lora"),
        ("fuse", "--method", "direct", "--content-lora", "a.safetensors", "--save"),
    ],
    ids=lambda words: f"{words[0]} {words[-1]}",
)
def test_any_path_is_taken_or_told(capsys, monkeypatch, tmp_path, arguments, given):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("craft_lora_pack.cli.host.PACK", tmp_path)
    monkeypatch.delenv("COMFYUI_PATH", raising=False)
    failed(capsys, *arguments, given)


def test_ctrl_c_while_the_command_line_loads_is_one_line(monkeypatch, capsys):
    entry = importlib.import_module("craft_core.__main__")

    def interrupted():
        raise KeyboardInterrupt

    monkeypatch.setattr(entry, "main", interrupted)
    assert entry.guarded() == 130
    assert capsys.readouterr().err.count("\n") == 1
