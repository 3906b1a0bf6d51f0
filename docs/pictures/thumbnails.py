"""Make the thumbnails of the templates: python run.py pictures starts this, with a folder in which
each workflow has a folder of what it saved.

A thumbnail shows what the two LoRAs learned and what ComfyUI's two LoRA loaders make of them (the
prompt in two_loaders.json), above what the workflow saved: the first picture of every Save Image
node. The workflows below show all of that by themselves, or show no result of two LoRAs.
"""

import sys
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

ROOT = Path(__file__).resolve().parents[2]
REFERENCES = ROOT / "small_world" / "references"
LOADERS = "two_loaders"  # the folder of what the plain prompt saved
SIDE, GAP, HEAD, WORDS = 512, 4, 128, 18  # pixels; HEAD: the side of a reference, WORDS: of a title
BY_THEMSELVES = {
    # workflow: the beginning of the file names that are shown
    "method_comparison_small_world": "",
    "pair_building_small_world": "",
    "xy_small_world": "xy_grid",
}
DEMO = "demo_small_world"  # its pictures hold the references beside the result
UNRUN = "fusion_sdxl"  # no SDXL here: it shows the same on the small model
QUALITY = 88


def thumbnail(name: str, saved: list[Path], loaders: Image.Image) -> Image.Image:
    """(512, 512), from the pictures that a workflow saved and the one of two LoRA loaders."""
    if name == DEMO:
        results = [square_at_the_right(Image.open(file)) for file in sorted(saved)
                   if file.name.startswith("demo")]  # fmt: skip
        return below_the_references(results, loaders)
    pictures = [Image.open(file) for file in shown(saved, BY_THEMSELVES.get(name, ""))]
    if name in BY_THEMSELVES:
        made = Image.new("RGB", (SIDE, SIDE), "white")
        fill(made, pictures, 0)
        return made
    return below_the_references(pictures, loaders)


def below_the_references(pictures: list[Image.Image], loaders: Image.Image) -> Image.Image:
    """The pictures below the two references and what two LoRA loaders make of them."""
    made = Image.new("RGB", (SIDE, SIDE), "white")
    head(made, HEAD, (SIDE - 3 * HEAD - 2 * GAP) // 2, loaders)
    fill(made, pictures, WORDS + HEAD + GAP)
    return made


def in_four(result: Image.Image, loaders: Image.Image) -> Image.Image:
    """References, two loaders and a result, equally large."""
    side = (SIDE - GAP) // 2 - WORDS
    made = Image.new("RGB", (SIDE, SIDE), "white")
    tiles = [*references(), ("two LoRA loaders", loaders), ("this pack", result)]
    for k, (title, picture) in enumerate(tiles):
        tile(made, title, picture, side, (k % 2 * SIDE // 2 + WORDS // 2, k // 2 * SIDE // 2))
    return made


def references() -> list[tuple[str, Image.Image]]:
    return [(role, Image.open(REFERENCES / f"{role}.png")) for role in ("content", "style")]


def head(made: Image.Image, side: int, left: int, loaders: Image.Image) -> None:
    for k, (title, picture) in enumerate([*references(), ("two LoRA loaders", loaders)]):
        tile(made, title, picture, side, (left + k * (side + GAP), 0))


def tile(made: Image.Image, title: str, picture: Image.Image, side: int,
         at: tuple[int, int]) -> None:  # fmt: skip
    """A square picture below its title."""
    font = ImageFont.load_default(13)
    middle = at[0] + side // 2, at[1] + WORDS // 2
    ImageDraw.Draw(made).text(middle, title, fill="black", font=font, anchor="mm")
    made.paste(resized(picture, (side, side)), (at[0], at[1] + WORDS))


def fill(made: Image.Image, pictures: list[Image.Image], top: int) -> None:
    """The pictures below a line, side by side as large as they can be."""
    across = columns(pictures, SIDE, SIDE - top)
    down = -(-len(pictures) // across)
    room = SIDE // across, (SIDE - top) // down
    sizes = [within(picture, room[0] - GAP, room[1] - GAP) for picture in pictures]
    width = max(size[0] for size in sizes) + GAP
    begin = (SIDE - across * width) // 2
    for k, (picture, size) in enumerate(zip(pictures, sizes, strict=True)):
        left = begin + k % across * width + (width - size[0]) // 2
        upper = top + k // across * room[1] + (room[1] - size[1]) // 2
        made.paste(resized(picture, size), (left, upper))


def within(picture: Image.Image, width: int, height: int) -> tuple[int, int]:
    """The largest size of the picture's shape."""
    scale = min(width / picture.width, height / picture.height)
    return max(1, round(picture.width * scale)), max(1, round(picture.height * scale))


def resized(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    return picture.convert("RGB").resize(size, Image.Resampling.LANCZOS)


def square_at_the_right(picture: Image.Image) -> Image.Image:
    return picture.crop((picture.width - picture.height, 0, picture.width, picture.height))


def shown(saved: list[Path], prefix: str) -> list[Path]:
    """The first picture of every node whose files have the prefix."""
    chosen: dict[str, Path] = {}
    for file in sorted(saved):
        node = file.stem.rstrip("_").rpartition("_")[0]
        if node.startswith(prefix):
            chosen.setdefault(node, file)
    return list(chosen.values())


def columns(pictures: list[Image.Image], width: int, height: int) -> int:
    """How many pictures side by side make them largest."""

    def scale(across: int) -> float:
        down = -(-len(pictures) // across)
        return min(min(width / across / one.width, height / down / one.height) for one in pictures)

    return max(range(1, len(pictures) + 1), key=scale)


def main(folder: str) -> None:
    saved = {one.name: sorted(one.iterdir()) for one in sorted(Path(folder).iterdir())}
    loaders = Image.open(saved.pop(LOADERS)[0])
    made = {name: thumbnail(name, files, loaders) for name, files in saved.items()}
    if DEMO in saved:
        result = next(file for file in saved[DEMO] if file.name.startswith("demo"))
        made[UNRUN] = in_four(square_at_the_right(Image.open(result)), loaders)
    for name, picture in made.items():
        file = ROOT / "workflows" / f"{name}.jpg"
        picture.save(file, quality=QUALITY)
        print(f"  wrote {file.relative_to(ROOT)}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
