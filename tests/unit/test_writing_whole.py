"""Files appear whole or not at all, no name loses its file, and killed saves leave nothing."""

import errno
import math
import os
import re
import signal
import subprocess
import sys
import threading
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
import threading
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


@pytest.fixture
def on_windows(monkeypatch):
    """No locks, and waits that take no time; the waits."""
    waits = []
    monkeypatch.setattr(writing, "_LOCKS", None)
    monkeypatch.setattr(writing.time, "sleep", waits.append)
    return waits


def refusing(monkeypatch, name: str, times: float) -> None:
    """As Windows refuses what is done to a file that another program has open."""
    real, left = getattr(os, name), [times]

    def does(*given, **more):
        left[0] -= 1
        if left[0] >= 0:
            raise PermissionError(13, "The process cannot access the file")
        return real(*given, **more)

    monkeypatch.setattr(os, name, does)


@pytest.mark.parametrize("exclusive", [True, False])
def test_a_file_that_a_virus_scanner_has_open_is_placed_when_it_lets_go(
    tmp_path, monkeypatch, on_windows, exclusive
):
    refusing(monkeypatch, "link" if exclusive else "replace", 3)
    write_whole(tmp_path / "a", [b"whole"], exclusive=exclusive)
    assert (tmp_path / "a").read_bytes() == b"whole" and len(on_windows) == 3
    assert not partial(tmp_path)


def test_a_file_that_stays_open_is_an_error_and_keeps_its_content(
    tmp_path, monkeypatch, on_windows
):
    write_whole(tmp_path / "a", [b"first"])
    refusing(monkeypatch, "replace", math.inf)
    with pytest.raises(PermissionError):
        write_whole(tmp_path / "a", [b"second"])
    assert (tmp_path / "a").read_bytes() == b"first" and not partial(tmp_path)
    assert 1 < sum(on_windows) < 5


@needs_locks
def test_elsewhere_what_is_refused_is_an_error_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(writing.time, "sleep", lambda _: pytest.fail("it waited"))
    refusing(monkeypatch, "replace", math.inf)
    with pytest.raises(PermissionError):
        write_whole(tmp_path / "a", [b"whole"])


def test_a_file_that_has_its_name_is_saved_though_its_other_name_stays(
    tmp_path, monkeypatch, on_windows
):
    def held_open(*_: object, **__: object) -> None:
        raise PermissionError(13, "The process cannot access the file")

    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(Path, "unlink", held_open)
        write_whole(tmp_path / "a", [b"whole"], exclusive=True)
    (left,) = partial(tmp_path)
    assert (tmp_path / "a").read_bytes() == b"whole"
    old = time.time() - 2 * writing._ABANDONED
    os.utime(tmp_path / left, (old, old))
    write_whole(tmp_path / "b", [b"next"])
    assert not partial(tmp_path) and (tmp_path / "a").read_bytes() == b"whole"


def test_without_locks_what_another_save_is_about_to_place_is_left_alone(
    tmp_path, monkeypatch, on_windows
):
    """Windows lets nobody move a file that somebody has open, and the writer has just closed it."""
    about = tmp_path / ".0123456789abcdef.tmp"
    about.write_bytes(b"whole")
    opened = []
    monkeypatch.setattr(
        writing, "open", lambda path, *mode: opened.append(path) or open(path, *mode), raising=False
    )
    write_whole(tmp_path / "a", [b"1"])
    assert partial(tmp_path) == [about.name] and about not in opened
    old = time.time() - 2 * writing._ABANDONED
    os.utime(about, (old, old))
    write_whole(tmp_path / "a", [b"2"])
    assert not partial(tmp_path)


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
    assert not partial(tmp_path)


def test_a_folder_that_takes_no_file_is_known_at_once(tmp_path, monkeypatch):
    """Python's tempfile takes the refusal for a name that is taken, on Windows, and tries on."""
    tried = []

    def refused(path: Path, *_: object) -> None:
        tried.append(path)
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(writing, "open", refused, raising=False)
    assert not is_writable(tmp_path) and len(tried) == 1


NO_LINKS = OSError(errno.EPERM, "Operation not permitted")
PLACES = f"""
import errno, os, signal, sys
sys.path.insert(0, {str(ROOT)!r})
from pathlib import Path
from craft_core import writing

def refused(*given, **more):
    raise OSError(errno.EPERM, "Operation not permitted")

def killed(*given, **more):
    os.kill(os.getpid(), signal.SIGKILL)

writing.os.link = refused
writing.os.replace = killed  # the step in which an empty file would have the name
writing.write_whole(Path(sys.argv[1]), [b"whole"], exclusive=True)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the system's own move that replaces nothing")
def test_without_links_no_empty_file_has_the_name_at_any_moment(tmp_path):
    done = subprocess.run([sys.executable, "-c", PLACES, str(tmp_path / "a")], check=False)
    assert done.returncode == 0 and (tmp_path / "a").read_bytes() == b"whole"
    assert not partial(tmp_path)


@pytest.mark.parametrize("links", [True, False])
def test_a_file_is_given_no_name_that_another_has(tmp_path, monkeypatch, links):
    def refused(*_: object) -> None:
        raise NO_LINKS

    if not links:
        monkeypatch.setattr(os, "link", refused)
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(name.encode())
    with pytest.raises(FileExistsError):
        writing.move_new(tmp_path / "a", tmp_path / "b")
    writing.move_new(tmp_path / "a", tmp_path / "c")
    assert {one.name: one.read_bytes() for one in tmp_path.iterdir()} == {"b": b"b", "c": b"a"}
    with pytest.raises(FileNotFoundError):
        writing.move_new(tmp_path / "a", tmp_path / "d")


def test_a_file_is_written_over_only_where_it_is_still_the_one(tmp_path):
    (tmp_path / "a").write_bytes(b"another's")
    with pytest.raises(Taken):
        write_whole(tmp_path / "a", [b"mine"], over=lambda: False)
    assert (tmp_path / "a").read_bytes() == b"another's" and not partial(tmp_path)
    write_whole(tmp_path / "a", [b"mine"], over=lambda: True)
    assert (tmp_path / "a").read_bytes() == b"mine"


@needs_locks
def test_no_other_save_acts_between_the_look_and_the_move(tmp_path):
    """A second one, begun in the midst of the first one's look, waits for its move."""
    order, others = [], []

    def look_of_the_other() -> bool:
        order.append("other")
        return True

    def write_the_other() -> None:
        write_whole(tmp_path / "a", [b"other"], over=look_of_the_other)

    def look() -> bool:
        others.append(threading.Thread(target=write_the_other))
        others[0].start()
        time.sleep(0.3)
        order.append("first")
        return True

    write_whole(tmp_path / "a", [b"first"], over=look)
    others[0].join()
    assert order == ["first", "other"] and (tmp_path / "a").read_bytes() == b"other"
