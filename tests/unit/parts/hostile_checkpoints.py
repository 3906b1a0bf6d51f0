"""Checkpoint headers of up to 16 MB that ask for as much time as they can.

    python hostile_checkpoints.py FOLDER [BEGINNING OF THEIR NAMES]

Prints what hostile.py prints, of what a page's question about a model file takes. COMFYUI_PATH is
the host.
"""

from __future__ import annotations

import json
import os
import sys
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
sys.path += [str(ROOT), str(Path(__file__).parent)]

from launcher.run.inside_host import enter_host, load_pack, temporary_base  # noqa: E402

_BASE = temporary_base()
enter_host(Path(os.environ["COMFYUI_PATH"]), Path(_BASE.name), cpu=True)
load_pack()

import hostile  # noqa: E402
from craft_lora_pack.comfy_adapter.page.layer_counts import layer_counts  # noqa: E402
from craft_lora_pack.comfy_adapter.pairs.references import pair_caption  # noqa: E402

UNET = {
    "input_blocks.0.0.weight": (8, 4, 3, 3),
    "time_embed.0.weight": (32, 8),
    "out.2.weight": (4, 8, 3, 3),
}
EMPTY = (1, 1)
FORMS = {
    "as many as are read": lambda n: {f"{i}.weight": EMPTY for i in range(n)},
    "blocks": lambda n: {f"blocks.{i % 1000}.{i}.weight": EMPTY for i in range(n)},
    "blocks of a UNet": lambda n: (
        UNET | {f"input_blocks.{i}.0.in_layers.2.weight": (8, 8, 3, 3) for i in reversed(range(n))}
    ),
    "transformer blocks of a UNet": lambda n: (
        UNET
        | {
            f"input_blocks.{i // 100}.1.transformer_blocks.{i % 100}.attn2.to_k.weight": (8, 8)
            for i in reversed(range(n))
        }
    ),
    "blocks of a diffusers UNet": lambda n: {
        f"down_blocks.{i // 100}.attentions.{i % 10}.transformer_blocks.{i % 100}.weight": EMPTY
        for i in reversed(range(n))
    },
    "blocks of Flux": lambda n: {
        f"{kind}_blocks.{i}.img_attn.norm.key_norm.scale": (8,)
        for i in reversed(range(n // 2))
        for kind in ("double", "single")
    },
    "blocks of diffusers transformers": lambda n: {
        f"transformer_blocks.{i}.attn.add_q_proj.weight": EMPTY for i in reversed(range(n))
    },
    "joint blocks": lambda n: {
        f"joint_blocks.{i}.context_block.attn.qkv.weight": EMPTY for i in reversed(range(n))
    },
    "long names": lambda n: {
        "model.diffusion_model." + f"{i}." * 100 + "weight": EMPTY for i in range(n)
    },
}
hostile.CASES.clear()
for _name, _form in FORMS.items():
    for _count in (990, 7_990, 200_000):
        hostile.case(f"checkpoint: {_count} {_name}")(
            lambda folder, form=_form, count=_count: partial(
                layer_counts, hostile.with_tensors(folder / f"{count}.safetensors", form(count))
            )
        )
for _name, (_header, _length) in hostile.RAW.items():
    hostile.case(f"checkpoint: a header of {_name}")(
        lambda folder, header=_header, length=_length: partial(
            layer_counts, hostile.written(folder / "raw.safetensors", header, length=length)
        )
    )
hostile.case("checkpoint: prefixes and lengths")(
    lambda folder: partial(
        layer_counts,
        hostile.written(folder / "l.safetensors", json.dumps({"a": {"shape": [1 << 62]}}).encode()),
    )
)
hostile.case("caption template")(
    lambda folder: partial(pair_caption, "{content}" * 1_000_000, "a" * 4_000_000, "b")
)

if __name__ == "__main__":
    hostile.main(Path(sys.argv[1]))
