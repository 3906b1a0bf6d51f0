"""Command line: `python -m small_world.train WHAT --comfyui PATH --out DIR`; see `--help`."""

import argparse
import os
import sys
from pathlib import Path

MODELS = Path(__file__).resolve().parents[1] / "models"
DOCS = MODELS.parents[1] / "docs"
REFERENCES = MODELS.parent / "references"
CHECKPOINT = Path("checkpoints") / "craft_small_world.safetensors"
WHAT = ("base", "text", "compare", "speed", "judge", "judged", "references", "pairs", "measure",
        "fidelity", "levels", "gates", "starting", "choose", "pairs-picture",
        "preview")  # fmt: skip


def training_cache() -> Path:
    """Where an unfinished training is kept: the user's cache folder of this system."""
    home = Path.home()
    if sys.platform == "win32":
        cache = Path(os.environ.get("LOCALAPPDATA") or home / "AppData" / "Local")
    elif sys.platform == "darwin":
        cache = home / "Library" / "Caches"
    else:
        configured = os.environ.get("XDG_CACHE_HOME", "")
        cache = Path(configured) if os.path.isabs(configured) else home / ".cache"
    return cache / "comfyui-craft-lora" / "small_world_training"


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m small_world.train", description=__doc__)
    parser.add_argument("what", choices=WHAT)
    parser.add_argument(
        "--comfyui",
        type=Path,
        default=os.environ.get("COMFYUI_PATH"),
        help="the ComfyUI folder whose model class is trained (default: COMFYUI_PATH)",
    )
    parser.add_argument(
        "--out",
        type=Path,
        help="where files are written and an unfinished training is kept "
        "(default for trainings: a folder in your cache)",
    )
    parser.add_argument("--models", type=Path, default=MODELS, help="the models to measure")
    parser.add_argument("--count", type=int, default=96, help="pictures of a kind, or pairs")
    parser.add_argument("--kinds", nargs="+", help="kinds of pairs to measure, see mixture.py")
    parser.add_argument("--threads", type=int, help="default: every core")
    parser.add_argument("--seed", type=int, default=0)
    gates = parser.add_argument_group("gates")
    gates.add_argument("--held-out", choices=("tuning", "report", "both"), default="report",
                       help="held-out objects and styles that LoRAs learn")  # fmt: skip
    gates.add_argument("--limit", type=int, help="objects, and styles, of it; default: all")
    gates.add_argument("--objects", nargs="+", default=[], help="of the half; default: all")
    gates.add_argument("--each", type=int, default=3, help="styles an object is fused with")
    gates.add_argument("--pictures-each", type=int, default=4, help="pictures of a fused pair")
    gates.add_argument("--shots", type=int, default=4, help="pictures a content LoRA learns from")
    gates.add_argument("--parts", nargs="+", default=["base", "alone", "fused"],
                       choices=("base", "alone", "one", "fused"),
                       help="one: content LoRAs from one picture as well")  # fmt: skip
    gates.add_argument("--divide-steps", type=int, default=1, help="of the LoRAs, to rehearse")
    gates.add_argument("--rows", choices=("start", "style"), default="start",
                       help="of `starting`; style: for the preset strong_style")  # fmt: skip
    gates.add_argument("--sampling-steps", type=int, default=20, help="of a picture of `starting`")
    training = parser.add_argument_group("training")
    training.add_argument("--device", help="cpu or cuda (default: cuda where there is one)")
    training.add_argument("--steps", type=int, help="of a training; its rate ends there at nothing")
    training.add_argument("--minutes", type=float, help="a deadline that decides the steps instead")
    training.add_argument("--batch", type=int, help="pictures of full size in a step")
    training.add_argument("--rate", type=float, help="the highest learning rate")
    training.add_argument("--noise", default="lognormal", help="uniform, lognormal or min-snr")
    training.add_argument("--half", type=float, help="share of pictures at half size")
    training.add_argument("--pictures", type=int, help="renders in the pool")
    training.add_argument("--first", type=int, help="renders to wait for")
    training.add_argument("--workers", type=int, help="processes that draw")
    training.add_argument("--save-seconds", type=float, default=600.0)
    training.add_argument("--compile", action="store_true", help="compile the UNet (takes minutes)")
    training.add_argument("--eager", action="store_true",
                          help="on a card: start the kernels of a step one by one")  # fmt: skip
    training.add_argument(
        "--start",
        type=Path,
        help="begin with a checkpoint's weights (default: the shipped one's)",
    )
    training.add_argument("--fresh", action="store_true", help="begin with random weights")
    training.add_argument("--text", type=Path, help="a text encoder for --fresh, of `text`")
    training.add_argument("--background", action="store_true", help="at the lowest priority")
    training.add_argument("--variants", nargs="+", default=["uniform", "lognormal", "min-snr"],
                          help="to compare: kinds of noise, each perhaps with `:rate`")  # fmt: skip
    training.add_argument("--validation", type=Path, help="a file for `compare`")
    options = parser.parse_args()
    if options.comfyui is None:
        parser.error("no ComfyUI given: use --comfyui PATH or set COMFYUI_PATH")
    trained = options.what in ("base", "text", "compare", "speed", "judge")
    measured = training_cache().with_name("small_world_gates")
    default = (
        measured
        if options.what in ("gates", "starting", "choose", "pairs-picture")
        else training_cache()
        if trained
        else MODELS
    )
    options.out = options.out or default
    return options


def main() -> None:
    options = parse()
    from . import device as devices
    from .host import prepare

    cores = os.cpu_count() or 1
    prepare(Path(options.comfyui).resolve(), options.threads or cores)
    if options.background and hasattr(os, "nice"):
        os.nice(19)
    device = devices.choose(options.device)
    # Training on the CPU leaves one process for drawing; training on a GPU leaves the cores.
    workers = options.workers or (1 if device.type == "cpu" else max(1, cores - 2))
    if options.what in ("base", "compare", "speed"):
        _base(options, workers)
    elif options.what == "text":
        from .text import write_text

        write_text(options.out, options.seed, options.steps)
    elif options.what == "judge":
        from .judge import BATCH, FIRST, train

        minutes, batch = options.minutes or 22.0, options.batch or BATCH
        for path in train(options.out, device, minutes, workers, batch, options.first or FIRST):
            print(path)
    elif options.what == "judged":
        from .judge import report

        report(options.models / "judge")
    elif options.what == "measure":
        from .measuring.measure import KINDS, measure

        kinds = options.kinds or KINDS
        measure(options.models / CHECKPOINT, device, options.seed, options.count, kinds)
    elif options.what == "fidelity":
        from .measuring.fidelity import fidelity
        from .measuring.measure import KINDS

        kinds = options.kinds or KINDS
        fidelity(options.models / CHECKPOINT, device, options.seed, options.count, kinds)
    elif options.what == "levels":
        from .measuring.levels import KINDS, levels

        kinds = options.kinds or KINDS
        levels(options.models / CHECKPOINT, options.seed, options.count, kinds)
    elif options.what in ("gates", "starting"):
        _gates(options)
    elif options.what == "choose":
        from .measuring.shown import choose

        choose(options.out)
    elif options.what == "pairs-picture":
        from .measuring.shown import write_pairs_pictures

        comfyui, checkpoint = Path(options.comfyui).resolve(), options.models / CHECKPOINT
        write_pairs_pictures(DOCS, comfyui, checkpoint.resolve(), options.out.resolve())
    elif options.what == "preview":
        from .preview import write_preview

        write_preview(MODELS.parent / "preview.png", options.seed)
    elif options.what == "references":
        from .references import write_references

        write_references(REFERENCES)
    else:
        from .references import write_pairs

        write_pairs(options.out, options.count, options.seed)


def _gates(options: argparse.Namespace) -> None:
    from .measuring.gates import GatePlan, gates

    plan = GatePlan(
        (options.models / CHECKPOINT).resolve(), Path(options.comfyui).resolve(),
        options.out.resolve(), options.held_out, options.limit, options.each,
        options.pictures_each, options.count, options.shots, tuple(options.parts),
        options.divide_steps, options.sampling_steps, tuple(options.objects),
    )  # fmt: skip
    cores, workers = os.cpu_count() or 1, options.workers or 1
    if options.what == "starting":
        from .measuring.starting import starting

        return starting(plan, workers, options.rows)
    threads = max(1, (options.threads or cores) // workers)
    gates(plan, workers, threads, options.minutes)


def _base(options: argparse.Namespace, workers: int) -> None:
    from .base import BaseTraining, Settings

    settings = Settings(
        device=options.device, steps=options.steps, minutes=options.minutes, batch=options.batch,
        rate=options.rate, noise=options.noise, half_share=options.half,
        pictures=options.pictures, first=options.first, save_seconds=options.save_seconds,
        compile=options.compile, record=not options.eager, seed=options.seed,
    )  # fmt: skip
    start = None if options.fresh else options.start or MODELS / CHECKPOINT
    training = BaseTraining(options.out, settings, workers, start, options.text)
    if options.what == "base":
        print(training.run())
        return
    if options.what == "speed":
        from .measuring.speed import BATCHES, speed

        return speed(training, (options.batch,) if options.batch else BATCHES)
    from ..judge import JUDGE, load_judge
    from .measuring.compare import compare, read_validation

    judge = load_judge(options.models / "judge" / JUDGE.name)
    compare(training, options.variants, read_validation(options.validation, judge))


if __name__ == "__main__":
    main()
