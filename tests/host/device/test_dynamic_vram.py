"""What runs under the host's dynamic VRAM: branches that stay on the card from run to run."""

from __future__ import annotations

import comfy.model_management as management
import comfy.model_patcher
import comfy.ops
import comfy.weight_adapter
import dynamic_vram
import oracle
import pretend_device
import pytest
import tiny
import torch
from craft_lora_pack.comfy_adapter.engine.bank import BranchModule, branch_patcher
from craft_lora_pack.comfy_adapter.engine.in_turn import _Turn
from craft_lora_pack.comfy_adapter.engine.modules import bias_now, model_layers, weight_now
from craft_lora_pack.craft_core.schedule.schedule import Schedule
from older_hosts import needs
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


def patched_layer(dtype) -> torch.nn.Module:
    """Of the host, with patches of a LoRA loader on its weight and its bias."""
    generator = torch.Generator().manual_seed(1)
    layer = comfy.ops.manual_cast.Linear(8, 6, dtype=dtype).requires_grad_(False)
    factors = (torch.randn(6, 2, generator=generator), torch.randn(2, 8, generator=generator))
    lora = comfy.weight_adapter.LoRAAdapter(set(), (*factors, 2.0, None, None, None))
    added = ("diff", (torch.randn(6, generator=generator),))
    for name, patch in (("weight", lora), ("bias", added)):
        value = getattr(layer, name)
        value.copy_(torch.randn(value.shape, generator=generator))
        function = comfy.model_patcher.LowVramPatch(name, {name: [(1.0, patch, 1.0, None, None)]})
        setattr(layer, f"{name}_lowvram_function", function)
    layer.bias_function = [lambda bias: bias]  # so that bias_now asks the host
    return layer


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.inference_mode()
def test_a_fetched_layer_that_is_read_again_has_its_patches_once(dtype):
    """What runs in a hook reads it after its own pass, and the layer may run once more."""
    needs(hasattr(comfy.ops, "resolve_cast_module_with_vbar"), "block that is fetched ahead")
    layer, like = patched_layer(dtype), torch.eye(8, dtype=dtype)
    with dynamic_vram.fetched_without_room([layer]):
        fetched = layer._prefetch
        first = layer(like)
        turn, read = _Turn(None, layer, ()), []
        for _ in range(2):
            read.append((weight_now(layer, like), bias_now(layer, like), turn._before(0, like)))
            assert layer._prefetch is fetched
    patches = layer.weight_lowvram_function, layer.bias_lowvram_function
    weight, bias = (
        function(value.clone())
        for function, value in zip(patches, (layer.weight, layer.bias), strict=True)
    )
    assert torch.equal(first, torch.nn.functional.linear(like, weight, bias))
    exact = layer.weight_lowvram_function(layer.weight.float())
    for own_weight, own_bias, again in read:
        torch.testing.assert_close(own_weight, exact, atol=1e-5, rtol=1e-5)
        assert torch.equal(own_bias, bias)
        torch.testing.assert_close(again, first - bias)


@torch.inference_mode()
def test_reading_a_fetched_layer_again_leaves_the_others_of_its_block_as_fetched():
    needs(hasattr(comfy.ops, "resolve_cast_module_with_vbar"), "block that is fetched ahead")
    layers, like = [patched_layer(torch.float32) for _ in range(3)], torch.eye(8)
    with dynamic_vram.fetched_without_room(layers):
        before = [one._prefetch["xfer_dest"].clone() for one in layers]
        for _ in range(3):
            weight_now(layers[0], like)
        after = [one._prefetch["xfer_dest"] for one in layers]
        assert all(torch.equal(one, two) for one, two in zip(before, after, strict=True))
