"""What runs under the host's dynamic VRAM: branches that stay on the card from run to run."""

from __future__ import annotations

import comfy.model_management as management
import comfy.model_patcher
import dynamic_vram
import oracle
import pretend_device
import pytest
import tiny
import torch
from craft_lora_pack.comfy_adapter.engine.bank import BranchModule, branch_patcher
from craft_lora_pack.comfy_adapter.engine.modules import model_layers
from craft_lora_pack.craft_core.schedule.schedule import Schedule
from two_loras import NEGATIVE, POSITIVE, bank_of, loras, routed

pytestmark = pytest.mark.skipif(
    pretend_device.is_asked_for(), reason="a label of the processor stands for the card"
)
META = torch.device("meta")
ALL = 1e32  # bytes: all that there is


def sampled(model):
    return oracle.sample(oracle.guider(model, POSITIVE, NEGATIVE), tiny.latent(), steps=2)


@pytest.fixture
def patcher():
    """Of one branch, with a card that copies are seen to reach."""
    plain = tiny.sdxl()
    states = loras(model_layers(plain))
    plain.load_device = META
    with dynamic_vram.dynamic_vram():
        yield branch_patcher(bank_of(plain, states).branches[0].layers, plain)


def where(patcher) -> set[str]:
    return {tensor.device.type for tensor in patcher.model.parameters()}


def test_a_branch_that_is_on_the_card_is_not_copied_again(patcher):
    count = len(list(patcher.model.parameters()))
    assert patcher.is_dynamic() and count > 100
    before = {name: tensor.data_ptr() for name, tensor in patcher.model.named_parameters()}
    with dynamic_vram.counting_moves(BranchModule) as done, torch.inference_mode():
        for one in (patcher, patcher, patcher.clone(), patcher.clone().clone()):
            one.partially_load(META, ALL)
            assert where(one) == {"meta"}
            assert one.loaded_size() == one.model_size()
    assert done == {"moves": count}
    assert not any(tensor.is_inference() for tensor in patcher.model.parameters())
    patcher.detach()
    assert where(patcher) == {"cpu"} and patcher.loaded_size() == 0
    after = {name: tensor.data_ptr() for name, tensor in patcher.model.named_parameters()}
    assert after == before


def test_a_branch_gives_memory_back_and_is_loaded_again(patcher):
    size = patcher.model_size()
    for _ in range(2):
        patcher.partially_load(META, ALL)
        assert patcher.partially_unload(patcher.offload_device, size / 2) == size
        assert where(patcher) == {"cpu"}
    patcher.partially_load(META, ALL)
    assert where(patcher) == {"meta"}


def test_a_load_that_fails_leaves_nothing_there_and_is_tried_again(patcher, monkeypatch):
    put, count = comfy.utils.set_attr_param, []

    def failing(owner, name, value):
        count.append(name)
        if len(count) == 5:
            raise torch.OutOfMemoryError("no memory")
        return put(owner, name, value)

    monkeypatch.setattr(comfy.utils, "set_attr_param", failing)
    with pytest.raises(torch.OutOfMemoryError):
        patcher.partially_load(META, ALL)
    assert where(patcher) == {"cpu"}
    patcher.partially_load(META, ALL)
    assert where(patcher) == {"meta"}


def test_a_copy_without_dynamic_vram_is_a_plain_patcher(patcher):
    make, given = patcher.cached_patcher_init
    copied = make(*given, disable_dynamic=True)
    assert type(copied) is comfy.model_patcher.ModelPatcher
    assert make(*given).is_dynamic()


@pytest.mark.parametrize("schedule", [None, Schedule("cosine")])
def test_pictures_are_the_same_with_and_without_it_and_after_unloading(schedule):
    states = loras(model_layers(tiny.sdxl()))
    expected = sampled(routed(tiny.sdxl(), states, schedule))
    with dynamic_vram.dynamic_vram():
        ours = routed(tiny.sdxl(), states, schedule)
        assert ours.is_dynamic()
        assert torch.equal(sampled(ours), expected)
        with dynamic_vram.counting_moves(BranchModule) as done:
            assert torch.equal(sampled(ours), expected)
            assert torch.equal(sampled(ours.clone()), expected)
            assert done["moves"] == 0
            management.free_memory(ALL, dynamic_vram.CARD)
            assert done["moves"] > 100
        assert torch.equal(sampled(ours), expected)
        management.unload_all_models()
        assert torch.equal(sampled(ours), expected)
