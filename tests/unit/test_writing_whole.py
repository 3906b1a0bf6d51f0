"""Files appear whole or not at all, no name loses its file, and killed saves leave nothing."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from craft_core import writing
from craft_core.errors import CraftError
from craft_core.writing import Taken, is_writable, write_whole

ROOT = Path(__file__).resolve().parents[2]
PARTIAL = re.compile(r"\.[0-9a-f]{16}\.tmp")
SAVES = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
from pathlib import Path
from craft_core.writing import write_whole

def pieces():
    for n in range(1_000_000):
        yield b"x" * 10_000
        print(n, flush=True)

write_whole(Path(sys.argv[1]), pieces())
"""

needs_locks = pytest.mark.skipif(sys.platform == "win32", reason="Windows refuses by itself")


def partial(folder: Path) -> list[str]:
    return [one.name for one in folder.iterdir() if PARTIAL.fullmatch(one.name)]


@pytest.fixture
def saving(tmp_path):
    """A program in the midst of a save into the folder."""
    command = [sys.executable, "-c", SAVES, str(tmp_path / "large")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as program:
        assert program.stdout.readline().strip() == "0"
        yield program
        program.kill()


@needs_locks
def test_what_a_killed_save_left_is_removed_at_the_next_save(saving, tmp_path):
    saving.send_signal(signal.SIGKILL)
    saving.wait()
    assert len(partial(tmp_path)) == 1
    write_whole(tmp_path / "small", [b"small"])
    assert [one.name for one in tmp_path.iterdir()] == ["small"]


@needs_locks
def test_what_another_program_is_saving_is_left_alone(saving, tmp_path):
    (begun,) = partial(tmp_path)
    write_whole(tmp_path / "small", [b"small"])
    assert partial(tmp_path) == [begun] and saving.poll() is None


def test_an_empty_partial_file_is_removed_once_it_is_old(tmp_path):
    left = tmp_path / ".0123456789abcdef.tmp"
    left.touch()
    write_whole(tmp_path / "a", [b"1"])
    assert left.exists()
    old = time.time() - 2 * writing._ABANDONED
    os.utime(left, (old, old))
    write_whole(tmp_path / "a", [b"2"])
    assert not left.exists() and (tmp_path / "a").read_bytes() == b"2"


def test_files_of_other_names_are_never_removed(tmp_path):
    names = [".tmp", "a.tmp", ".0123456789abcde.tmp", ".0123456789ABCDEF.tmp", ".x.safetensors"]
    for name in names:
        (tmp_path / name).write_bytes(b"mine")
    write_whole(tmp_path / "a", [b"1"])
    assert {one.name for one in tmp_path.iterdir()} == {*names, "a"}


def test_an_error_while_the_pieces_are_made_leaves_the_earlier_file(tmp_path):
    def pieces():
        yield b"half"
        raise OSError(28, "No space left on device")

    write_whole(tmp_path / "a", [b"whole"])
    with pytest.raises(OSError, match="No space left"):
        write_whole(tmp_path / "a", pieces())
    assert (tmp_path / "a").read_bytes() == b"whole" and not partial(tmp_path)


def test_of_two_that_want_a_name_exclusively_one_gets_it(tmp_path):
    write_whole(tmp_path / "a", [b"first"], exclusive=True)
    with pytest.raises(Taken) as refused:
        write_whole(tmp_path / "a", [b"second"], exclusive=True)
    assert isinstance(refused.value, CraftError)
    assert (tmp_path / "a").read_bytes() == b"first" and not partial(tmp_path)


def test_a_folder_that_cannot_be_written_is_known(tmp_path):
    assert is_writable(tmp_path) and not is_writable(tmp_path / "none")
