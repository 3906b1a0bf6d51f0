"""Command line: `python -m small_world.drawings WHAT`; see `--help`.

fetch: get the emoji sets and draw them. judge, base: train two judges, and the base model on.
"""

import argparse
import os
from pathlib import Path

from ..train.__main__ import CHECKPOINT, MODELS, training_cache

WHAT = ("fetch", "judge", "base")


def drawings_cache() -> Path:
    """Where the drawings and what is trained on them are kept, unless a folder is named."""
    return training_cache().with_name("small_world_drawings")


def main() -> None:
    options = _options()
    if options.what == "fetch":
        from .fetch import fetch

        return fetch(options.folder)
    from ..train.host import prepare

    prepare(Path(options.comfyui).resolve(), options.threads or os.cpu_count() or 1)
    if options.background and hasattr(os, "nice"):
        os.nice(19)
    from ..train.base import Settings
    from .pictures import Drawings
    from .training import train_base, train_judges

    drawings, out = Drawings(options.folder), options.out or options.folder / "models"
    if options.what == "judge":
        made = train_judges(out, drawings, options.minutes or 15, options.workers,
                            options.batch or 48, options.first)  # fmt: skip
        print(*made, sep="\n")
    else:
        settings = Settings(device="cpu", steps=options.steps, minutes=options.minutes,
                            batch=options.batch or 16, rate=options.rate, half_share=0.0,
                            first=options.first, pictures=options.pictures,
                            save_seconds=options.save_seconds)  # fmt: skip
        print(train_base(out, drawings, settings, options.workers, MODELS / CHECKPOINT))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m small_world.drawings", description=__doc__)
    parser.add_argument("what", choices=WHAT)
    parser.add_argument("--folder", type=Path, default=drawings_cache(), help="of the drawings")
    parser.add_argument("--out", type=Path, help="default: the folder `models` in it")
    parser.add_argument("--comfyui", type=Path, default=os.environ.get("COMFYUI_PATH"))
    parser.add_argument("--threads", type=int, help="default: every core")
    parser.add_argument("--workers", type=int, default=1, help="processes that draw")
    parser.add_argument("--minutes", type=float, help="a deadline that decides the steps")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--batch", type=int, help="default: 16, of a judge 48")
    parser.add_argument("--rate", type=float, default=6e-4)
    parser.add_argument("--pictures", type=int, default=60_000, help="renders in the pool")
    parser.add_argument("--first", type=int, default=8_000, help="renders to wait for")
    parser.add_argument("--save-seconds", type=float, default=1800.0)
    parser.add_argument("--background", action="store_true", help="at the lowest priority")
    options = parser.parse_args()
    if options.what != "fetch" and options.comfyui is None:
        parser.error("no ComfyUI given: use --comfyui PATH or set COMFYUI_PATH")
    return options


if __name__ == "__main__":
    main()
