"""Differences of biases and normalisations: read, told apart from the weight's, written, summed."""

from __future__ import annotations

import pytest
import torch
from raw_lora import noise, pair
from torch.nn import functional

from craft_core.errors import CraftError
from craft_core.fusion import FUSION
from craft_core.fusion.compose import compose
from craft_core.lora import magnitude, parse_lora, read_lora, write_lora
from craft_core.lora.formats import BiasDifference, Difference
from craft_core.lora.text_encoder import TextPart, merge_text_encoders
from craft_core.lora.without_model import read_together
from craft_core.merging import MERGES, Writing, bake_gates, bake_merge, fused
from craft_core.merging.file import FuseSettings, FuseSource
from craft_core.time import Moment
from craft_core.types import Bank, Branch, LayerPass, LayerTarget, LoraFile, Routing

LAYERS = {"block.0.a": (6, 5), "block.0.c": (4, 3, 3, 3), "block.0.norm": (6,)}


def state_of(seed: int) -> dict:
    """A LoRA on both layers, differences of all biases and of the normalisation."""
    made = pair("lora_unet_block_0_a", (6, 5), seed=seed)
    made |= {f"lora_unet_block_0_{name}.diff_b": noise(shape[0], seed=seed)
             for name, shape in (("a", (6,)), ("c", (4,)), ("norm", (6,)))}  # fmt: skip
    return made | {"lora_unet_block_0_norm.diff": noise(6, seed=seed + 9)}


def branches() -> list[Branch]:
    return [
        Branch(f"file {seed}", role, parse_lora(state_of(seed), {}, LAYERS).layers, strength)
        for seed, role, strength in ((1, "content", 0.5), (2, "style", 2.0))
    ]


def test_a_layer_has_an_update_of_its_weight_and_one_of_its_bias():
    file = parse_lora(state_of(1), {}, LAYERS)
    weight, bias = file.layers["block.0.a"]
    assert not weight.of_bias and isinstance(bias, BiasDifference)
    assert torch.equal(bias.difference, state_of(1)["lora_unet_block_0_a.diff_b"])
    (alone,) = file.layers["block.0.c"]
    assert alone.of_bias and alone.outputs == 4
    norm, its_bias = file.layers["block.0.norm"]
    assert isinstance(norm, Difference) and not norm.of_bias and its_bias.of_bias
    assert file.kinds["block.0.a"] == "LoRA and bias difference"


def test_lycoris_names_of_a_norm_are_the_same_update():
    ours = state_of(1)
    theirs = {
        key.replace("norm.diff_b", "norm.b_norm").replace("norm.diff", "norm.w_norm"): tensor
        for key, tensor in ours.items()
    }
    assert set(theirs) != set(ours)
    one, other = (parse_lora(state, {}, LAYERS).layers["block.0.norm"] for state in (ours, theirs))
    for a, b in zip(one, other, strict=True):
        assert torch.equal(a.difference, b.difference) and a.of_bias == b.of_bias


@pytest.mark.parametrize(("alpha", "scale"), [(None, 1.0), (3.0, 1.5)])
def test_the_bias_of_an_up_factor_is_scaled_as_its_pair_is(alpha, scale):
    state = pair("a", (6, 5), ending="PEFT") | {"a.lora_B.bias": noise(6)}
    if alpha is not None:
        state["a.alpha"] = torch.tensor(alpha)
    weight, bias = parse_lora(state, {}, {"x": (6, 5)}, {"a": LayerTarget("x")}).layers["x"]
    assert weight.scale == bias.scale == scale
    torch.testing.assert_close(bias.delta(), scale * noise(6))
    with pytest.raises(CraftError, match="without the factors"):
        parse_lora({"a.lora_B.bias": noise(6)}, {}, {"x": (6, 5)}, {"a": LayerTarget("x")})


def test_differences_of_zeros_are_left_out_and_counted():
    state = state_of(1)
    for key in ("lora_unet_block_0_a.diff_b", "lora_unet_block_0_norm.diff"):
        state[key] = torch.zeros(6)
    file = parse_lora(state, {}, LAYERS)
    assert file.zeros == 2
    assert [one.of_bias for one in file.layers["block.0.a"]] == [False]
    assert [one.of_bias for one in file.layers["block.0.norm"]] == [True]


@pytest.mark.parametrize("shape", [(6, 5), (4, 3, 3, 3)])
def test_a_bias_is_added_on_the_axis_of_the_outputs(shape):
    update = BiasDifference(noise(shape[0]))
    convolution = len(shape) > 2
    x = noise(2, shape[1], 7, 7) if convolution else noise(2, 9, shape[1])
    run = functional.conv2d if convolution else functional.linear
    weight, bias = noise(*shape, seed=1), noise(shape[0], seed=2)
    base = run(x, weight, bias)
    added = update.added(LayerPass(x, base, run, 1 if convolution else -1))
    torch.testing.assert_close(base + added, run(x, weight, bias + update.difference))


def test_a_norms_difference_scales_the_normalised_inputs():
    x, weight, bias, change = noise(2, 9, 6), noise(6, seed=1), noise(6, seed=2), noise(6, seed=3)
    base = functional.layer_norm(x, (6,), weight, bias)

    def product(inputs, scales):
        return functional.layer_norm(inputs, (6,), scales, None)

    added = Difference(change).added(LayerPass(x, base, product))
    wanted = functional.layer_norm(x, (6,), weight + change, bias)
    torch.testing.assert_close(base + added, wanted)


@pytest.mark.parametrize(
    ("key", "size"),
    [("a.diff_b", (5,)), ("c.diff_b", (4, 1, 1)), ("norm.diff", (5,)), ("norm.diff_b", (5,))],
)
def test_a_difference_of_another_size_is_refused(key, size):
    with pytest.raises(CraftError, match="which does not fit block.0"):
        parse_lora(state_of(1) | {f"lora_unet_block_0_{key}": noise(*size)}, {}, LAYERS)


def test_other_kinds_do_not_change_a_norm():
    state = state_of(1) | pair("lora_unet_block_0_norm", (6, 1))
    del state["lora_unet_block_0_norm.diff"]
    with pytest.raises(CraftError, match="which does not fit block.0.norm"):
        parse_lora(state, {}, LAYERS)


def test_write_then_read_is_bitwise(tmp_path):
    file = parse_lora(state_of(1), {}, LAYERS)
    write_lora(tmp_path / "a.safetensors", file.layers)
    again = read_lora(tmp_path / "a.safetensors", LAYERS)
    assert set(again.layers) == set(file.layers)
    for path, updates in file.layers.items():
        for one, other in zip(updates, again.layers[path], strict=True):
            assert one.of_bias == other.of_bias and torch.equal(one.delta(), other.delta())


def summed(of_bias: bool, path: str) -> torch.Tensor:
    return sum(
        branch.strength * one.delta()
        for branch in branches()
        for one in branch.layers[path]
        if one.of_bias == of_bias
    )


def assert_is_the_sum(layers) -> None:
    assert set(layers) == set(LAYERS)
    for path, updates in layers.items():
        for one in updates:
            torch.testing.assert_close(one.delta(), summed(one.of_bias, path), rtol=1e-4, atol=1e-5)


def test_a_file_fused_by_the_direct_merge_has_the_sums(tmp_path):
    bank = Bank.of(branches(), list(LAYERS))
    everywhere = (frozenset(LAYERS),) * 2
    gates = compose(FUSION["direct"].function(bank, Routing((1.0, 1.0), everywhere)), bank)
    baked = bake_gates(bank, gates, Moment(0.0, 1), LAYERS, Writing())
    recipe = FuseSettings(
        FUSION["direct"], {}, [FuseSource("a", "content", 1.0, "", (3, 3))], Writing()
    )
    result = fused(recipe, baked, TextPart({}, 0))
    assert "3 layers" in result.report
    result.write(tmp_path / "a.safetensors")
    assert_is_the_sum(read_lora(tmp_path / "a.safetensors", LAYERS).layers)


@pytest.mark.parametrize("method", list(MERGES), ids=lambda method: method.key)
def test_every_weight_merge_merges_biases_and_norms_too(method):
    baked = [b for b in bake_merge(branches(), LAYERS, method, {}, Writing(rank=4)) if b]
    assert {b.path for b in baked if b.of_bias} == set(LAYERS)
    assert {b.path for b in baked if not b.of_bias} == {"block.0.a", "block.0.norm"}
    if method.key == "svd":
        for one in baked:
            torch.testing.assert_close(
                one.factors.delta(), summed(one.of_bias, one.path), rtol=1e-4, atol=1e-5
            )


def test_what_is_compared_of_a_layer_is_its_weight():
    weight, bias = parse_lora(state_of(1), {}, LAYERS).layers["block.0.a"]
    assert magnitude((weight, bias), 7) == magnitude((weight,), 7)
    found = magnitude((bias,), 2)
    entries = bias.difference.abs().sort(descending=True).values
    assert found.total == pytest.approx(entries.sum().item(), rel=1e-6)
    assert found.top == pytest.approx(entries[:2].sum().item(), rel=1e-6)


def test_files_meet_by_name_without_a_model():
    found = read_together([("one", state_of(1), {}), ("two", state_of(2), {})])
    assert dict(found.shapes) == {"block_0_a": (6, 5), "block_0_c": (4,), "block_0_norm": (6,)}
    for file in found.files:
        assert set(file.layers) == set(found.shapes)


def test_in_a_text_encoder_they_are_added_up_by_strength():
    stem = "text_encoders.clip_l.transformer.text_model.final_layer_norm"
    one, other = ({f"{stem}.diff": noise(6, seed=s), f"{stem}.diff_b": noise(6, seed=s + 1)}
                  for s in (1, 2))  # fmt: skip
    part = merge_text_encoders([LoraFile({}, one), LoraFile({}, other)], [0.5, 2.0], torch.float32)
    assert part.matrices == 1 and set(part.tensors) == set(one)
    for key, tensor in part.tensors.items():
        torch.testing.assert_close(tensor, 0.5 * one[key] + 2.0 * other[key])
