"""What a training on the command line learns from a file is what the page gives it: the picture of
the host's Load Image, upright, with its levels."""

from __future__ import annotations

import os
import struct
import zlib

import folder_paths
import nodes as host_nodes
import numpy as np
import pytest
import torch
from craft_lora_pack.comfy_adapter import headless
from craft_lora_pack.craft_core.errors import CraftError
from PIL import Image

HEIGHT, WIDTH = 24, 40
ORIENTATION = 274  # the tag of EXIF
UPRIGHT = {1: None, 3: Image.ROTATE_180, 6: Image.ROTATE_90, 8: Image.ROTATE_270}
"""Orientations of cameras, and how a picture has to be turned to be stored with one."""
PICTURES = {
    "colours.png": lambda: scene(),
    "jpeg.jpg": lambda: scene(),
    "lossy.webp": lambda: scene(),
    "grey_8.png": lambda: scene().convert("L"),
    "black_and_white.png": lambda: scene().convert("1"),
    "palette.png": lambda: scene().quantize(32),
    "alpha.png": lambda: with_alpha(scene()),
    "grey_alpha.png": lambda: with_alpha(scene()).convert("LA"),
    "alpha.webp": lambda: with_alpha(scene()),
    "cmyk.jpg": lambda: scene().convert("CMYK"),
    "two in a row.webp": lambda: scene(),
    **{f"oriented_{one}.jpg": lambda: scene() for one in range(1, 9)},
    "named [output].png": lambda: scene(),
}


def scene():
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    colours = (x * 255 // WIDTH, y * 255 // HEIGHT, (x + y) * 255 // (WIDTH + HEIGHT))
    return Image.fromarray(np.stack(colours, -1).astype(np.uint8))


def with_alpha(picture):
    """Wholly transparent at the top, opaque at the bottom."""
    picture.putalpha(Image.linear_gradient("L").resize(picture.size))
    return picture


def saved(folder, name, picture):
    options = {}
    if name.startswith("oriented"):
        exif = Image.Exif()
        exif[ORIENTATION] = int(name.partition("_")[2][0])
        options = {"exif": exif, "quality": 95}
    if name.startswith("two"):
        options = {"save_all": True, "append_images": [picture.rotate(180)]}
    picture.save(folder / name, **options)
    return folder / name


@pytest.mark.parametrize("name", PICTURES)
def test_a_file_is_the_picture_that_load_image_makes_of_it(name, tmp_path, monkeypatch):
    path = saved(tmp_path, name, PICTURES[name]())
    given = headless._image(path)
    monkeypatch.setattr(folder_paths, "input_directory", str(tmp_path))
    expected = host_nodes.LoadImage().load_image(f"{name} [input]")[0][:1]
    assert given.dtype == expected.dtype and torch.equal(given, expected)
    assert given.shape[-1] == 3 and 0.3 < float(given.mean()) < 0.7


@pytest.mark.parametrize("orientation", UPRIGHT)
def test_a_photo_taken_in_any_way_a_camera_is_held_is_upright(orientation, tmp_path):
    turn = UPRIGHT[orientation]
    stored = scene() if turn is None else scene().transpose(turn)
    given = headless._image(saved(tmp_path, f"oriented_{orientation}.jpg", stored))
    expected = torch.from_numpy(np.asarray(scene(), np.float32) / 255)
    assert given.shape[1:] == expected.shape
    assert float((given[0] - expected).abs().max()) < 0.1  # a JPEG's own error is 0.03


@pytest.mark.parametrize("ending", ["png", "tif"])
def test_grey_of_16_bits_keeps_its_levels(ending, tmp_path):
    levels = np.linspace(0, 65535, HEIGHT * WIDTH).round().astype(np.uint16).reshape(HEIGHT, WIDTH)
    path = tmp_path / f"grey.{ending}"
    Image.fromarray(levels).save(path)
    expected = torch.from_numpy(levels.astype(np.float32) / 65535)[None, ..., None]
    torch.testing.assert_close(headless._image(path), expected.expand(-1, -1, -1, 3))


def test_a_link_is_the_picture_it_leads_to(tmp_path):
    (tmp_path / "links").mkdir()
    path = saved(tmp_path, "colours.png", scene())
    link = tmp_path / "links" / "one.png"
    try:
        link.symlink_to(path)
    except OSError:
        assert os.name == "nt", "links can be made"
        pytest.skip("Windows lets administrators alone make links")
    before = folder_paths.get_input_directory()
    assert torch.equal(headless._image(link), headless._image(path))
    assert folder_paths.get_input_directory() == before


@pytest.mark.parametrize("kept", [0, 100, 500])
def test_a_file_that_ends_too_early_is_refused(kept, tmp_path):
    path = saved(tmp_path, "jpeg.jpg", scene())
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(CraftError, match=r"jpeg\.jpg cannot be read as a picture"):
        headless._image(path)


@pytest.mark.parametrize("side", [20_000, 2**31 - 1])
def test_a_file_that_says_it_is_enormous_is_refused(side, tmp_path):
    """As a few bytes may: no memory is taken for what their header says."""
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    parts = [(b"IHDR", header), (b"IDAT", zlib.compress(b"\0")), (b"IEND", b"")]
    path = tmp_path / "vast.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in parts
    ))  # fmt: skip
    with pytest.raises(CraftError, match=r"vast\.png cannot be read as a picture"):
        headless._image(path)
