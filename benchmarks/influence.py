"""How much content and style disturb each other on the small world, with and without a basis.

    python run.py bench influence [--contents 2] [--styles 2] [--seeds 2] [--steps 150] [--out DIR]

For each backbone (as it is, with a learned basis taken out, with a random one of the same ranks):
one LoRA for each held-out content and one for each held-out style, from one picture each, on that
backbone, with the pack's own recipes; then every content LoRA with every style LoRA through the
Router and ACFG. The judge of the small world gives cosines to the two reference pictures.

- alone: a LoRA by itself, in core styles (content) or on core objects (style): its cosine in its
  own role, content or style, and how often the judge's nearest name is right;
- leak: the cosine of the same pictures in the *other* role, to the LoRA's reference picture: what
  the LoRA brought along that was not asked for (lower is better);
- fused: cosines of the fused pictures, and how much of the way they are from the pictures of the
  same prompt and noise without LoRAs to a true render; `product` is their product and
  `relative_drop` the mean loss against the LoRAs alone: two ways to read CRAFT-LoRA's (2602.18936)
  "cross-influence".

The measures are those of `craft_core/evaluation`, the features the judge's.

Every pair, and every prompt of a LoRA alone, has noise of its own, the same for every backbone:
with one noise for all, its luck decides. Intervals are 95 % bootstraps over contents and styles.
Files are kept in --out and used again.

    python run.py bench influence --shipped

scores instead the two LoRAs that ship, alone and on all layers. A LoRA must be right in at least
80 % in its own role before any fusion with it is scored.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
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
import small_world_models  # noqa: E402
import torch  # noqa: E402
from craft_lora_pack.comfy_adapter.engine.modules import model_layers  # noqa: E402
from craft_lora_pack.comfy_adapter.guide.acfg import acfg_guider  # noqa: E402
from craft_lora_pack.comfy_adapter.model.basis import apply_basis, load_basis  # noqa: E402
from craft_lora_pack.comfy_adapter.model.lora_files import BranchFile  # noqa: E402
from craft_lora_pack.comfy_adapter.train.run import save_place  # noqa: E402
from craft_lora_pack.comfy_adapter.train.start import start_training as start_training  # noqa: E402
from craft_lora_pack.comfy_adapter.train.train import (  # noqa: E402
    Captioned,
    FilledSlots,
    How,
    ModelParts,
)
from craft_lora_pack.comfy_adapter.use.router import RouterRequest, route  # noqa: E402
from craft_lora_pack.craft_core.evaluation import (  # noqa: E402
    Score,
    leakage,
    mean_score,
    product_influence,
    relative_drop,
    share_of_way,
    similarity,
)
from craft_lora_pack.craft_core.projection import (  # noqa: E402
    Basis,
    LayerBasis,
    orthonormal,
    write_basis,
)
from craft_lora_pack.craft_core.training import TRAINING  # noqa: E402
from craft_lora_pack.craft_core.training.targets import trainable  # noqa: E402

from small_world.judge import (  # noqa: E402
    JudgeEncoder,
    content_prototypes,
    load_judge,
    nearest,
    style_prototypes,
)
from small_world.train.measuring.loras import own_noise  # noqa: E402
from small_world.train.references import CONTENT, STYLE  # noqa: E402
from small_world.world import captions  # noqa: E402
from small_world.world.objects import CORE_OBJECTS, DRAWN, OBJECTS, TRAINED_OBJECTS  # noqa: E402
from small_world.world.render import Pose, render  # noqa: E402
from small_world.world.styles import CORE_STYLES, HELD_OUT_STYLES, TRAINED_STYLES  # noqa: E402

PLAIN, OBJECT = "flat", "house"  # the style of content pictures, and the object of style pictures
LAYER_SETS = "duolora-prior"
BACKBONES = ("as it is", "learned basis", "random basis")
RANKS = {"r_max": 4, "r_min": 1}
STRENGTHS = (0.7, 0.5)
SAMPLING_STEPS = 20


@dataclass(frozen=True)
class Learned:
    """One LoRA on one backbone: its file as the host lists it, and what it was shown."""

    name: str
    file: str
    reference: torch.Tensor  # (1, 64, 64, 3) in [0, 1]


class Bench:
    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.world = small_world_models.load()
        self.judge = load_judge()
        self.look = {role: JudgeEncoder(self.judge, role) for role in ("content", "style")}
        self.names = {"content": content_prototypes(self.judge),
                      "style": style_prototypes(self.judge)}  # fmt: skip
        held_out = [name for name in DRAWN if name not in TRAINED_OBJECTS]
        rng = np.random.default_rng(options.choice)
        self.contents = [str(n) for n in rng.choice(held_out, options.contents, replace=False)]
        self.styles = [str(n) for n in rng.choice(HELD_OUT_STYLES, options.styles, replace=False)]

    # -- backbones and LoRAs -----------------------------------------------------------------

    def backbone(self, kind: str) -> Any:
        if kind == "as it is":
            return self.world.model
        name = self._kept(f"influence/{kind.split()[0]}", "craft_bases", getattr(
            self, f"_{kind.split()[0]}_basis"))  # fmt: skip
        return apply_basis(self.world.model, load_basis(name))

    def _learned_basis(self, how: How) -> str:
        rng = np.random.default_rng(11)
        styles = [name for name in TRAINED_STYLES if name != PLAIN]
        contents = [str(rng.choice(TRAINED_OBJECTS)) for _ in range(64)]
        others = [(str(rng.choice(TRAINED_OBJECTS)), str(rng.choice(styles))) for _ in contents]
        shown = [(name, PLAIN) for name in contents]
        knobs = {**RANKS, "steps": self.options.basis_steps, "batch_size": 6, "warmup": 15,
                 "learning_rate": 0.01}  # fmt: skip
        pictures = {"content": _captioned(shown), "style": _captioned(others)}
        return start_training(
            self._source(self.world.model), TRAINING["basis"],
            FilledSlots(pictures, (), {"vgg": "none"}), knobs, how, lambda training: None,
        ).name  # fmt: skip

    def _random_basis(self, how: How) -> str:
        learned = load_basis(self._kept("influence/learned", "craft_bases", self._learned_basis))
        generator = torch.Generator().manual_seed(23)
        shapes = trainable(model_layers(self.world.model))

        def q(rank: int, path: str) -> torch.Tensor:
            return orthonormal(torch.randn(shapes[path][0], rank, generator=generator))

        layers = {
            path: LayerBasis(q(one.content.shape[1], path), q(one.style.shape[1], path))
            for path, one in learned.layers.items()
        }
        place = save_place(how.save_as, "craft_bases")
        write_basis(place.path, Basis(layers))
        return place.name

    def lora(self, model: Any, kind: str, role: str, name: str) -> Learned:
        if role == "content":
            pair, caption = (name, PLAIN), f"a sks {OBJECTS[name].family} in {PLAIN} style"
        else:
            pair, caption = (OBJECT, name), f"a {OBJECT} in zwx style"
        picture = _picture(render(*pair, seed=0, pose=Pose()))
        knobs = {"rank": 8, "steps": self.options.steps, "batch_size": 4, "shift": 3,
                 "mirror": True, "learning_rate": 1.5e-3}  # fmt: skip

        def train(how: How) -> str:
            choices = {"role": role, "layer_sets": LAYER_SETS}
            filled = FilledSlots({"images": Captioned([picture], [caption])}, (), choices)
            return start_training(
                self._source(model), TRAINING["lora"], filled, knobs, how, lambda training: None,
            ).name  # fmt: skip

        file = self._kept(f"influence/{kind.split()[0]}_{role}_{name}", "loras", train)
        return Learned(name, file, picture)

    def _source(self, model: Any) -> ModelParts:
        return ModelParts(model, self.world.clip, self.world.vae)

    def _kept(self, prefix: str, folder: str, make: Callable[[How], str]) -> str:
        """A file's name; the file is made only if no earlier run has made it."""
        place = save_place(prefix, folder)
        first = place.path.with_name(f"{place.path.stem[:-7]}_00001_.safetensors")
        if first.is_file():
            return str(first.relative_to(Path(folder_paths.get_output_directory()) / folder))
        print("making", prefix, flush=True)
        return make(How(prefix, checkpointing=False))

    # -- pictures ----------------------------------------------------------------------------

    def sample(
        self, model: Any, files: list[BranchFile], prompt: str, asymmetric: bool, key: tuple
    ) -> torch.Tensor:
        """(seeds, 64, 64, 3) in [0, 1], from the noise that belongs to the key."""
        layer_sets = "all" if self.options.shipped else LAYER_SETS
        request = RouterRequest(prompt, tuple(files), layer_sets, {"method": "craft"})
        routed = route(model, self.world.clip, request)
        negative = self.world.encode("")
        cfg = self.options.cfg
        guider = acfg_guider(routed.model, routed.conditioning, negative, cfg, asymmetric)
        latent = torch.zeros(self.options.seeds, 3, 64, 64)  # its latents are pictures
        sigmas = comfy.samplers.calculate_sigmas(
            model.get_model_object("model_sampling"), "normal", SAMPLING_STEPS
        )
        noise = own_noise(*key, count=self.options.seeds)
        sampled = guider.sample(noise, latent, comfy.samplers.sampler_object("euler"), sigmas,
                                seed=1, disable_pbar=True)  # fmt: skip
        return self.world.vae.decode(sampled)

    def alone(self, model: Any, one: Learned, role: str) -> dict[str, float]:
        """The LoRA by itself, standard guidance at strength 1: own role, right names, leak."""
        if role == "content":
            asked = [f"<c>a sks {OBJECTS[one.name].family}</c> in {style} style"
                     for style in CORE_STYLES]  # fmt: skip
        else:
            asked = [f"a {name} in <s>zwx style</s>" for name in CORE_OBJECTS if name != OBJECT]
        asked = asked[:: max(1, len(asked) // self.options.prompts)][: self.options.prompts]
        pictures = torch.cat(
            [
                self.sample(model, [BranchFile(one.file, role, 1.0)], p, False, (one.name, p))  # type: ignore
                for p in asked
            ]
        )
        other = "style" if role == "content" else "content"
        own, besides = self.look[role].features, self.look[other].features
        found = nearest(own(pictures), self.names[role])
        return {
            "alone": float(similarity(own(pictures), own(one.reference)).mean()),
            "right": sum(name == one.name for name in found) / len(found),
            "leak": float(leakage(besides(pictures), besides(one.reference)).mean()),
        }

    def fused(self, model: Any, content: Learned, style: Learned) -> dict[str, float]:
        """The pair's cosines, and the same without LoRAs and of a true render."""
        prompt = f"<c>a sks {OBJECTS[content.name].family}</c> in <s>zwx style</s>"
        truth = _picture(render(content.name, style.name, seed=0, pose=Pose()))
        shown = {"fused": STRENGTHS, "without": (0.0, 0.0)}
        pictures = {
            name: self.sample(
                model,
                [BranchFile(content.file, "content", strengths[0]),
                 BranchFile(style.file, "style", strengths[1])],
                prompt, True, (content.name, style.name),
            )
            for name, strengths in shown.items()
        } | {"truth": truth}  # fmt: skip
        return {
            f"{name} {role}": float(similarity(look(images), look(one.reference)).mean())
            for name, images in pictures.items()
            for role, one in (("content", content), ("style", style))
            for look in [self.look[role].features]
        }

    def shipped(self) -> None:
        for role, file, pair in (
            ("content", small_world_models.CONTENT, CONTENT),
            ("style", small_world_models.STYLE, STYLE),
        ):
            reference = _picture(render(*pair[:2], seed=0, pose=Pose()))
            one = Learned(pair[0] if role == "content" else pair[1], file, reference)
            figures = self.alone(self.world.model, one, role)
            print(file, {name: round(value, 3) for name, value in figures.items()}, flush=True)

    # -- the table ---------------------------------------------------------------------------

    def row(self, kind: str) -> dict[str, Score]:
        model = self.backbone(kind)
        contents = [self.lora(model, kind, "content", name) for name in self.contents]
        styles = [self.lora(model, kind, "style", name) for name in self.styles]
        by_content = [self.alone(model, one, "content") for one in contents]
        by_style = [self.alone(model, one, "style") for one in styles]
        cells = [[self.fused(model, c, s) for s in styles] for c in contents]
        figures = {}
        for role, rows in (("content", by_content), ("style", by_style)):
            for name in ("alone", "right", "leak"):
                values = torch.tensor([row[name] for row in rows])
                figures[f"{role} {name}"] = values[:, None] if role == "content" else values[None]
        found = {
            name: torch.tensor([[cell[name] for cell in row] for row in cells])
            for name in cells[0][0]
        }
        c, s = found["fused content"], found["fused style"]
        figures |= {"fused content": c, "fused style": s, "product": product_influence(c, s)}
        figures["relative_drop"] = relative_drop(
            c, s, figures["content alone"], figures["style alone"]
        )
        scored = {name: self._score(name, values) for name, values in figures.items()}
        for role in ("content", "style"):
            means = [found[f"{name} {role}"].mean() for name in ("fused", "without", "truth")]
            name = f"{role} share of the way"
            scored[name] = self._score(name, share_of_way(*means)[None, None])
        return scored

    def _score(self, name: str, values: torch.Tensor) -> Score:
        """Of an array (contents, styles), or with 1 for the axis that it does not have."""
        contents, styles = np.indices(values.shape).reshape(2, -1)
        factors = {"contents": contents.tolist(), "styles": styles.tolist()}
        encoder = "; ".join(look.name for look in self.look.values())
        preprocessing = self.look["content"].preprocessing
        return mean_score(name, values.flatten().tolist(), factors, encoder, preprocessing)


def _captioned(pairs: list[tuple[str, str]]) -> Captioned:
    pictures = [_picture(render(*pair, seed=k)) for k, pair in enumerate(pairs)]
    return Captioned(pictures, [captions.plain(*pair) for pair in pairs])


def _picture(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(array.astype(np.float32) / 255)[None]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--contents", type=int, default=2)
    parser.add_argument("--styles", type=int, default=2)
    parser.add_argument("--seeds", type=int, default=2, help="pictures of every prompt")
    parser.add_argument("--prompts", type=int, default=6, help="prompts for a LoRA alone")
    parser.add_argument("--steps", type=int, default=150, help="of a LoRA's training")
    parser.add_argument("--basis-steps", type=int, default=150)
    parser.add_argument("--choice", type=int, default=0, help="seed that draws held-out words")
    parser.add_argument("--backbones", nargs="+", default=BACKBONES, choices=BACKBONES)
    parser.add_argument("--out", type=Path, help="keep bases and LoRAs here, and use them again")
    parser.add_argument("--cfg", type=float, default=3.0, help="guidance scale of every picture")
    parser.add_argument("--shipped", action="store_true", help="score the LoRAs that ship")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.out:
        folder_paths.set_output_directory(str(options.out.resolve()))
    with torch.inference_mode():
        bench = Bench(options)
        if options.shipped:
            return bench.shipped()
        print("contents:", *bench.contents, " styles:", *bench.styles, flush=True)
        rows = {kind: bench.row(kind) for kind in options.backbones}
    print("|", " | ".join(["", *rows]), "|")
    print("|---" * (len(rows) + 1) + "|")
    for name in next(iter(rows.values())):
        print("|", " | ".join([name, *(_cell(row[name]) for row in rows.values())]), "|")


def _cell(score: Score) -> str:
    interval = "" if score.low is None else f" [{score.low:.3f}, {score.high:.3f}]"
    return f"{score.mean:.3f}{interval}"


if __name__ == "__main__":
    main()
