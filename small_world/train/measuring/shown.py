"""The pairs that are shown, chosen by a rule from the results of `gates`, and the README's picture.

A pair's score is the mean over pictures and judges of sqrt(content cosine x style cosine), of both
LoRAs at strength 1 with standard guidance.  Shown are the pairs whose scores lie nearest the median
of all that were measured, each object and each style once.  The demo's pair is an example and no
evidence: the one with the highest score whose object is an animal, since the workflows' prompts say
`a sks animal`.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from ...world.objects import OBJECTS
from ...world.render import Pose, render
from ..references import PLAIN, SHOWN, STYLE
from .measure import Pair

PAIRS = 3
FAMILY = "animal"
MAGNIFIED, GAP, HEAD = 4, 12, 26
COLUMNS = ("content reference", "style reference", "two LoRA loaders", "this pack", "true render")


def scores(results: Mapping[str, Any]) -> dict[Pair, float]:
    """The score of each fused pair among the results of `gates`."""
    return {
        tuple(one["asked"][0]): float(np.mean([one[k] for k in one if k.startswith("geo")]))
        for key, one in results.items()
        if key.startswith("fused/")
    }


def chosen(scored: Mapping[Pair, float], count: int = PAIRS) -> tuple[Pair | None, list[Pair]]:
    """The demo's pair (None where no pair has an animal) and the pairs of the picture."""
    middle = float(np.median(list(scored.values())))
    nearest = sorted(scored, key=lambda pair: (abs(scored[pair] - middle), pair))
    animals = [pair for pair in sorted(scored) if OBJECTS[pair[0]].family == FAMILY]
    demo = max(animals, key=lambda pair: scored[pair], default=None)
    pairs: list[Pair] = []
    for pair in nearest:
        if len(pairs) < count and not any(set(pair) & set(other) for other in pairs):
            pairs.append(pair)
    return demo, pairs


def choose(folder: Path) -> None:
    """Write the choice into `world/shown.json`. folder: where `gates` keeps its results."""
    kept = folder / "gates.json"
    results = json.loads(kept.read_text("utf-8"))["results"] if kept.is_file() else {}
    scored = scores(results)
    if not scored:
        raise SystemExit(
            f"{folder} holds no score of two LoRAs together. Pairs are chosen from those that "
            "`gates --parts fused` has measured there. Run it with the same --out first."
        )
    demo, pairs = chosen(scored)
    held = json.loads(SHOWN.read_text("utf-8"))
    held |= {"demo": demo or held["demo"], "pairs": pairs}
    SHOWN.write_text(json.dumps(held, indent=1) + "\n", "utf-8")
    print(f"{len(scored)} pairs, median score {np.median(list(scored.values())):.3f}")
    for name, pair in (("demo", demo), *(("shown", pair) for pair in pairs)):
        print(name, "none: no animal" if pair is None else f"{pair} {scored[pair]:.3f}")


@torch.inference_mode()
def write_pairs_pictures(docs: Path, comfyui: Path, checkpoint: Path, folder: Path) -> None:
    """`pairs.png`, a row for each chosen pair, and `demo_pair.png`, the demo's row, with the LoRAs
    that `gates` keeps in the folder."""
    from launcher.run.inside_host import enter_host, load_pack

    enter_host(comfyui, folder / "host", cpu=True)
    load_pack()
    import folder_paths
    from craft_lora_pack.craft_core.schedule import Schedule
    from craft_lora_pack.craft_core.starting import FLOOR, GUIDED_CFG, GUIDED_STRENGTH

    from .loras import SHOTS, Studio, own_noise

    folder_paths.set_output_directory(str(folder.resolve()))
    studio = Studio(checkpoint)
    schedule = Schedule("cosine", {}, FLOOR, FLOOR)
    kept, rows = json.loads(SHOWN.read_text("utf-8")), []
    for content, style in [kept["demo"], *kept["pairs"]]:
        files = [(studio.lora(role, name, SHOTS[role]), role)
                 for role, name in (("content", content), ("style", style))]  # fmt: skip
        prompt = f"<c>a sks {OBJECTS[content].family}</c> in <s>zwx style</s>"
        noise = own_noise(content, style, count=1)
        plain = studio.pictures([(*one, 1.0) for one in files], prompt, noise)
        guided = [(*one, GUIDED_STRENGTH) for one in files]
        ours = studio.pictures(
            guided, prompt, noise, method="craft", asymmetric=True, schedule=schedule,
            cfg=GUIDED_CFG,
        )  # fmt: skip
        rows.append([
            render(content, PLAIN, pose=Pose()), render(STYLE[0], style, pose=Pose()),
            _as_bytes(plain), _as_bytes(ours), render(content, style, pose=Pose()),
        ])  # fmt: skip
    for name, shown in (("demo_pair.png", rows[:1]), ("pairs.png", rows[1:])):
        made = sheet(shown, COLUMNS).quantize(256, dither=Image.Dither.NONE)
        made.save(docs / name, optimize=True)
        print(f"wrote {docs / name}")


def sheet(rows: Sequence[Sequence[np.ndarray]], columns: Sequence[str]) -> Image.Image:
    """Pictures (H, W, 3) uint8 in rows, enlarged, with a title above each column."""
    side = rows[0][0].shape[0] * MAGNIFIED
    width = GAP + len(columns) * (side + GAP)
    made = Image.new("RGB", (width, HEAD + len(rows) * (side + GAP)), "white")
    draw, font = ImageDraw.Draw(made), ImageFont.load_default(15)
    for k, title in enumerate(columns):
        left = GAP + k * (side + GAP)
        draw.text((left + side / 2, HEAD / 2), title, fill="black", font=font, anchor="mm")
        for n, row in enumerate(rows):
            picture = Image.fromarray(row[k]).resize((side, side), Image.Resampling.LANCZOS)
            made.paste(picture, (left, HEAD + n * (side + GAP)))
    return made


def _as_bytes(images: torch.Tensor) -> np.ndarray:
    """(1, 3, H, W) in [-1, 1] -> (H, W, 3) uint8."""
    return ((images[0].movedim(0, -1).clamp(-1, 1) + 1) * 127.5).round().byte().numpy()
