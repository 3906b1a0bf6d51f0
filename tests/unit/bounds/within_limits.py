"""Texts of up to 16 MB that keep just within every limit, so that nothing refuses them early.

    python within_limits.py FOLDER [BEGINNING OF THEIR NAMES]

Told as by parts/hostile.py.
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Iterator
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "parts"))
import hostile  # noqa: E402
from craft_lora_pack.cli.queue.journal import MOST_CUT, MOST_LINE, NAME, Journal  # noqa: E402
from craft_lora_pack.client.answers import parse_json  # noqa: E402
from craft_lora_pack.client.from_page.dynamic_prompts import (  # noqa: E402
    MOST_NESTED,
    MOST_TEXT,
    draw_text,
)
from craft_lora_pack.client.from_page.graph import MOST_PARTS, MOST_PASSED  # noqa: E402
from craft_lora_pack.client.workflow import dynamic_texts, read_both  # noqa: E402
from craft_lora_pack.craft_core.fusion.lines import MOST_LINES, parse_lines  # noqa: E402
from craft_lora_pack.craft_core.guidance import GUIDANCE  # noqa: E402
from craft_lora_pack.craft_core.presets import node_values  # noqa: E402
from craft_lora_pack.craft_core.routing.layer_sets import resolve  # noqa: E402
from craft_lora_pack.craft_core.routing.lora_rows import read_rows  # noqa: E402
from craft_lora_pack.craft_core.routing.markers import MOST_MARKERS, parse  # noqa: E402
from craft_lora_pack.craft_core.routing.trigger_words import (  # noqa: E402
    common_phrases,
    trigger_words,
)
from craft_lora_pack.craft_core.schedule.curve import MOST_POINTS  # noqa: E402
from craft_lora_pack.craft_core.search import MOST_CELLS, grid_of, settings_of  # noqa: E402
from craft_lora_pack.craft_core.search.settings import MOST_SETTINGS  # noqa: E402
from craft_lora_pack.craft_core.training.trigger import PLACE, captions_with_trigger  # noqa: E402

SIZE = 15_900_000
ROWS, MOST_PATTERNS = 1000, 1000
WIDE = "\U0001f600"  # makes four bytes of each character of the text
case = hostile.case
hostile.CASES.clear()


def near(limit: int) -> Iterator[tuple[str, int]]:
    yield from (("the limit", limit), ("one less", limit - 1))


# Prompts

for (_name, _count), _head in product(near(MOST_MARKERS), ("", WIDE)):
    _filler = "x " * (SIZE // 2)
    _each = SIZE // _count
    for _shape, _text in {
        "lone markers behind the text": _filler + "a <s>b <c>" * (_count // 2),
        "markers before the text": "<c>a</c>" * (_count // 2) + _filler,
        "lone markers in the text": ("x" * _each + "<c>") * _count,
        "lone markers behind spaces": ("x" + " " * _each + "<c>") * _count,
        "pairs around spaces": ("<s>" + " " * (2 * _each) + "a</s>") * (_count // 2),
        "punctuation before lone markers": ("x" + ", " * (_each // 2) + "<c>") * _count,
    }.items():
        case(f"prompt: {_shape}, {_name}{', wide' if _head else ''}")(
            lambda folder, text=_head + _text: partial(parse, text)
        )
for _name, _text in {
    "spaces in a phrase": "<c>" + " " * SIZE + "a</c>",
    "punctuation in a phrase": ", " * (SIZE // 2) + "a<c>",
    "punctuation alone": ", " * (SIZE // 2) + "<c>",
    "spaces between markers": "a<c>" + " " * SIZE + "b<s>",
}.items():
    for _head in ("", WIDE):
        case(f"prompt: {_name}{', wide' if _head else ''}")(
            lambda folder, text=_head + _text: partial(parse, text)
        )

# Captions

PLACES = SIZE // 20
for _name, _captions, _trigger in (
    ("a place in each", [PLACE] * 20_000, "sks"),
    ("many places", [PLACE * (SIZE // 40)], "sks"),
    ("places beside phrases", ["<c>a</c>" * 500 + PLACE * (SIZE // 40)], "sks"),
    ("a long trigger", [PLACE], "sks " * (SIZE // 8)),
    ("a long trigger in many places", [PLACE * 10_000], "sks " * (SIZE // 8)),
    ("a long trigger in many captions", ["a"] * 10_000, "sks " * (SIZE // 8)),
):
    case(f"trigger: {_name}")(
        lambda folder, captions=_captions, trigger=_trigger: partial(
            captions_with_trigger, captions, trigger, "dog", "content"
        )
    )


def common(captions: list[str]) -> Any:
    return common_phrases([parse(one) for one in captions], "content")


case("phrases of all captions")(
    lambda folder: partial(common, [" ".join(f"<c>w{n}</c>" for n in range(500))] * 100)
)
for _name, _metadata in {
    "many": {"modelspec.trigger_phrase": "a," * (SIZE // 2)},
    "one long": {"modelspec.trigger_phrase": "a" * SIZE},
    "tags": {
        "ss_tag_frequency": json.dumps({"a": {f"{n}": 5 for n in range(1_000_000)}}),
        "ss_dataset_dirs": json.dumps({"a": {"img_count": 5}}),
    },
}.items():
    case(f"trigger words: {_name}")(
        lambda folder, metadata=_metadata: partial(trigger_words, metadata)
    )

# Lists of LoRAs and presets


def rows(count: int, **more: str) -> str:
    return json.dumps([{"lora": "a", "role": "content", **more}] * count, ensure_ascii=False)


for _name, _text in {
    "long names": rows(ROWS, lora="a" * (SIZE // ROWS)),
    "long wide names": rows(ROWS, lora=WIDE * (SIZE // ROWS // 4)),
    "own layers": rows(ROWS, layers="*\n" * MOST_PATTERNS),
    "own ranges": rows(ROWS, layers="0..9\n" * MOST_PATTERNS),
    "own long layers": rows(ROWS, layers="a." * (SIZE // ROWS // 2) + "a"),
    "too many rows": "[" + "{}," * (SIZE // 3) + "{}]",
    "names that no row has": json.dumps([{f"{n}": 1 for n in range(1_000_000)}]),
    "a large value": json.dumps([{"lora": list(range(2_000_000)), "role": "content"}]),
}.items():
    case(f"list of LoRAs: {_name}")(lambda folder, text=_text: partial(read_rows, text))


def preset(text: str) -> Any:
    return node_values(parse_json(text))


CURVE = [[n / MOST_POINTS, 1] for n in range(MOST_POINTS)]
PATTERNS = "content: *\nstyle: output_blocks.0..9\n" * (MOST_PATTERNS // 2)
for _name, _preset in {
    "names that no preset has": {f"{n}": 1 for n in range(70_000)},
    "settings that no method has": {"method": {"method": "k_lora"} | dict.fromkeys(
        map(str, range(70_000)), 1)},
    "as many points as may be": {"schedule": {"shape": "curve", "content": CURVE}},
    "points with spaces": {"schedule": {"shape": "curve", "content": "0 1" + " " * SIZE}},
    "numbers as long texts": {"schedule": {"shape": "curve", "content": [["0" * SIZE, "1"]]}},
    "as many patterns as may be": {"layer_sets": PATTERNS},
    "a large value": {"cfg": list(range(2_000_000))},
}.items():  # fmt: skip
    _text = json.dumps(_preset)
    case(f"preset: {_name}")(lambda folder, text=_text: partial(preset, text))
case("layer sets: as many patterns as may be")(
    lambda folder: partial(resolve, PATTERNS.replace("content: *", "content: input_blocks.*"),
                           hostile.LAYERS)
)  # fmt: skip

# Curves, lists of a search, axes of a grid

for _name, _points in {
    "spaces behind": "0 1" + " " * SIZE,
    "a long number": "0" * SIZE + " 1",
    "spaces in each": ",".join(f"{n / 1000}{' ' * 15_000}1" for n in range(MOST_POINTS)),
    "as much as may be": ",".join(f"{n / 1000}{' ' * 90}1" for n in range(MOST_POINTS)),
    "numbers as long texts": [["0" * SIZE, "1"]],
    "as many numbers as texts": [[f"{n / 1000}{'0' * 250}", "1"] for n in range(MOST_POINTS)],
}.items():
    case(f"curve: {_name}")(
        lambda folder, points=_points: partial(hostile.drawn, {"content": points, "style": points})
    )


def search(
    methods: str = "direct", guidances: str = "cfg", strengths: str = "1", schedules: str = "cosine"
) -> Any:
    return settings_of(methods, guidances, strengths, schedules, (), GUIDANCE)


FLOORS = [f"cosine: style_floor = {n / 1e6}" for n in range(SIZE // 30)]
for _name, _lists in {
    "many schedules": {"schedules": "\n".join(FLOORS)},
    "schedules on a line": {"schedules": "constant," * (SIZE // 9)},
    "as many schedules as may be": {"schedules": "\n".join(FLOORS[:MOST_SETTINGS])},
    "one long schedule": {"schedules": "cosine: style_floor = " + "0" * SIZE},
    "many guidances": {"guidances": "cfg\n" * (SIZE // 4)},
    "guidances with weights": {
        "guidances": "\n".join(f"role: weight = {n / 1e6}" for n in range(SIZE // 25))
    },
    "many strengths": {"strengths": "1," * (SIZE // 2)},
    "many lines": {"methods": "\n" * SIZE},
}.items():
    case(f"search: {_name}")(lambda folder, lists=_lists: partial(search, **lists))

WIDTH = SIZE // MOST_CELLS
for _name, _axis in {
    "long numbers": "cfg: " + ",".join(f"{'0' * WIDTH}{n / 10}" for n in range(MOST_CELLS)),
    "long spaces": "cfg: " + ",".join(f"{' ' * WIDTH}{n / 10}" for n in range(MOST_CELLS)),
    "long comments": "cfg:\n" + "\n".join(
        f"{n / 10} #{WIDE * (WIDTH // 4)}" for n in range(MOST_CELLS)),
    "long lines": "schedule:\n" + "\n".join(
        f"cosine: style_floor = {n / 1000}{' ' * WIDTH}" for n in range(MOST_CELLS)),
    "one too many": "seed: " + ",".join(map(str, range(MOST_CELLS + 1))) + "," * SIZE,
}.items():  # fmt: skip
    case(f"axis: {_name}")(lambda folder, text=_axis: partial(grid_of, text, "strength: 1", ()))
case("axes: as many cells as may be")(
    lambda folder: partial(
        grid_of, "cfg: " + ",".join(map(str, range(16))), "seed: " + ",".join(map(str, range(16))),
        (),
    )
)  # fmt: skip
case("methods: as many as may be")(
    lambda folder: partial(
        parse_lines,
        "\n".join(
            f"direct: guidance = role, weight = {1 + n / 1000}{' ' * (SIZE // MOST_LINES)}"
            for n in range(MOST_LINES)
        ),
        (), GUIDANCE,
    )
)  # fmt: skip

# Dynamic prompts

DEEP = MOST_NESTED - 1
for _name, _text in {
    "options in nested braces": "{" * DEEP + "a|" * (MOST_TEXT // 2 - DEEP) + "}" * DEEP,
    "signs in nested braces": "{" * DEEP + "\\{" * (MOST_TEXT // 2 - DEEP) + "}" * DEEP,
    "nests one behind another": ("{" * DEEP + "}" * DEEP) * (MOST_TEXT // 2 // DEEP),
    "never closed": ("{" * DEEP + "a" * MOST_TEXT)[:MOST_TEXT],
    "pairs": "{a|b}" * (MOST_TEXT // 5),
    "comments": "//\n" * (MOST_TEXT // 3),
    "block comments": "/**/" * (MOST_TEXT // 4),
    "block comments never closed": "/*" * (MOST_TEXT // 2),
    "backslashes": "\\" * MOST_TEXT,
    "wide": "{a|b}" + WIDE * (MOST_TEXT - 5),
}.items():
    case(f"dynamic prompt: {_name}")(
        lambda folder, text=_text: partial(draw_text, text, random.Random(0))
    )

# Journals

LINE = '{"job": "%d", "state": "done"}\n'
for _name, _text in {
    "of one job": LINE % 1 * (SIZE // len(LINE)),
    "of many jobs": "".join(LINE % n for n in range(SIZE // (len(LINE) + 4))),
    "of files": '{"job": "a", "state": "done", "files": ["a"]}\n' * (SIZE // 46),
    "cut": "x\n" * (SIZE // 2),
    "cut as often as may be": "x" * 100 + "\n" + "x\n" * (MOST_CUT - 1) + LINE % 1,
    "without lines": "\n" * SIZE,
    "of long lines": (
        '{"job": "a", "state": "done", "files": [' + '"a",' * (MOST_LINE // 4 - 20) + '"a"]}\n'
    ),
}.items():

    @case(f"journal: {_name}")
    def _(folder: Path, text: str = _text) -> hostile.Run:
        own = folder / "queue"
        own.mkdir(exist_ok=True)
        (own / NAME).write_text(text)
        return partial(Journal, own, "client")


# Workflows

INFO = {
    "Plain": {
        "display_name": "Plain",
        "input": {
            "required": {"image": ["IMAGE", {}], "text": ["STRING", {"dynamicPrompts": True}]}
        },
        "output": ["IMAGE"],
    }
}


def node(number: int, link: int | None = None, text: str = "", kind: str = "Plain") -> dict:
    entries = [
        {"name": "image", "type": "IMAGE", "link": link},
        {"name": "text", "type": "STRING", "widget": {"name": "text"}},
    ]
    return {"id": number, "type": kind, "inputs": entries, "widgets_values": [text]}


def chain(nodes: list[dict]) -> dict:
    """Each linked to the next one."""
    links = [[n, n - 1, 0, n, 0, "IMAGE"] for n in range(1, len(nodes))]
    return {"nodes": nodes, "links": links}


def subgraphs(count: int) -> dict:
    inner = {"id": "s", "nodes": [node(1)], "links": [], "inputs": [], "outputs": []}
    nodes = [{"id": n, "type": "s", "inputs": []} for n in range(count)]
    return {"nodes": nodes, "links": [], "definitions": {"subgraphs": [inner]}}


REROUTES = [node(n, n, kind="Reroute") for n in range(MOST_PASSED)]
WORKFLOWS = {
    "as many nodes as may be": lambda: {
        "nodes": [
            {"id": n, "type": "Plain", "widgets_values": ["a"]} for n in range(MOST_PARTS - 1)
        ]
    },
    "too many nodes": lambda: {"nodes": [{"id": n, "type": "Plain"} for n in range(500_000)]},
    "a long chain": lambda: chain([node(n, n) for n in range(40_000)]),
    "a long way": lambda: chain([*REROUTES, node(MOST_PASSED, MOST_PASSED)]),
    "long ways": lambda: chain(
        [*REROUTES, *(node(n, MOST_PASSED - 1) for n in range(MOST_PASSED, 5_000))]
    ),
    "long texts": lambda: {"nodes": [node(n, text=WIDE * 50_000) for n in range(70)]},
    "many subgraphs": lambda: subgraphs(MOST_PARTS // 3 - 10),
}


def whole(path: Path) -> None:
    _, workflow = read_both(path, INFO)
    assert workflow is not None
    dynamic_texts(workflow, INFO)


for _name, _workflow in WORKFLOWS.items():

    @case(f"workflow: {_name}")
    def _(folder: Path, workflow: Any = _workflow) -> hostile.Run:
        path = folder / "workflow.json"
        path.write_text(json.dumps(workflow(), ensure_ascii=False), "utf-8")
        return partial(whole, path)


if __name__ == "__main__":
    hostile.main(Path(sys.argv[1]))
