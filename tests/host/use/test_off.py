"""What is said of LoRAs that are off: the report that they act on no layer, guidance nothing, and a
picture's text does not name them."""

from __future__ import annotations

import json
import re
from collections import Counter
from itertools import product

import pytest
import small_world_models as small
from craft_lora_pack.cli.queue.loras import loras_of
from craft_lora_pack.cli.queue.sampling import sampling_of
from craft_lora_pack.comfy_adapter.guide.acfg import objections
from craft_lora_pack.comfy_adapter.model.lora_files import for_second_model, read_branch_file
from craft_lora_pack.comfy_adapter.use.burning import guided_setting
from craft_lora_pack.comfy_adapter.use.router import (
    RouterRequest,
    SecondModel,
    planned,
    route,
    with_own_loras,
)
from craft_lora_pack.comfy_adapter.use.sweep import sweep
from craft_lora_pack.craft_core.fusion import FUSION
from craft_lora_pack.craft_core.fusion.lines import parse_line
from craft_lora_pack.craft_core.guidance import GUIDANCE
from craft_lora_pack.craft_core.guidance.reach import overdriven_places
from craft_lora_pack.craft_core.routing.markers import parse
from craft_lora_pack.nodes.lora_branch import LoadLoRABranch, LoRAList
from laws.off_dials import CFG, STRENGTH, dials_in, named_dials

FILES = (small.CONTENT, small.STYLE)
ACTS = re.compile(r"^(content|style) .*, (off: )?acts on (\d+) of (\d+) adapted layers$", re.M)
NAMED = named_dials(FUSION)
IDS = [f"{method.key}-{len(named)}-{at % 4}" for at, (method, _, named) in enumerate(NAMED)]


@pytest.fixture(scope="module")
def world():
    return small.load()


def request(prompt, method, strengths=(STRENGTH, STRENGTH)):
    branches = with_own_loras(FILES, strengths, ())
    return RouterRequest(prompt, branches, "all", {"method": method.key})


@pytest.mark.parametrize(("method", "prompt", "named"), NAMED, ids=IDS)
def test_no_dial_is_called_too_strong_whose_loras_are_off(world, method, prompt, named):
    asked = request(prompt, method)
    for whole in (False, True):
        routed = route(world.model, world.clip, asked, whole=whole)
        assert dials_in(objections(routed.model, CFG, True)) == named
    line = parse_line(method.key, (), GUIDANCE)
    setting = guided_setting("here", asked.branches, parse(prompt), line, CFG)
    assert dials_in(overdriven_places([setting])) == named


def acting_in(bank):
    return [len(branch.layers) for branch in bank.branches]


@pytest.mark.parametrize("strengths", [(0.75, 0.75), (0.75, 0.0)])
@pytest.mark.parametrize("prompt", ["<c>a sks animal</c> in <s>ink</s>", "<s>ink</s>"])
@pytest.mark.parametrize("method", list(FUSION), ids=lambda one: one.key)
def test_the_reports_say_on_how_many_layers_each_lora_acts(world, method, prompt, strengths):
    asked = request(prompt, method, strengths)
    second = SecondModel(world.model, asked.branches)
    routed = route(world.model, world.clip, asked, second=second)
    acting = acting_in(routed.bank)
    made = sweep(world.model, world.clip, method.key, asked, 4)
    of_both = ACTS.findall(routed.report)
    assert [int(count) for _, _, count, _ in of_both] == acting * 2  # the second model's too
    assert [int(count) for _, _, count, _ in ACTS.findall(made.report)] == acting
    assert all(bool(off) == (count == "0") for _, off, count, _ in of_both)


BOTH, ONE, NONE = "<c>a sks animal</c> in <s>zwx style</s>", "<c>a sks animal</c> in ink", "a fox"
ROWS = [
    {"lora": small.STYLE, "role": "content", "strength": 0.25},
    {"lora": small.CONTENT, "role": "style", "strength": 0.0},
    {"lora": small.STYLE, "role": "style", "strength": -0.5, "second_lora": small.CONTENT},
    {"lora": small.CONTENT, "role": "style", "on": False},
]
CHAINS = {
    "none": (),
    "branch": (("b", {"lora": small.STYLE, "role": "style", "strength": 0.5}),),
    "branch at 0": (("b", {"lora": small.STYLE, "role": "content", "strength": 0}),),
    "list": (("l", {"loras": json.dumps(ROWS)}),),
    "both": (
        ("b", {"lora": small.CONTENT, "role": "style", "strength": 0.5, "second_lora": "none"}),
        ("l", {"loras": json.dumps(ROWS)}),
    ),
}
PAIRS = {"pair": FILES, "one file": FILES[:1] * 2, "style alone": ("none", small.STYLE)}


def chain_of(nodes):
    """(the branches, the same nodes in a prompt) of a chain whose first node is nearest."""
    kinds = {"b": ("CRAFTLoadLoRABranch", LoadLoRABranch), "l": ("CRAFTLoRAList", LoRAList)}
    branches, prompt = (), {}
    for at, (kind, inputs) in reversed(list(enumerate(nodes))):
        name, node = kinds[kind]
        (branches,) = node.execute(**inputs, branches=branches).result
        linked = {"branches": [f"chain{at + 1}", 0]} if f"chain{at + 1}" in prompt else {}
        prompt[f"chain{at}"] = {"class_type": name, "inputs": {**inputs, **linked}}
    return branches, prompt


def strengths_in(branches, gammas):
    """File -> the sum of what acts of it."""
    found = Counter()
    for branch, gamma in zip(branches, gammas, strict=True):
        if branch.strength * gamma:
            found[branch.name] += branch.strength * gamma
    return dict(found)


DIALS = ((0.75, 0.75), (0.75, 0.0), (0.0, 0.5), (-0.5, 0.75))


@pytest.fixture(scope="module")
def files(world):
    return {name: read_branch_file(name, world.model) for name in FILES}


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("chain", CHAINS)
@pytest.mark.parametrize("method", ["craft", "direct"])
def test_a_pictures_text_names_the_loras_that_act_as_the_router_routes_them(
    world, files, method, chain, pair
):
    (extra, nodes), names = chain_of(CHAINS[chain]), PAIRS[pair]

    def acting(prompt, branches):
        asked = RouterRequest(prompt, branches, "all", {"method": method})
        read = [files[one.name] for one in branches]
        return strengths_in(branches, planned(world.model, asked, parse(prompt), read).gammas)

    for prompt, dials in product((BOTH, ONE, NONE), DIALS):
        first = acting(prompt, with_own_loras(names, dials, extra))
        graph = graph_of(prompt, method, names, dials, nodes)
        assert rounded(loras_of(graph, sampling_of(graph))) == rounded(first)
        second = acting(prompt, with_own_loras(names[::-1], dials, for_second_model(extra)))
        graph["r"]["inputs"]["second_model"] = ["m", 0]
        assert rounded(loras_of(graph, sampling_of(graph))) == rounded(second | first)


def graph_of(prompt, method, names, dials, chain):
    """A Router that has the pair in the other order for a second MODEL."""
    given = {
        "content_lora": names[0], "style_lora": names[1], "content_strength": dials[0],
        "style_strength": dials[1], "second_content_lora": names[1],
        "second_style_lora": names[0], "prompt": prompt, "method": method,
    }  # fmt: skip
    linked = {"model": ["m", 0], "clip": ["m", 1], "extra_branches": ["chain0", 0]}
    sampled = {"model": ["r", 0], "seed": 1, "steps": 4}
    return chain | {
        "m": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "m.safetensors"}},
        "r": {"class_type": "CRAFTRouter", "inputs": given | linked},
        "k": {"class_type": "KSampler", "inputs": sampled},
    }


def rounded(strengths):
    """None for those that cancel each other out."""
    return {file: round(one, 9) or None if one else None for file, one in strengths.items()}
