"""What does Find Best Settings gain on one's own pair, beside the values that nodes start with?

    python run.py bench find_best [--limit 4] [--each 2] [--budget 40] [--steps 12] [--out DIR]

For pairs of held-out LoRAs of the small world, the node Find Best Settings is run as a user runs
it: its own lists of methods, guidances, strengths and schedules, cfg and layer sets as they stand
on the node, one reference picture of either LoRA's training, and the first judge as its encoder.
Only the budget and the steps are the bench's. Then --pictures fresh pictures are drawn from
noise that no search saw, the same for every way:

- found: with the settings that the search came out with;
- own values: what nodes start with (craft_core/starting.py), ACFG at cfg 2 with a cosine schedule;
- first of the lists: the setting that the node compares its best with;
- two LoRA loaders: the direct merge at strength 1 under standard guidance at --cfg;
- true render: fresh renders of the pair, as the most there is to reach.

geo = sqrt(content cosine x style cosine) to one picture each of what the LoRAs learned, which are
the search's references, too. `geo to true renders` is the same to renders of the pair itself, which
the search never saw. `both right`: object and style are those asked for. The first judge chose, so
the second judge's figures count. Intervals draw objects and styles again; a difference is taken
pair by pair in the same draws.

The pairs are the report half's first --limit objects, each with --each of as many styles: the first
with the first and so on, then each with the next style. --skip 4 leaves out those on whose results
the node's lists and its rule were once changed. LoRAs, searches and results are kept in
--out and used again; the folder of `python -m small_world.train gates` serves.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
import zlib
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT))

from benchmarks.methods import design  # noqa: E402
from benchmarks.parts.method_figures import Pair  # noqa: E402
from benchmarks.parts.method_runs import FRESH_SEED, TRUTH, Bench, Journal, Lab  # noqa: E402
from benchmarks.parts.search_figures import table  # noqa: E402
from small_world.judge import JudgeEncoder, as_images  # noqa: E402
from small_world.train.__main__ import CHECKPOINT, MODELS, training_cache  # noqa: E402
from small_world.train.measuring.worlds import SMALL_WORLD  # noqa: E402
from small_world.world.objects import OBJECTS  # noqa: E402
from small_world.world.render import render  # noqa: E402

FOUND, OWN, FIRST, LOADERS = "found", "own values", "first of the lists", "two LoRA loaders"
WAYS = (FOUND, OWN, FIRST, LOADERS, TRUTH)
DIFFERENCES = (*((FOUND, other) for other in (OWN, FIRST, LOADERS)), (OWN, LOADERS))
TRUE_SEED, TRUE_RENDERS = 40_000_000, 8  # what pictures are compared with; TRUTH has other seeds
LISTS = ("methods", "guidances", "strengths", "schedules")


class SearchBench(Bench):
    """Draws and scores one pair in every way."""

    def __init__(self, lab: Lab, budget: int) -> None:
        super().__init__(lab)
        from craft_lora_pack.nodes.score import FindBest

        self.node, self.budget = FindBest, budget
        inputs = FindBest.define_schema().inputs
        self.values = {one.id: one.default for one in inputs if hasattr(one, "default")}
        self.values["layer_sets"] = next(
            one.options[0].key for one in inputs if one.id == "layer_sets"
        )

    def pair(self, content: str, style: str) -> dict[str, Any]:
        """Each way's result, (pictures, judges, 5), and what the search said of its best."""
        files = [self.lora("content", content), self.lora("style", style)]
        prompt = f"<c>a sks {OBJECTS[content].family}</c> in <s>zwx style</s>"
        noise = self.parts.own_noise("fresh", content, style, count=self.lab.pictures)
        model, positive, asymmetric, _, preset, report = self.search(files, prompt, content, style)
        drawn = {
            FOUND: self.studio.sampled(model, positive, noise, asymmetric, self.values["cfg"]),
            **self.unsearched(files, prompt, noise),
            TRUTH: renders(content, style, FRESH_SEED, self.lab.pictures),
        }
        truth = renders(content, style, TRUE_SEED, TRUE_RENDERS)
        results = {
            way: self.with_truth(self.scores(images, content, style), images, truth)
            for way, images in drawn.items()
        }
        return {"results": results, "report": report, "preset": preset}

    def search(self, files: list[str], prompt: str, content: str, style: str) -> tuple:
        """What the node gives out. Every pair has seeds of its own, which also decide what enters.

        Nothing of an earlier search is lost: the node keeps each picture's scores.
        """
        content_reference, style_reference = (
            torch.from_numpy(one.astype(np.float32) / 255)[None]
            for one in SMALL_WORLD.references(content, style)
        )
        judge = self.scorers[0].judge
        given = self.values | {
            "content_reference": content_reference, "style_reference": style_reference,
            "clip_vision": JudgeEncoder(judge, "content"),
            "style_clip_vision": JudgeEncoder(judge, "style"),
            "prompt": prompt, "content_lora": files[0], "style_lora": files[1],
            "budget": self.budget, "steps": self.lab.steps,
            "first_seed": zlib.crc32(f"search|{content}|{style}".encode()),
        }  # fmt: skip
        latent = {"samples": torch.zeros(1, 3, 64, 64)}
        return self.node.execute(
            self.studio.model, self.studio.clip, self.studio.vae, self.studio.negative, latent,
            **given,
        ).result  # fmt: skip

    def unsearched(
        self, files: list[str], prompt: str, noise: torch.Tensor
    ) -> Mapping[str, torch.Tensor]:
        """Pictures of the ways that search nothing."""
        from craft_lora_pack.craft_core.schedule import Schedule
        from craft_lora_pack.craft_core.starting import FLOOR, GUIDED_CFG, GUIDED_STRENGTH

        first = {name: self.values[name].replace("\n", ",").split(",")[0] for name in LISTS}
        assert first["guidances"] == "acfg" and first["schedules"] == "constant", first
        schedule = Schedule("cosine", {}, FLOOR, FLOOR)

        def drawn(method: str, strength: float, cfg: float, **how: Any) -> torch.Tensor:
            pair = [(files[0], "content", strength), (files[1], "style", strength)]
            return self.studio.pictures(pair, prompt, noise, method=method, cfg=cfg, **how)

        return {
            OWN: drawn("craft", GUIDED_STRENGTH, GUIDED_CFG, asymmetric=True, schedule=schedule),
            FIRST: drawn(
                first["methods"], float(first["strengths"]), self.values["cfg"], asymmetric=True,
                layer_sets=self.values["layer_sets"],
            ),
            LOADERS: drawn("direct", 1.0, self.lab.cfg),
        }  # fmt: skip

    def with_truth(self, rows: list, images: torch.Tensor, truth: torch.Tensor) -> list:
        """The same rows, each with its picture's geo to the true renders behind."""
        for place, scorer in enumerate(self.scorers):
            judge = scorer.judge
            cosines = [
                (embed(images) @ embed(truth).T).mean(1).clamp_min(0)
                for embed in (judge.content_embedding, judge.style_embedding)
            ]
            for row, geo in zip(rows, (cosines[0] * cosines[1]).sqrt().tolist(), strict=True):
                row[place].append(geo)
        return rows


def renders(content: str, style: str, seed: int, count: int) -> torch.Tensor:
    return as_images(render(content, style, seed=seed + k) for k in range(count))


def main() -> None:
    options = _options()
    torch.set_num_threads(options.threads)
    lab = Lab(options.checkpoint.resolve(), Path(os.environ["COMFYUI_PATH"]).resolve(),
              options.out.resolve(), options.pictures, options.steps, options.cfg,
              options.divide_steps)  # fmt: skip
    bench = SearchBench(lab, options.budget)
    known = {name: bench.values[name] for name in (*LISTS, "layer_sets", "cfg", "content_weight")}
    journal = Journal(
        options.out / f"find_best_{options.budget}_pictures_{options.steps}_steps.jsonl",
        {**lab.pictures_made_for(), "budget": options.budget, "node": known},
    )
    contents, styles = (names[: options.limit] for names in SMALL_WORLD.halves["report"])
    pairs = design(contents, styles, options.each)[options.skip :]
    measure(bench, journal, pairs)
    found = {pair: journal.results["/".join(pair)] for pair in pairs}
    print(said(found, options))


def measure(bench: SearchBench, journal: Journal, pairs: list[Pair]) -> None:
    """The pairs that the journal lacks."""
    begun = time.monotonic()
    for number, pair in enumerate(pairs, 1):
        key = "/".join(pair)
        if key in journal.results:
            continue
        with torch.inference_mode():
            journal.add(key, bench.pair(*pair))
        best = journal.results[key]["report"].split("\n", 1)[0]
        print(f"[{time.monotonic() - begun:.0f} s] pair {number} of {len(pairs)}, "
              f"{' in '.join(pair)}. {best}", file=sys.stderr, flush=True)  # fmt: skip


def said(found: Mapping[Pair, Mapping[str, Any]], options: argparse.Namespace) -> str:
    """The table, and what was found for each pair."""
    results = {way: {pair: one["results"][way] for pair, one in found.items()} for way in WAYS}
    lines = [
        f"{len(found)} pairs, searches of {options.budget} pictures, {options.pictures} fresh "
        f"pictures a pair, {options.steps} steps, two LoRA loaders at cfg {options.cfg:g}",
        "", table(results, DIFFERENCES), "", "Found:",
    ]  # fmt: skip
    for pair, one in found.items():
        lines.append(f"- {' in '.join(pair)}: {_first_line(one)}")
    lines += ["", *_counts(found)]
    return "\n".join(lines)


def _first_line(one: Mapping[str, Any]) -> str:
    return one["report"].split("\n", 1)[0].removeprefix("Best: ")


def _counts(found: Mapping[Pair, Mapping[str, Any]]) -> list[str]:
    """How often each method, guidance and schedule was found."""
    parts: Mapping[str, Callable[[list[str]], str]] = {
        "methods": lambda of: of[0].split(", ")[0],
        "guidances": lambda of: of[0].split(", ", 1)[1],
        "schedules": lambda of: of[-1],
    }
    labels = [_first_line(one).split("; ") for one in found.values()]
    counted = {name: Counter(map(read, labels)).most_common() for name, read in parts.items()}
    return [f"{name}: {', '.join(f'{one} {n}' for one, n in of)}" for name, of in counted.items()]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--limit", type=int, default=4, help="objects, and styles")
    parser.add_argument("--each", type=int, default=2, help="styles that an object is joined with")
    parser.add_argument("--skip", type=int, default=0, help="pairs at the beginning")
    parser.add_argument("--budget", type=int, default=40, help="pictures of a search")
    parser.add_argument("--pictures", type=int, default=8, help="fresh ones of a pair")
    parser.add_argument("--steps", type=int, default=12, help="of a picture")
    parser.add_argument("--cfg", type=float, default=3.0, help="of the two LoRA loaders")
    parser.add_argument("--divide-steps", type=int, default=1, help="of the LoRAs, to rehearse")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--checkpoint", type=Path, default=MODELS / CHECKPOINT)
    default = training_cache().with_name("small_world_gates")
    parser.add_argument("--out", type=Path, default=default, help=f"default: {default}")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    return options


if __name__ == "__main__":
    main()
