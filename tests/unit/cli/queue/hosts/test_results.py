"""When two files show the same, and under which names files of several servers are saved."""

from __future__ import annotations

import hashlib
import io
import json
import struct
import zlib
from collections import Counter
from types import SimpleNamespace

import pytest
from craft_lora_pack.cli.queue.hosts import pictures, results
from craft_lora_pack.cli.queue.hosts.pictures import shown
from craft_lora_pack.cli.queue.hosts.results import Results, made_of
from craft_lora_pack.cli.queue.journal import Journal
from craft_lora_pack.cli.queue.matrix import jobs_of
from craft_lora_pack.client.address import Inputs
from fake_comfyui import OBJECT_INFO, PROMPT, picture
from PIL import Image, PngImagePlugin


def png(colour, text="", level=6, size=(40, 30)):
    info, file = PngImagePlugin.PngInfo(), io.BytesIO()
    info.add_text("prompt", text)
    Image.new("RGB", size, colour).save(file, "PNG", pnginfo=info, compress_level=level)
    return file.getvalue()


def test_a_picture_is_the_same_whatever_it_carries_and_however_it_is_compressed():
    assert shown(png((1, 2, 3))) == shown(png((1, 2, 3), "a text", level=1))
    assert shown(png((1, 2, 3))) != shown(png((1, 2, 4)))
    assert shown(png((1, 2, 3))) != shown(png((1, 2, 3), size=(30, 40)))


def saved(image, **more):
    file = io.BytesIO()
    image.save(file, "PNG", **more)
    return file.getvalue()


def test_colours_and_further_frames_are_part_of_a_picture():
    one, other = (Image.new("P", (4, 4), 1) for _ in range(2))
    one.putpalette([0, 0, 0, 9, 9, 9])
    other.putpalette([0, 0, 0, 9, 9, 8])
    frames = [[Image.new("RGB", (4, 4), (n, 0, 0)) for n in few] for few in ((1, 2), (1, 3))]
    alike = [
        (saved(one), saved(other)),
        (saved(one, transparency=0), saved(one, transparency=1)),
        tuple(saved(few[0], save_all=True, append_images=few[1:]) for few in frames),
    ]
    info = PngImagePlugin.PngInfo()
    info.add_text("prompt", "a text")
    for first, second in alike:
        assert first != second and shown(first) != shown(second)
    assert shown(saved(one, pnginfo=info)) == shown(saved(one))


def test_a_broken_picture_is_like_itself_alone():
    whole = png((1, 2, 3))
    rows = whole.index(b"IDAT") + 4
    broken = [whole[:cut] for cut in range(rows + 8)]
    broken += [whole[:at] + bytes([whole[at] ^ 255]) + whole[at + 1 :] for at in range(rows + 8)]
    for one in broken:
        assert shown(one) == shown(bytes(one))
    assert shown(whole) not in {shown(one) for one in broken[:rows]}


PASSES = [(0, 8, 0, 8), (4, 8, 0, 8), (0, 4, 4, 8), (2, 4, 0, 4), (0, 2, 2, 4), (1, 2, 0, 2),
          (0, 1, 1, 2)]  # fmt: skip
BITS = {(0, 1): 1, (0, 2): 2, (0, 4): 4, (0, 8): 8, (0, 16): 16, (2, 8): 24, (2, 16): 48,
        (3, 1): 1, (3, 2): 2, (3, 4): 4, (3, 8): 8, (4, 8): 16, (4, 16): 32, (6, 8): 32,
        (6, 16): 64}  # fmt: skip


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def by_hand(size, kind=2, depth=8, interlaced=0, rows=None, level=6):
    """A black PNG, or one of these rows."""
    width, height = size
    if rows is None:
        rows = b""
        for x, across, y, down in PASSES if interlaced else [(0, 1, 0, 1)]:
            columns = len(range(x, width, across))
            line = b"\0" * (1 + (columns * BITS[kind, depth] + 7) // 8)
            rows += line * len(range(y, height, down)) if columns else b""
    header = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, interlaced)
    colours = chunk(b"PLTE", bytes(6)) if kind == 3 else b""
    data = zlib.compress(rows, level)
    halves = chunk(b"IDAT", data[: len(data) // 2]) + chunk(b"IDAT", data[len(data) // 2 :])
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + colours + halves + chunk(b"IEND", b"")


@pytest.mark.parametrize("interlaced", [0, 1])
@pytest.mark.parametrize(("kind", "depth"), BITS)
def test_every_kind_of_png_is_compared_by_its_rows(kind, depth, interlaced):
    for size in ((1, 1), (3, 2), (5, 9), (40, 30)):
        one, other = (by_hand(size, kind, depth, interlaced, level=level) for level in (0, 9))
        Image.open(io.BytesIO(one)).load()
        assert one != other and shown(one) == shown(other)


@pytest.fixture
def inflated(monkeypatch):
    """The bytes that were inflated."""
    counted = []

    class Counting:
        def __init__(self):
            self.inner = zlib.decompressobj()

        def decompress(self, data, most):
            assert most > 0  # 0 is without a limit
            made = self.inner.decompress(data, most)
            counted.append(len(made))
            return made

        def __getattr__(self, name):
            return getattr(self.inner, name)

    replaced = SimpleNamespace(decompressobj=Counting, error=zlib.error)
    monkeypatch.setattr(pictures, "zlib", replaced)
    return counted


@pytest.mark.parametrize("more", [1, 1000, 30_000_000])
def test_nothing_is_inflated_beyond_the_size_in_the_header(inflated, more):
    stated = 3 * (1 + 4 * 3)
    bomb = by_hand((4, 3), rows=bytes(stated + more))
    assert shown(bomb) == hashlib.sha256(bomb).hexdigest()
    assert sum(inflated) == stated + 1


@pytest.mark.parametrize("size", [(16384, 16384), (1 << 31, 1), (4_000_000_000, 4_000_000_000)])
def test_a_picture_of_more_than_pictures_have_is_compared_as_it_is_stored(inflated, size):
    bomb = by_hand(size, 6, 16, rows=bytes(1000))
    assert shown(bomb) == hashlib.sha256(bomb).hexdigest() and inflated == []


def test_a_picture_of_8192_pixels_a_side_is_small_enough():
    rows = 8192 * (1 + 8192 * 4)
    assert rows <= pictures._MOST < 2 * rows


@pytest.mark.parametrize("change", [{"kind": 5, "rows": b""}, {"depth": 3, "rows": b""},
                                    {"interlaced": 2}, {"rows": b""}, {"rows": b"12"}])  # fmt: skip
def test_a_header_of_no_picture_or_of_another_is_compared_as_it_is(change):
    one = by_hand((4, 3), **change)
    assert shown(one) == hashlib.sha256(one).hexdigest()


def test_what_a_node_is_made_of_is_all_that_leads_to_it_and_nothing_else():
    first, other = jobs_of(Inputs(PROMPT, OBJECT_INFO), [], ["seed=1,2"], [])
    assert made_of(first.prompt, "1") == made_of(other.prompt, "1")
    assert made_of(first.prompt, "3") != made_of(other.prompt, "3")
    looped = {"1": {"class_type": "A", "inputs": {"a": ["1", 0], "b": ["9", 0]}}}
    assert made_of(looped, "1")


def test_a_job_whose_journal_cannot_be_written_leaves_no_file(tmp_path, monkeypatch):
    jobs = jobs_of(Inputs(PROMPT, OBJECT_INFO), [], ["seed=1,2"], [])
    journal = Journal(tmp_path, "me")
    results = Results(journal, tmp_path, "demo", jobs)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(journal, "done", full)
    made = [("3", {"filename": "x_1.png", "type": "output"}, picture(1))] * 2
    with pytest.raises(OSError, match="No space"):
        results.save(jobs[0], made)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("node", ["3", "3.0.0.1"])
def test_the_work_for_a_jobs_files_grows_as_their_number(tmp_path, monkeypatch, node):
    """Not as its square: what is the same for all of them is found once."""
    calls: Counter[str] = Counter()
    for name in ("made_of", "stems"):
        whole = getattr(results, name)

        def counting(*given, name=name, whole=whole):
            calls[name] += 1
            return whole(*given)

        monkeypatch.setattr(results, name, counting)
    jobs = jobs_of(Inputs(PROMPT, OBJECT_INFO), [], ["seed=1,2"], [])
    saved = Results(Journal(tmp_path, "me"), tmp_path, "demo", jobs)
    made = [(node, {"filename": f"x_{n}.png"}, picture(n)) for n in range(40)]
    names = [saved.save(job, made) for job in jobs]
    assert names == [[f"demo_seed-{seed}_{n:05}.png" for n in range(1, 41)] for seed in (1, 2)]
    assert calls["made_of"] <= len(jobs) and calls["stems"] <= 2 * len(jobs)


def test_a_node_that_came_into_being_while_a_job_ran_is_of_that_job_alone(tmp_path):
    """Its files bear the job's own name and parameters, though all have a node so called."""
    jobs = jobs_of(Inputs(PROMPT, OBJECT_INFO), [], ["seed=1,2"], [])
    saved = Results(Journal(tmp_path, "me"), tmp_path, "demo", jobs)
    for job in reversed(jobs):
        (name,) = saved.save(job, [("3.0.0.1", {"filename": "x_1.png"}, picture(1))])
        assert name == f"demo_seed-{job.parameters['seed']}_00001.png"
        told = json.loads(Image.open(tmp_path / name).text["craft_queue"])
        assert told["parameters"] == dict(job.parameters)


def test_a_node_that_gives_another_file_each_time_keeps_each_jobs_own(tmp_path):
    """Its prompt is the same in both jobs, and its pictures are not."""
    prompt = {
        **PROMPT,
        "3": {**PROMPT["3"], "inputs": {"images": ["1", 0], "filename_prefix": "x"}},
    }
    jobs = jobs_of(Inputs(prompt, OBJECT_INFO), [], ["seed=1,2"], [])
    results = Results(Journal(tmp_path, "me"), tmp_path, "demo", jobs)
    names = [
        results.save(job, [("3", {"filename": f"x_{n}.png"}, picture(n))])
        for n, job in enumerate(jobs)
    ]
    assert names == [["demo_seed-1_00001.png"], ["demo_seed-2_00001.png"]]
