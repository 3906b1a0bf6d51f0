"""Inputs of up to 16 MB that ask for as much time or memory as they can, one after another.

    python hostile.py FOLDER [BEGINNING OF THEIR NAMES]

Prints a line of JSON before each input, and one behind it with the seconds of CPU time and the
megabytes of memory it took. What hangs ends the process; the last input begun is then at fault.
Files are made in FOLDER. An input is answered, or refused with a CraftError; any other
error ends the process.
"""

from __future__ import annotations

import json
import random
import signal
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[3]
sys.path += [str(ROOT), str(Path(__file__).parent)]

from launcher.pack import as_package  # noqa: E402

as_package()
import torch  # noqa: E402
from craft_lora_pack.cli.queue.matrix import jobs_of  # noqa: E402
from craft_lora_pack.client.address import Inputs  # noqa: E402
from craft_lora_pack.craft_core.encoder.file import read_encoder  # noqa: E402
from craft_lora_pack.craft_core.errors import CraftError  # noqa: E402
from craft_lora_pack.craft_core.fusion.lines import parse_lines  # noqa: E402
from craft_lora_pack.craft_core.guidance import GUIDANCE  # noqa: E402
from craft_lora_pack.craft_core.lora import read_lora  # noqa: E402
from craft_lora_pack.craft_core.lora.storage import read_tensors  # noqa: E402
from craft_lora_pack.craft_core.lora.text_encoder import merge_text_encoders  # noqa: E402
from craft_lora_pack.craft_core.lora.without_model import read_together  # noqa: E402
from craft_lora_pack.craft_core.projection import read_basis, read_header  # noqa: E402
from craft_lora_pack.craft_core.routing.layer_sets import resolve  # noqa: E402
from craft_lora_pack.craft_core.routing.markers import parse  # noqa: E402
from craft_lora_pack.craft_core.schedule.schedule import Schedule, sample_curve  # noqa: E402
from craft_lora_pack.craft_core.search import axis_of  # noqa: E402
from craft_lora_pack.craft_core.training.loop import state_metadata  # noqa: E402
from craft_lora_pack.craft_core.training.perceptual import read_vgg  # noqa: E402
from craft_lora_pack.craft_core.types import LoraFile  # noqa: E402
from fake_comfyui import OBJECT_INFO, PROMPT  # noqa: E402
from unet_layers import sdxl_layers  # noqa: E402

SIZE = 16_000_000
HANGS = 60.0  # seconds of CPU time
LAYERS = sdxl_layers()
PATH, (OUT, IN) = next((p, s) for p, s in LAYERS.items() if p.endswith("to_q"))
STEM = f"diffusion_model.{PATH}"
TEXT = "lora_te1_text_model_encoder_layers_0_mlp_fc1"
STEMS = [f"diffusion_model.{path}" for path in LAYERS]
CHANCE = random.Random(0)
EVIL = r"(\w+\.?)+!"
Run = Callable[[], Any]
CASES: dict[str, Callable[[Path], Run]] = {}  # name -> prepares the input, gives what reads it


def case(name: str) -> Callable:
    def add(prepare: Callable[[Path], Run]) -> Callable[[Path], Run]:
        CASES[name] = prepare
        return prepare

    return add


# Files


def written(path: Path, header: bytes, data: bytes = b"", length: int | None = None) -> Path:
    start = (len(header) if length is None else length).to_bytes(8, "little")
    path.write_bytes(start + header + data)
    return path


def with_tensors(
    path: Path, shapes: Mapping[str, tuple[int, ...]], metadata: Mapping[str, str] | None = None
) -> Path:
    """A sound safetensors file of ones in float16."""
    entries: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    at = 0
    for name, shape in shapes.items():
        count = 1
        for size in shape:
            count *= size
        entries[name] = {"dtype": "F16", "shape": shape, "data_offsets": [at, at + 2 * count]}
        at += 2 * count
    header = json.dumps(entries, separators=(",", ":")).encode()
    return written(path, header + b" " * (-len(header) % 8), b"\0\x3c" * (at // 2))


ONE_LAYER = {f"{STEM}.lora_A.weight": (1, IN), f"{STEM}.lora_B.weight": (OUT, 1)}


def every_layer(path: Path, metadata: Mapping[str, str]) -> Path:
    shapes = {}
    for stem, (out, *inputs) in zip(STEMS, LAYERS.values(), strict=True):
        shapes |= {f"{stem}.lora_A.weight": (1, *inputs)}
        shapes |= {f"{stem}.lora_B.weight": (out, 1, *[1] * (len(inputs) - 1))}
    return with_tensors(path, shapes, metadata)


def lora(path: Path) -> Any:
    return read_lora(path, LAYERS)


def with_entry(path: Path, entry: str, text: str) -> Path:
    return with_tensors(path, ONE_LAYER, {entry: text})


PATTERNS = {
    "repeats inside repeats": {EVIL: 1},
    "alternatives that overlap": {"(a|aa)*b": 1},
    "very many plain names": {f"blocks.{n}.attn1.to_q": 1 for n in range(350_000)},
    "very many wildcards": {f"blocks.{n}.*": 1 for n in range(500_000)},
    "one very long pattern": {".*" * 8_000_000: 1},
    "one very long plain name": {"a." * 8_000_000: 1},
    "many ways": {"|".join(f".*[aeiou].{{{n}}}k" for n in range(30)): 1},
    "counted repeats": {"a{999}" * 1_000_000: 1},
    "open groups": {"(" * SIZE: 1},
    "alternatives": {"a|" * 8_000_000: 1},
    "alternatives of groups": {"(a|b)" * 3_000_000: 1},
    "large classes": {
        "[" + "".join(chr(0x3000 + n + i) for i in range(490)) + "]": 1 for n in range(999)
    },
}
for _name, _table in PATTERNS.items():

    @case(f"alpha_pattern: {_name}")
    def _(folder: Path, table: dict = _table) -> Run:
        entry = json.dumps({"alpha_pattern": table, "rank_pattern": table, "r": 1})
        return partial(
            lora, every_layer(folder / "p.safetensors", {"lora_adapter_metadata": entry})
        )


@case("alpha_pattern: classes and names of many characters")
def _(folder: Path) -> Run:
    names = ["".join(chr(0x3000 + 450 * n + i) for i in range(450)) for n in range(40)]
    table = {f"[{chr(0x3000 + n)}-{chr(0x5000 + n)}]": 1 for n in range(500)}
    entry = json.dumps({"alpha_pattern": table, "rank_pattern": table, "r": 1})
    shapes = ONE_LAYER | {f"{name}.lora_A.weight": (1, 1) for name in names}
    place = folder / "n.safetensors"
    metadata = {"lora_adapter_metadata": entry}
    return partial(read_lora, with_tensors(place, shapes, metadata), LAYERS, allow=True)


@case("alpha_pattern: of a million models")
def _(folder: Path) -> Run:
    entry = json.dumps({f"m{n}.r": 1 for n in range(1_000_000)})
    return partial(lora, with_entry(folder / "m.safetensors", "lora_adapter_metadata", entry))


TEXTS = {
    "deep": "[" * SIZE,
    "deep tables": '{"a":' * 3_000_000,
    "a long number": "9" * SIZE,
    "an endless number": '{"r": 1e999999999}',
    "text": '"' + "a" * SIZE + '"',
}
for (_name, _text), _entry in product(
    TEXTS.items(), ("lora_adapter_metadata", "craft_exact_scales")
):

    @case(f"{_entry}: {_name}")
    def _(folder: Path, text: str = _text, entry: str = _entry) -> Run:
        return partial(lora, with_entry(folder / "j.safetensors", entry, text))


KINDS = ("lora_A.weight", "lora_up.weight", "alpha", "hada_w1_a", "lokr_w2", "dora_scale", "x")
HEADERS = {
    "300,000 tensors": lambda: {f"{n}": (1,) for n in range(300_000)},
    "many tensors with long names": lambda: {
        f"{n}{'.' * 400}{KINDS[n % 7]}": (1,) for n in range(20_000)
    },
    "many tensors with names of text encoders": lambda: {
        f"text_encoder.{n}.{'layers.' * 50}{KINDS[n % 7]}": (1,) for n in range(20_000)
    },
    "many tensors with names of blocks": lambda: {
        f"down_blocks_1_{'input_blocks_1_' * 20}{n}.{KINDS[n % 7]}": (1,) for n in range(20_000)
    },
    "many tensors with names of many words": lambda: {
        f"{n}.{'a.' * 200}{KINDS[n % 7]}": (1, 1) for n in range(20_000)
    },
    "one long name of dots": lambda: {"." * 8_000_000: (1,)},
    "one long name of numbers": lambda: {"down_blocks_" + "1" * 8_000_000: (1,)},
    "one long name of text encoders": lambda: {"base_model.model." * 900_000: (1,)},
    "an axis without numbers": lambda: {f"{STEM}.lora_A.weight": (0, 1 << 39),
                                        f"{STEM}.lora_B.weight": (1 << 39, 0)},
    "a core that blows up": lambda: {f"{STEM}.lora_down.weight": (1, 1_000_000, 1, 1),
                                     f"{STEM}.lora_up.weight": (OUT, 1, 1, 1),
                                     f"{STEM}.lora_mid.weight": (1, 1, 1000, 1000)},
    "a LoHa core that blows up": lambda: {
        f"{STEM}.{part}": shape for part, shape in {
            "hada_w1_a": (1, OUT), "hada_w1_b": (1, 1_000_000), "hada_t1": (1, 1, 1000, 1000),
            "hada_w2_a": (1, OUT), "hada_w2_b": (1, 1_000_000), "hada_t2": (1, 1, 1000, 1000),
        }.items()
    },
    "a LoKr core that blows up": lambda: {
        f"{STEM}.{part}": shape for part, shape in {
            "lokr_w1": (1, 1), "lokr_w2_a": (1, OUT), "lokr_w2_b": (1, 1_000_000),
            "lokr_t2": (1, 1, 1000, 1000),
        }.items()
    },
    "a LoKr rank that blows up": lambda: {
        f"{STEM}.{part}": shape for part, shape in {
            "lokr_w1": (OUT, 1), "lokr_w2_a": (2_000_000, 1), "lokr_w2_b": (1, IN),
            "lokr_t2": (2_000_000, 1, 1, 1),
        }.items()
    },
    "a text encoder's LoHa that blows up": lambda: {
        f"{TEXT}.{part}": shape for part, shape in {
            "hada_w1_a": (1_000_000, 1), "hada_w1_b": (1, 1_000_000), "hada_t1": (1_000_000, 1, 1),
            "hada_w2_a": (1, 1), "hada_w2_b": (1, 1_000_000), "hada_t2": (1, 1, 1),
        }.items()
    },
    "a text encoder's LoKr that blows up": lambda: {
        f"{TEXT}.{part}": shape for part, shape in {
            "lokr_w1_a": (20_000, 1), "lokr_w1_b": (1, 20_000), "lokr_w2": (1, 1),
        }.items()
    },
    "text encoder matrices of full rank": lambda: {
        f"lora_te1_{n}.{part}": (60, 60) for n in range(1000) for part in ("lokr_w1", "lokr_w2")
    },
    "a text encoder matrix of full rank": lambda: {
        "lora_te1_a.lokr_w1": (130, 130), "lora_te1_a.lokr_w2": (130, 130),
    },
    "a LoKr side that blows up": lambda: {
        f"{STEM}.{part}": shape for part, shape in {
            "lokr_w1_a": (1_000_000, 1), "lokr_w1_b": (1, 1_000_000), "lokr_w2": (1, 1),
        }.items()
    },
}  # fmt: skip


def merged(path: Path) -> Any:
    """Without a model, as the command line reads files that are to meet."""
    state, metadata = read_tensors(path)
    merge_text_encoders([LoraFile({}, state, (), metadata, {})], [1.0], torch.float32)


def tensors_once(folder: Path, name: str) -> Path:
    path = folder / f"{name}.safetensors"
    return path if path.exists() else with_tensors(path, HEADERS[name]())


READERS = {"lora": lora, "basis": read_basis, "encoder": read_encoder, "state": state_metadata,
           "vgg": read_vgg, "text encoders": merged,
           "together": lambda path: read_together([(path.name, *read_tensors(path))])}  # fmt: skip
for (_door, _reader), _name in product(READERS.items(), HEADERS):
    case(f"{_door}: {_name}")(
        lambda folder, reader=_reader, name=_name: partial(reader, tensors_once(folder, name))
    )
RAW = {
    "a length of the largest number": (b"{}", (1 << 64) - 1),
    "a length of many gigabytes": (b"{}", 1 << 36),
    "brackets": (b"[" * SIZE, None),
    "tables": (b'{"a":' * 3_000_000, None),
    "a long number": (b'{"a":{"dtype":"F16","shape":[' + b"9" * 4000 + b'],"data_offsets":[0,0]}}',
                      None),
    "many axes": (b'{"a":{"dtype":"F16","shape":[' + b"1," * 4_000_000 + b'1],"data_offsets":[0,0]}'
                  b"}", None),
    "not a table": (b"[1, 2]", None),
}  # fmt: skip
for (_door, _reader), (_name, (_header, _length)) in product(READERS.items(), RAW.items()):
    case(f"{_door}: a header of {_name}")(
        lambda folder, reader=_reader, header=_header, length=_length: partial(
            reader, written(folder / "h.safetensors", header, length=length)
        )
    )


@case("text encoders: many layers and patterns with wildcards")
def _(folder: Path) -> Run:
    shapes: dict[str, tuple[int, ...]] = {}
    for n in range(9_000):
        stem = f"text_encoder.{n}." + "".join(CHANCE.choices("aeioukt._", k=300))
        shapes |= {f"{stem}.lora_A.weight": (1, 2), f"{stem}.lora_B.weight": (2, 1)}
    table = {f".*[aeiou]{'.' * n}k.*t": 1 for n in range(20)}
    entry = json.dumps({"text_encoder.alpha_pattern": table, "text_encoder.rank_pattern": table})
    metadata = {"lora_adapter_metadata": entry}
    return partial(merged, with_tensors(folder / "w.safetensors", shapes, metadata))


def encoder(path: Path, layers: int, width: int, concepts: int) -> Path:
    rows = [{"content": [], "style": []}] * concepts
    return with_tensors(path, {"table": (1, 64)}, {
        "format": "craft-expert-encoder", "format_version": "1", "text_width": str(width),
        "layers": json.dumps({"content": ["a"] * layers, "style": []}),
        "concepts": json.dumps(rows),
    })  # fmt: skip


for _name, _sizes in {
    "a text width of 256 TB": (1, 1 << 40, 1), "a text width of a thousand digits":
    (1, 10**1000, 1), "a million layers": (1_000_000, 8, 1), "many concepts": (1, 8, 500_000),
}.items():  # fmt: skip
    case(f"encoder: {_name}")(
        lambda folder, sizes=_sizes: partial(
            read_encoder, encoder(folder / "e.safetensors", *sizes)
        )
    )


BASIS = {
    "format": "craft-basis",
    "format_version": "1",
    "side": "output",
    "layers": json.dumps(["a"]),
    "ranks": json.dumps({"a": [1 << 62, 1 << 62]}),
}
for _read in (read_header, read_basis):
    case(f"basis: huge ranks, {_read.__name__}")(
        lambda folder, read=_read: partial(
            read, with_tensors(folder / "b.safetensors", {"a.content": (2, 1)}, BASIS)
        )
    )

# Texts

PROMPTS = {
    "spaces": "<c>a</c>" + " " * SIZE + "b",
    "spaces between words": "<c>a</c>" + (" " * 1000 + "a") * 16_000,
    "tabs": "<c>a</c>b" + "\t" * 1_000_000,
    "lone markers": "a <c> b <s>" * 1_400_000,
    "pairs": "<c>a</c> <s>b</s>" * 900_000,
    "one kind": "a<c>" * 4_000_000,
    "opened": "<c>" + "a<s>" * 4_000_000,
    "opened and closed": "<c>a" + "<s>b</s>" * 1_900_000 + "</c>",
    "empty": "<c>" * 5_000_000,
    "closed": "</c>" * 4_000_000,
    "markers in a row": "<c>a</c>" + "<s>" * 5_000_000,
    "markers inside markers": "<" * 8_000_000 + "c>" * 4_000_000,
    "punctuation": "<c>a</c>" + ",;. " * 4_000_000 + "<s>",
}
for _name, _text in PROMPTS.items():
    case(f"prompt: {_name}")(lambda folder, text=_text: partial(parse, text))

RANGES = ".".join(["0..9999"] * 5)
LAYER_SETS = {
    "one long line": "content: " + "a" * SIZE,
    "components": "content: " + "a." * 8_000_000 + "a",
    "ranges": "content: " + "0..9." * 3_000_000 + "0..9",
    "dots": "content: " + "." * SIZE,
    "stars": "content: " + "*." * 8_000_000 + "*",
    "lines": "content: a\n" * 1_400_000,
    "empty lines": "\n" * SIZE,
    "comments": "# a\n" * 4_000_000,
    "a large range": "content: input_blocks.0..999999999",
    "a thousand patterns": "\n".join(f"content: *.0..9.0..9.{n}..9999" for n in range(1000)),
    "a thousand stars": "\n".join(f"content: {'*.' * n}*" for n in range(1000)),
    "a thousand ranges": "\n".join(
        f"content: input_blocks.0..{9 + n}.0..{9 + n}.transformer_blocks.0..{9 + n}"
        for n in range(999)
    ) + "\nstyle: output_blocks",
    "ranges in ranges": f"content: *.{RANGES}\nstyle: output_blocks",
}  # fmt: skip
for _name, _text in LAYER_SETS.items():
    case(f"layer sets: {_name}")(lambda folder, text=_text: partial(resolve, text, LAYERS))

CURVES = {
    "numbers": "0 1," * 4_000_000,
    "points": ",".join(f"{n / 1e6} 1" for n in range(1_000_000)),
    "one long number": "9" * SIZE + " 1",
    "spaces": " " * SIZE,
    "pairs": [(n / 1e6, 1.0) for n in range(1_000_000)],
    "as many as may be": [(n / 1000, 1.0) for n in range(1000)],
}


def drawn(points: dict[str, Any]) -> Any:
    return sample_curve(Schedule("curve", points), 201)


for _name, _points in CURVES.items():
    case(f"curve: {_name}")(
        lambda folder, points=_points: partial(drawn, {"content": points, "style": points})
    )

METHODS = {
    "lines": "\n".join(f"est_lora: discrepancy = {n / 1e6}" for n in range(400_000)),
    "one line": "k_lora" * 2_000_000,
    "settings": "k_lora: " + ",".join(f"a{n} = 1" for n in range(1_000_000)),
    "one long number": "k_lora: gamma = " + "9" * SIZE,
    "empty lines": "\n" * SIZE,
    "commas": "k_lora: " + "," * SIZE,
}
for _name, _text in METHODS.items():
    case(f"methods: {_name}")(lambda folder, text=_text: partial(parse_lines, text, (), GUIDANCE))

AXES = {
    "methods": "method\n" + METHODS["lines"],
    "one method": "method: " + METHODS["settings"],
    "numbers": "cfg: " + ",".join(str(n / 1e6) for n in range(400_000)),
    "one long number": "seed: " + "9" * SIZE,
    "a long kind": "k" * SIZE,
    "commas": "cfg: " + "," * SIZE,
    "comments": "# x\n" * (SIZE // 4),
}
for _name, _text in AXES.items():
    case(f"axis: {_name}")(lambda folder, text=_text: partial(axis_of, text, "x_axis", ()))

MATRICES = {
    "a huge range": ["seed=0..999999999999999999"],
    "many ranges": ["seed=" + ",".join(f"{n}0000..{n}9998" for n in range(1, 5000))],
    "a long number": ["seed=0.." + "9" * 100_000],
    "a small step": ["KSampler.cfg=0..1..0." + "0" * 90_000 + "1"],
    "a product": ["seed=0..9998", "KSampler.cfg=0..9998"],
    "one long text": ["prompt=" + "a" * SIZE],
    "many texts": ["prompt=" + "a," * 8_000_000],
}
for _name, _axes in MATRICES.items():
    case(f"matrix: {_name}")(
        lambda folder, axes=_axes: partial(jobs_of, Inputs(PROMPT, OBJECT_INFO), (), axes, ())
    )
for _name, _text in {"lines": "".join(f"{n}\n" for n in range(1_000_000)), "one line": "a" * SIZE,
                     "more than is read": "a" * 20_000_000}.items():  # fmt: skip

    @case(f"matrix: a file of {_name}")
    def _(folder: Path, text: str = _text) -> Run:
        (folder / "values.txt").write_text(text)
        axes = [f"prompt=@{folder / 'values.txt'}"]
        return partial(jobs_of, Inputs(PROMPT, OBJECT_INFO), (), axes, ())


def peak() -> float:
    """Megabytes of the largest memory that the process has had; 0 where that is not told."""
    try:
        import resource
    except ImportError:  # Windows
        return 0.0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    chosen = sys.argv[2] if len(sys.argv) > 2 else ""
    for name, prepare in CASES.items():
        if not name.startswith(chosen):
            continue
        print(json.dumps({"begun": name}), flush=True)
        run = prepare(folder)
        if hasattr(signal, "setitimer"):  # the system ends what hangs, whatever holds the lock
            signal.setitimer(signal.ITIMER_PROF, HANGS)
        before, start = peak(), time.process_time()
        refused = ""
        try:
            run()
        except CraftError as error:
            refused = str(error)[:300]
        took = time.process_time() - start
        print(json.dumps({"name": name, "seconds": took, "megabytes": peak() - before,
                          "refused": refused}), flush=True)  # fmt: skip


if __name__ == "__main__":
    main(Path(sys.argv[1]))
