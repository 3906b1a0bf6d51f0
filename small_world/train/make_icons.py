"""Make world/icons.png: every icon of `world/icons.py` as a map of the five colour roles.

    npm pack @iconify-json/fluent-emoji-flat@1.2.6      # MIT; outside the repository, then untar
    pip install --target FOLDER resvg-py==0.5.0         # draws SVG; outside the repository
    PYTHONPATH=FOLDER python -m small_world.train.make_icons package/icons.json

An icon is drawn without smoothing, its colours are merged to at most five, and each of those gets
a role: the darkest and the lightest become d and l if they are dark and light enough, the others
a, b, c by area.  Each cell of the map takes the value most common in it.
"""

import argparse
import io
import json
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

from ..world.icons import CELL, COLUMNS, ICONS, SHEET
from ..world.shapes import ROLES

FINER = 4  # drawn pixels a cell of the map
DARK, LIGHT = 0.22, 0.86
FULL_SIZE, MARGIN = 32, 1  # units of the icons' own canvas, and how much of its rim is cut off
SMALLEST = 0.02  # a colour on a smaller share of the icon joins its nearest
PALETTE = (255, 0, 255, 228, 87, 46, 243, 167, 18, 41, 51, 92, 27, 27, 42, 250, 250, 250)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m small_world.train.make_icons")
    parser.add_argument("icons", type=Path, help="icons.json of @iconify-json/fluent-emoji-flat")
    bodies = json.loads(parser.parse_args().icons.read_text(encoding="utf-8"))["icons"]
    rows = -(-len(ICONS) // COLUMNS)
    sheet = np.zeros((rows * CELL, COLUMNS * CELL), np.uint8)
    for icon in ICONS.values():
        y, x = (CELL * k for k in divmod(icon.index, COLUMNS))
        sheet[y : y + CELL, x : x + CELL] = role_map(drawn(bodies[icon.source]["body"]))
    image = Image.fromarray(sheet, "P")
    image.putpalette(PALETTE)
    image.save(SHEET, optimize=True, bits=4)
    print(SHEET, SHEET.stat().st_size, "bytes")


def drawn(body: str) -> np.ndarray:
    """An icon's SVG body -> (side, side, 4) uint8, unsmoothed."""
    import resvg_py

    inner = FULL_SIZE - 2 * MARGIN
    svg = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{inner}" height="{inner}" '
        f'viewBox="{MARGIN} {MARGIN} {inner} {inner}">{body}</svg>'
    )
    side = CELL * FINER
    options = {"width": side, "height": side, "shape_rendering": "crisp_edges"}
    png = resvg_py.svg_to_bytes(svg_string=svg, **options)
    return np.asarray(Image.open(io.BytesIO(bytes(png))).convert("RGBA"))


def role_map(picture: np.ndarray) -> np.ndarray:
    """(side, side, 4) uint8 -> (CELL, CELL) uint8: 0 outside, k + 1 the k-th of the ROLES."""
    inside = picture[..., 3] > 127
    colours, where, counts = np.unique(
        picture[inside][:, :3], axis=0, return_inverse=True, return_counts=True
    )
    group, centres, areas = merged(colours.astype(float) / 255, counts.astype(float))
    roles = roles_of(centres, areas)
    full = np.zeros(inside.shape, np.uint8)
    full[inside] = 1 + roles[group[where.ravel()]]
    cells = full.reshape(CELL, FINER, CELL, FINER)
    votes = np.stack([(cells == k).sum((1, 3)) for k in range(len(ROLES) + 1)])
    elected = Image.fromarray(votes.argmax(0).astype(np.uint8))
    return np.asarray(elected.filter(ImageFilter.ModeFilter(3)))


def merged(colours, counts):
    """Join the nearest two colours until five large ones are left: group of each, means, areas."""
    groups = [[k] for k in range(len(colours))]
    means, areas = list(colours), list(counts)
    while len(groups) > 1:
        share = np.array(areas) / sum(areas)
        gaps = np.linalg.norm(np.stack(means)[:, None] - np.stack(means)[None], axis=2)
        np.fill_diagonal(gaps, np.inf)
        if len(groups) <= len(ROLES) and share.min() >= SMALLEST and gaps.min() > 0.12:
            break
        if share.min() < SMALLEST / 4 or (len(groups) <= len(ROLES) and share.min() < SMALLEST):
            first = int(share.argmin())
            second = int(gaps[first].argmin())
        else:  # of similar colour and small together
            cost = gaps * np.sqrt(np.minimum(share[:, None], share[None]))
            first, second = np.unravel_index(cost.argmin(), cost.shape)
        first, second = sorted((int(first), int(second)))
        total = areas[first] + areas[second]
        means[first] = (means[first] * areas[first] + means[second] * areas[second]) / total
        areas[first] = total
        groups[first] += groups[second]
        for kept in (groups, means, areas):
            del kept[second]
    group = np.zeros(len(colours), int)
    for index, members in enumerate(groups):
        group[members] = index
    return group, np.stack(means), np.array(areas)


def roles_of(centres, areas) -> np.ndarray:
    """The role (place in ROLES) of each colour."""
    brightness = centres @ (0.299, 0.587, 0.114)
    roles = np.full(len(centres), -1)
    if len(centres) > 1:
        darkest, lightest = brightness.argmin(), brightness.argmax()
        if brightness[darkest] < DARK or len(centres) == 5:
            roles[darkest] = ROLES.index("d")
        if brightness[lightest] > LIGHT or len(centres) >= 4:
            roles[lightest] = ROLES.index("l")
    free = [k for k in np.argsort(-areas) if roles[k] < 0]
    for place, k in enumerate(free):
        roles[k] = place
    return roles


if __name__ == "__main__":
    main()
