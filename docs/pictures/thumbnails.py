"""Make the thumbnails of the templates: python run.py pictures starts this, with a folder in which
each workflow has a folder of what it saved.

A thumbnail shows what the two LoRAs learned, above what the workflow saved: the first picture of
every Save Image node. The workflows below show their references by themselves.
"""

import sys
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
REFERENCES = ROOT / "small_world" / "references"
SIDE, GAP, HEAD = 512, 4, 128  # pixels; HEAD: the height of a reference
BY_THEMSELVES = {
    # workflow: which saved pictures are shown, all of them where there are more of one node
    "demo_small_world": ("demo", True),
    "method_comparison_small_world": ("", False),
    "pair_building_small_world": ("", False),
    "xy_small_world": ("xy_grid", False),
}
QUALITY = 88


def thumbnail(name: str, saved: list[Path]) -> Image.Image:
    """(512, 512), from the pictures that a workflow saved."""
    prefix, every = BY_THEMSELVES.get(name, ("", False))
    pictures = [Image.open(file).convert("RGB") for file in shown(saved, prefix, every)]
    made = Image.new("RGB", (SIDE, SIDE), "white")
    top = 0
    if name not in BY_THEMSELVES:
        for k, file in enumerate(("content", "style")):
            reference = Image.open(REFERENCES / f"{file}.png").convert("RGB")
            left = SIDE // 2 + (k * (HEAD + GAP)) - HEAD - GAP // 2
            made.paste(reference.resize((HEAD, HEAD), Image.Resampling.LANCZOS), (left, 0))
        top = HEAD + GAP
    across = columns(pictures, SIDE, SIDE - top)
    down = -(-len(pictures) // across)
    width, height = SIDE // across, (SIDE - top) // down
    for k, picture in enumerate(pictures):
        scale = min((width - GAP) / picture.width, (height - GAP) / picture.height)
        size = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
        left = k % across * width + (width - size[0]) // 2
        upper = top + k // across * height + (height - size[1]) // 2
        made.paste(picture.resize(size, Image.Resampling.LANCZOS), (left, upper))
    return made


def shown(saved: list[Path], prefix: str, every: bool) -> list[Path]:
    """The first picture of every node, or every picture of those with a prefix."""
    chosen: dict[str, Path] = {}
    for file in sorted(saved):
        node = file.stem.rstrip("_").rpartition("_")[0]
        if node.startswith(prefix):
            chosen.setdefault(file.name if every else node, file)
    return list(chosen.values())


def columns(pictures: list[Image.Image], width: int, height: int) -> int:
    """How many pictures side by side make them largest."""

    def scale(across: int) -> float:
        down = -(-len(pictures) // across)
        return min(min(width / across / one.width, height / down / one.height) for one in pictures)

    return max(range(1, len(pictures) + 1), key=scale)


def main(folder: str) -> None:
    for workflow in sorted(Path(folder).iterdir()):
        file = ROOT / "workflows" / f"{workflow.name}.jpg"
        thumbnail(workflow.name, list(workflow.iterdir())).save(file, quality=QUALITY)
        print(f"  wrote {file.relative_to(ROOT)}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
