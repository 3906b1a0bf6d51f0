"""Is an own weight for the LoRAs worth more than their strength alone, on the small world?

    python run.py bench role [--limit 4] [--pictures 2] [--cfgs 1 2 4] [--out DIR]

Held-out objects and styles, each learned by a LoRA of the shipped recipe, every object with every
style, fused by the direct merge. For each guidance scale cfg:

- plain: standard CFG, the LoRAs at each of --strengths;
- ACFG: the same with the LoRAs on the conditional rows alone (at cfg 1 that is plain);
- role: role guidance with each of --weights for both roles, the LoRAs at --at; with --apart also
  each weight for content alone, and for style alone.

`content`, `style`, `both` are the shares of pictures whose nearest object, style, or both are those
asked for, by each judge. `evaluations` are those of the model for a step. A pair has noise of its
own, the same for every setting. In brackets are 95 % bootstrap intervals that draw objects and
styles again, crossed.

Two lines under each table answer the question. `best both` is the best role setting's share less
the best plain or ACFG strength's; `frontier` the same for the mean, over all ways to weigh content
against style, of the best setting's share under that weighing. Each draw of the bootstrap chooses
its best settings anew.

LoRAs and results are kept in --out and used again: a run that was stopped, or given more to do,
goes on. The folder of `python -m small_world.train gates` serves, too.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path += [str(ROOT), str(ROOT / "tests" / "host" / "parts")]

from launcher.run.inside_host import enter_host, load_pack, temporary_base  # noqa: E402

_BASE = temporary_base()
enter_host(Path(os.environ["COMFYUI_PATH"]), Path(_BASE.name), cpu=True)
load_pack()

import comfy.samplers  # noqa: E402
import folder_paths  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
from craft_lora_pack.comfy_adapter.guide.acfg import ChosenRule, acfg_guider  # noqa: E402
from craft_lora_pack.comfy_adapter.model.lora_files import BranchFile  # noqa: E402
from craft_lora_pack.comfy_adapter.use.router import RouterRequest, route  # noqa: E402
from craft_lora_pack.craft_core.guidance import GUIDANCE, Step, needed  # noqa: E402
from craft_lora_pack.craft_core.time import Moment  # noqa: E402

from small_world.judge import JUDGES, load_judge  # noqa: E402
from small_world.train.__main__ import CHECKPOINT, MODELS, training_cache  # noqa: E402
from small_world.train.measuring.loras import SHOTS, Studio, own_noise  # noqa: E402
from small_world.train.measuring.measure import Scorer  # noqa: E402
from small_world.world import held_out  # noqa: E402
from small_world.world.objects import OBJECTS  # noqa: E402

HALVES = {
    "tuning": (held_out.TUNING_OBJECTS, held_out.TUNING_STYLES),
    "report": (held_out.REPORT_OBJECTS, held_out.REPORT_STYLES),
}
AXES = ("content", "style", "both")
DRAWS = 2000
WEIGHINGS = np.linspace(0.0, 1.0, 21)
Interval = tuple[float, float, float]


@dataclass(frozen=True)
class Setting:
    """One way to sample. name: of its family. knobs: of the rule, where it has weights."""

    name: str
    cfg: float
    strength: float
    knobs: tuple[tuple[str, float], ...] = ()

    @property
    def key(self) -> str:
        weights = [f"{knob}={value:g}" for knob, value in self.knobs]
        return "/".join([self.name, f"cfg {self.cfg:g}", f"strength {self.strength:g}", *weights])

    @property
    def label(self) -> str:
        weights = "".join(f", {knob} {value:g}" for knob, value in self.knobs)
        return f"{self.name}, strength {self.strength:g}{weights}"

    @property
    def evaluations(self) -> int:
        """Of the model, for a step of a sampler that evaluates once a step."""
        rule = GUIDANCE["role" if self.knobs else "cfg"]
        step = Step(self.cfg, Moment(0.5, 3))
        return len(needed(rule, step, rule.knobs(dict(self.knobs))))

    @property
    def rule(self) -> ChosenRule | None:
        return ChosenRule("role", dict(self.knobs)) if self.knobs else None


def settings(options: argparse.Namespace) -> list[Setting]:
    out = []
    for cfg in options.cfgs:
        for name in ("plain", "ACFG") if cfg != 1.0 else ("plain",):
            out += [Setting(name, cfg, strength) for strength in options.strengths]
        for knob in ("weight", "content_weight", "style_weight")[: 3 if options.apart else 1]:
            out += [
                Setting("role", cfg, options.at, ((knob, weight),)) for weight in options.weights
            ]
    return out


class Kept:
    """What was measured, in a file of the folder: by setting and pair, a row [content right, style
    right] for each picture, for each judge."""

    def __init__(self, options: argparse.Namespace, checkpoint: Path) -> None:
        self.path = options.out / "role.json"
        digest = hashlib.sha256(checkpoint.read_bytes()).hexdigest()[:16]
        self.made_for = {
            "checkpoint": digest, "pictures": options.pictures, "steps": options.steps,
            "steps divided by": options.divide_steps,
        }  # fmt: skip
        self.results: dict[str, Any] = {}
        for path in (self.path, options.out / "gates.json"):
            if path.is_file():
                held = json.loads(path.read_text("utf-8"))
                shared = held["made for"].items() & self.made_for.items()
                wanted = self.made_for if path == self.path else {"checkpoint": digest}
                if not wanted.items() <= shared:
                    raise SystemExit(
                        f"{path} was made for {held['made for']}, and {wanted} is measured now. "
                        "A folder holds the LoRAs and results of one checkpoint and one set of "
                        "options. Name another with --out."
                    )
                if path == self.path:
                    self.results = held["results"]

    def add(self, found: dict[str, Any]) -> None:
        self.results |= found
        partial = self.path.with_suffix(".partial")
        partial.write_text(json.dumps({"made for": self.made_for, "results": self.results}))
        partial.replace(self.path)


class Bench:
    def __init__(self, options: argparse.Namespace, checkpoint: Path) -> None:
        self.options = options
        self.studio = Studio(checkpoint)
        self.scorers = [Scorer(load_judge(path)) for path in JUDGES]

    def pair(self, content: str, style: str, asked: Sequence[Setting]) -> dict[str, Any]:
        """The rows of these settings for a pair."""
        noise = own_noise(content, style, count=self.options.pictures)
        routed: dict[float, Any] = {}
        found = {}
        for setting in asked:
            if setting.strength not in routed:
                routed[setting.strength] = self._routed(content, style, setting.strength)
            images = self._sampled(routed[setting.strength], setting, noise)
            pairs = [(content, style)] * len(images)
            hits = [scorer.hits(images, pairs) for scorer in self.scorers]
            found[_key(setting, content, style)] = [
                np.stack([one["object"], one["style"]], axis=1).astype(int).tolist() for one in hits
            ]
        return found

    def lora(self, role: str, name: str) -> str:
        return self.studio.lora(role, name, SHOTS[role], self.options.divide_steps)

    def _routed(self, content: str, style: str, strength: float) -> Any:
        files = (
            BranchFile(self.lora("content", content), "content", strength),
            BranchFile(self.lora("style", style), "style", strength),
        )
        prompt = f"<c>a sks {OBJECTS[content].family}</c> in <s>zwx style</s>"
        request = RouterRequest(prompt, files, "all", {"method": "direct"})
        return route(self.studio.model, self.studio.clip, request)

    def _sampled(self, routed: Any, setting: Setting, noise: torch.Tensor) -> torch.Tensor:
        """(pictures, 3, 64, 64) in [-1, 1]."""
        guider = acfg_guider(
            routed.model, routed.conditioning, self.studio.negative, setting.cfg,
            setting.name == "ACFG", setting.rule,
        )  # fmt: skip
        sampling = self.studio.model.get_model_object("model_sampling")
        sigmas = comfy.samplers.calculate_sigmas(sampling, "normal", self.options.steps)
        euler = comfy.samplers.sampler_object("euler")
        latent = torch.zeros_like(noise)  # its latents are pictures
        sampled = guider.sample(noise, latent, euler, sigmas, seed=1, disable_pbar=True)
        return self.studio.vae.decode(sampled).movedim(-1, 1) * 2 - 1


def _key(setting: Setting, content: str, style: str) -> str:
    return f"{setting.key}/{content}/{style}"


# -- figures -----------------------------------------------------------------------------------


def shares(rows: np.ndarray) -> np.ndarray:
    """(..., pictures, 2) of what is right -> (..., 3) shares: content, style, both."""
    right = np.concatenate([rows, rows.min(axis=-1, keepdims=True)], axis=-1)
    return right.mean(axis=-2)


def draws(contents: int, styles: int, count: int = DRAWS, seed: int = 0) -> np.ndarray:
    """(count + 1, contents, styles) weights that sum to 1: all alike, then each draw's."""
    rng = np.random.default_rng(seed)

    def drawn(size: int) -> np.ndarray:
        again = rng.multinomial(size, np.full(size, 1 / size), size=count) / size
        return np.concatenate([np.full((1, size), 1 / size), again])

    return drawn(contents)[:, :, None] * drawn(styles)[:, None, :]


def interval(values: np.ndarray) -> Interval:
    """Of a figure for all pairs and for each draw: (the figure, 95 % interval)."""
    low, high = np.quantile(values[1:], (0.025, 0.975))
    return float(values[0]), float(low), float(high)


def best_both(family: np.ndarray) -> np.ndarray:
    """(draws,) from (draws, settings, 3): the best setting's share of both right."""
    return family[:, :, 2].max(axis=1)


def frontier(family: np.ndarray) -> np.ndarray:
    """(draws,): the mean over weighings of the best setting's weighed share."""
    content, style = family[:, :, 0, None], family[:, :, 1, None]
    return (WEIGHINGS * content + (1 - WEIGHINGS) * style).max(axis=1).mean(axis=1)


def tables(
    asked: Sequence[Setting], contents: Sequence[str], styles: Sequence[str], results: dict
) -> str:
    """Markdown: a table and the two differences for each cfg and judge."""
    drawn, lines = draws(len(contents), len(styles)), []
    rows = np.array(
        [[[results[_key(one, c, s)] for s in styles] for c in contents] for one in asked]
    )  # (settings, contents, styles, judges, pictures, 2)
    found = shares(rows)  # (settings, contents, styles, judges, 3)
    for judge in range(found.shape[3]):
        means = np.einsum("bcs,ncsk->bnk", drawn, found[:, :, :, judge])  # (draws, settings, 3)
        for cfg in dict.fromkeys(one.cfg for one in asked):
            here = [i for i, one in enumerate(asked) if one.cfg == cfg]
            lines += ["", f"cfg {cfg:g}, judge {judge + 1}:", ""]
            lines += ["| setting | evaluations | content | style | both |", "|---" * 5 + "|"]
            for i in here:
                cells = [_said(interval(means[:, i, axis])) for axis in range(3)]
                lines.append(f"| {asked[i].label} | {asked[i].evaluations} | {' | '.join(cells)} |")
            own = means[:, [i for i in here if asked[i].knobs]]
            plain = means[:, [i for i in here if not asked[i].knobs]]
            if own.size and plain.size:
                lines.append("")
                for name, figure in (("best both", best_both), ("frontier", frontier)):
                    gain = interval(figure(own) - figure(plain))
                    lines.append(f"role less plain, {name}: {_said(gain, signed=True)}")
    return "\n".join(lines)


def _said(figure: Interval, signed: bool = False) -> str:
    middle, low, high = (f"{one:+.3f}" if signed else f"{one:.2f}" for one in figure)
    return f"{middle} [{low}, {high}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--half", choices=HALVES, default="report", help="of what is held out")
    parser.add_argument("--limit", type=int, default=4, help="objects, and styles")
    parser.add_argument("--pictures", type=int, default=2, help="of a pair, for each setting")
    parser.add_argument("--cfgs", type=float, nargs="+", default=[1.0, 2.0, 4.0])
    parser.add_argument("--strengths", type=float, nargs="+", default=[0.5, 0.7, 1.0])
    parser.add_argument("--weights", type=float, nargs="+", default=[1.0, 1.5, 2.0, 3.0])
    parser.add_argument("--at", type=float, default=0.7, help="strength under role guidance")
    parser.add_argument("--apart", action="store_true", help="also a weight for one role alone")
    parser.add_argument("--steps", type=int, default=8, help="of a picture")
    parser.add_argument("--divide-steps", type=int, default=1, help="of the LoRAs, to rehearse")
    parser.add_argument("--minutes", type=float, help="begin no pair after so many")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--checkpoint", type=Path, default=MODELS / CHECKPOINT)
    default = training_cache().with_name("small_world_gates")
    parser.add_argument("--out", type=Path, default=default, help=f"default: {default}")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    options.out.mkdir(parents=True, exist_ok=True)
    folder_paths.set_output_directory(str(options.out.resolve()))
    contents, styles = (names[: options.limit] for names in HALVES[options.half])
    kept, asked = Kept(options, options.checkpoint), settings(options)
    with torch.inference_mode():
        measure(Bench(options, options.checkpoint), kept, asked, contents, styles)
    whole = [
        n for n in range(1, min(len(contents), len(styles)) + 1)
        if all(_key(one, c, s) in kept.results
               for one in asked for c in contents[:n] for s in styles[:n])
    ]  # fmt: skip
    if not whole:
        raise SystemExit("No pair is measured yet: run it again, with more --minutes.")
    n = whole[-1]
    print(
        f"{n} x {n} held-out objects and styles, {options.pictures} pictures of a pair, "
        f"{options.steps} steps, direct merge"
    )
    print(tables(asked, contents[:n], styles[:n], kept.results))


def measure(
    bench: Bench, kept: Kept, asked: Sequence[Setting], contents: Sequence[str],
    styles: Sequence[str],
) -> None:  # fmt: skip
    """All pairs that are missing, the squares of few objects and styles first, so that a run that
    was stopped has whole tables."""
    began, minutes = time.monotonic(), bench.options.minutes
    pairs = sorted(
        ((i, j) for i in range(len(contents)) for j in range(len(styles))),
        key=lambda p: (max(p), p),
    )
    for number, (i, j) in enumerate(pairs, 1):
        content, style = contents[i], styles[j]
        missing = [one for one in asked if _key(one, content, style) not in kept.results]
        spent = time.monotonic() - began
        if missing and minutes is not None and spent > 60 * minutes:
            return
        if missing:
            print(
                f"[{spent:.0f} s] pair {number} of {len(pairs)}: {content} in {style}",
                file=sys.stderr, flush=True,
            )  # fmt: skip
            kept.add(bench.pair(content, style, missing))


if __name__ == "__main__":
    main()
