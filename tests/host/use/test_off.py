"""What is said of LoRAs that are off: the report that they act on no layer, guidance nothing."""

from __future__ import annotations

import re

import pytest
import small_world_models as small
from craft_lora_pack.comfy_adapter.guide.acfg import objections
from craft_lora_pack.comfy_adapter.use.burning import guided_setting
from craft_lora_pack.comfy_adapter.use.router import (
    RouterRequest,
    SecondModel,
    route,
    with_own_loras,
)
from craft_lora_pack.comfy_adapter.use.sweep import sweep
from craft_lora_pack.craft_core.fusion import FUSION
from craft_lora_pack.craft_core.fusion.lines import parse_line
from craft_lora_pack.craft_core.guidance import GUIDANCE
from craft_lora_pack.craft_core.guidance.reach import overdriven_places
from craft_lora_pack.craft_core.routing.markers import parse
from laws.off_dials import CFG, NAMED, STRENGTH, dials_in

FILES = (small.CONTENT, small.STYLE)
ACTS = re.compile(r"^(content|style) .*, (off: )?acts on (\d+) of (\d+) adapted layers$", re.M)
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
