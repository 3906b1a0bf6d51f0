"""Command line: `python -m small_world.train WHAT --comfyui PATH --out DIR`; see `--help`."""

import argparse
import os
from pathlib import Path

from .host import prepare

MODELS = Path(__file__).resolve().parents[1] / "models"
REFERENCES = MODELS.parent / "references"
WHAT = ("base", "judge", "references", "pairs", "measure", "preview")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m small_world.train", description=__doc__)
    parser.add_argument("what", choices=WHAT)
    parser.add_argument(
        "--comfyui",
        type=Path,
        default=os.environ.get("COMFYUI_PATH"),
        help="the ComfyUI folder whose model class is trained (default: COMFYUI_PATH)",
    )
    parser.add_argument("--out", type=Path, default=MODELS, help="where models are written")
    parser.add_argument("--minutes", type=float, default=42.0, help="length of training")
    parser.add_argument("--count", type=int, default=96, help="pictures of a kind, or pairs")
    parser.add_argument("--kinds", nargs="+", help="kinds of pairs to measure, see mixture.py")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--pictures", type=int, default=56_000, help="renders in the pool")
    parser.add_argument("--start", type=Path, help="a checkpoint that base training starts from")
    options = parser.parse_args()
    if options.comfyui is None:
        parser.error("no ComfyUI given: use --comfyui PATH or set COMFYUI_PATH")
    return options


def main() -> None:
    options = parse()
    prepare(options.comfyui.resolve(), options.threads)
    if options.what == "base":
        from .base import BaseTraining

        settings = options.minutes, options.seed, options.pictures, options.start
        print(BaseTraining(options.out, *settings).run())
    elif options.what == "judge":
        from .judge import train

        print(train(options.out, options.seed, options.minutes))
    elif options.what == "measure":
        from .measure import KINDS, measure

        measure(options.out, options.seed, options.count, options.kinds or KINDS)
    elif options.what == "preview":
        from .preview import write_preview

        write_preview(MODELS.parent / "preview.png", options.seed)
    elif options.what == "references":
        from .references import write_references

        write_references(REFERENCES)
    else:
        from .references import write_pairs

        write_pairs(options.out, options.count, options.seed)


if __name__ == "__main__":
    main()
