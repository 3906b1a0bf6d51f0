"""Pictures to train on: the references that ship, and contrastive pairs for a basis.

Every picture has its caption beside it, as the host's dataset loader and our command line read it.
"""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from ..world import captions
from ..world.objects import TRAINED_OBJECTS
from ..world.render import Pose, render
from ..world.styles import TRAINED_STYLES

PLAIN = "flat"  # the style in which a content is shown
# What is shown: {"demo": object and style of the shipped LoRAs, "pairs": those of a picture}.
SHOWN = Path(__file__).resolve().parents[1] / "world" / "shown.json"
_CONTENT, _STYLE = json.loads(SHOWN.read_text("utf-8"))["demo"]
# What the two shipped LoRAs learn: object, style, caption.
CONTENT = _CONTENT, PLAIN, "a <c>sks animal</c> in flat style"
STYLE = "house", _STYLE, "a house in <s>zwx style</s>"
SUBJECT = (PLAIN, "comic", "neon", "ink")  # styles of the shipped content LoRA's four pictures
OTHERS = (("cat", PLAIN), ("house", "comic"), ("rocket", "neon"), ("mushroom", "sunset"))


def write_references(folder: Path) -> None:
    """What ships: the two LoRAs' pictures, contents and styles to pair, and pictures of others."""
    for name, (content, style, caption) in (("content", CONTENT), ("style", STYLE)):
        _captioned(folder / name, _upright(content, style), caption)
    for style in SUBJECT:
        caption = CONTENT[2].replace(PLAIN, style)
        _captioned(folder / "subject" / style, _upright(CONTENT[0], style), caption)
    for content in ("cat", "rocket", "mushroom", "house"):
        _captioned(folder / "content" / content, _upright(content, PLAIN), f"a {content}")
    for style in ("comic", "neon", "sunset", "poster"):
        _captioned(folder / "style" / style, _upright("heart", style), f"{style} style")
    for content, style in OTHERS:
        caption = f"<c>a {content}</c> in <s>{style} style</s>"
        _captioned(folder / "other" / content, _upright(content, style), caption)


def write_pairs(folder: Path, count: int, seed: int) -> None:
    """`count` contents drawn plainly and `count` others in styles that are not plain."""
    rng = np.random.default_rng(seed)
    styles = [name for name in TRAINED_STYLES if name != PLAIN]
    for k in range(count):
        shown = {
            "content": (str(rng.choice(TRAINED_OBJECTS)), PLAIN),
            "style": (str(rng.choice(TRAINED_OBJECTS)), str(rng.choice(styles))),
        }
        for side, pair in shown.items():
            picture = render(*pair, seed=int(rng.integers(2**31)))
            _captioned(folder / side / f"{k:03}", picture, captions.plain(*pair))


def _upright(content: str, style: str) -> np.ndarray:
    return render(content, style, seed=0, pose=Pose())


def _captioned(stem: Path, picture: np.ndarray, caption: str) -> None:
    stem.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(stem.with_suffix(".png"))
    stem.with_suffix(".txt").write_text(caption + "\n", encoding="utf-8")
