"""How far two LoRAs on a quantised model are from the exact sum, by our engine and by the host.

    python run.py bench quantisation

A small random model of the host's SDXL class, its linear layers stored in every format that can be
made on a CPU, sampled for two steps. Exact is the same sampling in float32 with the stored weights,
dequantised, plus the LoRAs. Differences are relative to the largest value where that exceeds 1. The
first column is the quantised model without LoRAs against its own weights in float32: the integer
formats round their inputs too.
"""

from __future__ import annotations

import argparse

import _sdxl_class  # noqa: F401 (enters the host)
from quantised import FORMATS, errors


def main() -> None:
    argparse.ArgumentParser(description=__doc__.split("\n", 1)[0]).parse_args()
    print("| format | no LoRA | ours | host LoraLoader | what the LoRAs change |")
    print("|---|---|---|---|---|")
    for name in FORMATS:
        found = errors(name)
        numbers = (found.base, found.ours, found.host, found.effect)
        print(f"| {name} | {' | '.join(f'{number:.1e}' for number in numbers)} |", flush=True)


if __name__ == "__main__":
    main()
