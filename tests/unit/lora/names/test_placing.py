"""Updates of a part of a layer's inputs, and with a layer's outputs in another order."""

from __future__ import annotations

import pytest
import torch
from adapter_samples import SAMPLES, variants
from raw_lora import noise, pair
from torch.nn import functional

from craft_core.errors import CraftError
from craft_core.lora import frobenius_norm, magnitude, parse_lora
from craft_core.lora.factors import combine
from craft_core.lora.placing import runs_of
from craft_core.types import Factors, LayerPass, LayerTarget

SHAPES = {"linear": (16, 12), "conv": (16, 12, 3, 3)}
SWAP, TURN = ((8, 8), (0, 8)), ((6, 2), (0, 6))
PLACES = {
    "halves swapped": LayerTarget("layer", order=SWAP),
    "some of the inputs": LayerTarget("layer", columns=(2, 8)),
    "both": LayerTarget("layer", columns=(4, 8), order=SWAP),
    "rows in another order": LayerTarget("layer", rows=(4, 8), order=TURN),
    "some of a fused layer's outputs": LayerTarget("layer", order=((8, 16),), of=32),
    "slice of a slice": LayerTarget("layer", rows=(4, 8), order=((0, 8),), of=24),
}
CASES = [
    pytest.param(kind, name, SHAPES[label], target, id=f"{kind} {name} {label} {place}")
    for kind in SAMPLES
    for label in SHAPES
    for name in variants(kind, SHAPES[label])
    if SAMPLES[kind][name](SHAPES[label], 3).change is None
    for place, target in PLACES.items()
]
every_case = pytest.mark.parametrize(("kind", "name", "shape", "target"), CASES)


def read(kind, name, shape, target):
    """(the update as read, dW of the rows that it covers by the textbook)"""
    outputs = target.rows[1] if target.rows else shape[0]
    start, inputs = target.columns or (0, shape[1])
    sample = SAMPLES[kind][name]((target.of or outputs, inputs, *shape[2:]), 3)
    delta = torch.zeros(outputs, *shape[1:])
    order = target.order or ((0, outputs),)
    delta[:, start : start + inputs] = torch.cat([sample.delta[a : a + n] for a, n in order])
    file = parse_lora(sample.named("name"), {}, {"layer": shape}, {"name": target})
    (update,) = file.layers["layer"]
    return update, delta


def close(left, right):
    assert left.shape == right.shape
    assert (left - right).abs().max() <= 2e-5 * max(1.0, right.abs().max().item())


def product(x, weight):
    if weight.ndim == 2:
        return functional.linear(x, weight)
    return functional.conv2d(x, weight, None, 2, 1)


@every_case
def test_every_kind_changes_its_part_of_the_weight(kind, name, shape, target):
    update, delta = read(kind, name, shape, target)
    close(update.delta(), delta)
    close(update.factors().delta(), delta)
    assert (update.outputs, *update.inputs, update.rows) == (*delta.shape, target.rows)


@every_case
def test_what_it_adds_is_the_layers_product_with_that_part(kind, name, shape, target):
    update, delta = read(kind, name, shape, target)
    x = noise(2, 5, shape[1]) if len(shape) == 2 else noise(2, shape[1], 7, 7)
    layer = LayerPass(x, x, product, 1 if len(shape) > 2 else -1)
    close(update.scale * update.added(layer), product(x, delta))


@every_case
def test_sums_over_its_entries_and_its_tensors_are_the_parts(kind, name, shape, target):
    update, delta = read(kind, name, shape, target)
    entries = delta.abs().double().flatten().sort(descending=True).values
    assert magnitude((update,), 9).top == pytest.approx(entries[:9].sum().item(), rel=1e-5)
    assert frobenius_norm(update) == pytest.approx(entries.norm().item(), rel=1e-5)
    empty = update.mapped(lambda tensor: tensor.to("meta"))
    close(empty.with_tensors(update.tensors()).delta(), delta)
    whole = combine([update, Factors(torch.zeros(1, *shape[1:]), torch.zeros(shape[0], 1))])
    start, length = target.rows or (0, shape[0])
    close(whole.delta()[start : start + length], delta)


DORAS = [
    (name, place)
    for name in variants("DoRA", SHAPES["linear"])
    for place, target in PLACES.items()
    if target.columns is None and not ("inputs" in name and target.of)
]


@pytest.mark.parametrize(("name", "place"), DORAS)
def test_a_doras_magnitudes_go_with_its_outputs(name, place):
    """But those of a dora_scale in another order of all outputs do not, as in the host."""
    shape, target = (16, 12), PLACES[place]
    outputs = target.rows[1] if target.rows else shape[0]
    sample = SAMPLES["DoRA"][name]((target.of or outputs, shape[1]), 3)
    file = parse_lora(sample.named("name"), {}, {"layer": shape}, {"name": target})
    (update,) = file.layers["layer"]
    weight = noise(*shape, seed=9)
    start, length = target.rows or (0, shape[0])
    order = torch.cat([torch.arange(a, a + n) for a, n in target.order])
    own = weight[start : start + length]
    whole = noise(target.of or outputs, shape[1], seed=10)
    whole[order] = own  # the weight as the file's model has it
    expected = sample.on(whole)[order]
    if target.of is None and "magnitude" not in name and "inputs" not in name:
        magnitude = sample.tensors["dora_scale"].reshape(-1, 1)
        inner = (sample.on(whole) + whole) * whole.norm(dim=1, keepdim=True) / magnitude - whole
        expected = (own + inner[order]) * magnitude / own.norm(dim=1, keepdim=True) - own
    found = update.on(weight).delta()
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("kind", "name"), [("OFT", "blocks"), ("GLoRA", "new"),
                                            ("DoRA", "over LoRA")])  # fmt: skip
def test_what_changes_the_weight_it_finds_cannot_be_divided_at_the_inputs(kind, name):
    sample = SAMPLES[kind][name]((16, 8), 3)
    with pytest.raises(CraftError, match="cannot be divided"):
        parse_lora(sample.named("name"), {}, {"layer": (16, 12)},
                   {"name": LayerTarget("layer", columns=(4, 8))})  # fmt: skip


def test_low_rank_factors_stay_plain_factors_of_the_files_precision():
    state = pair("name", (16, 8), dtype=torch.bfloat16)
    for target in PLACES.values():
        outputs, inputs = (target.rows or (0, 16))[1], (target.columns or (0, 12))[1]
        outputs = target.of or outputs
        state = pair("name", (outputs, inputs), dtype=torch.bfloat16)
        file = parse_lora(state, {}, {"layer": (16, 12)}, {"name": target})
        (update,) = file.layers["layer"]
        assert type(update) is Factors and update.up.dtype == update.down.dtype == torch.bfloat16


def test_slices_of_the_inputs_lie_side_by_side():
    targets = {f"name {i}": LayerTarget("layer", columns=(6 * i, 6)) for i in (1, 0)}
    state = pair("name 1", (16, 6), seed=1) | pair("name 0", (16, 6), seed=5)
    (updates,) = parse_lora(state, {}, {"layer": (16, 12)}, targets).layers.values()
    halves = [parse_lora(pair("name", (16, 6), seed=seed), {}, {"layer": (16, 6)},
                         {"name": LayerTarget("layer")}).layers["layer"][0].delta()
              for seed in (5, 1)]  # fmt: skip
    close(sum(one.delta() for one in updates), torch.cat(halves, 1))


def test_a_misfit_names_the_inputs_it_should_have():
    target = LayerTarget("layer", columns=(6, 6))
    with pytest.raises(CraftError, match="inputs 6 to 11 of layer"):
        parse_lora(pair("name", (16, 12)), {}, {"layer": (16, 12)}, {"name": target})


def test_an_order_is_told_in_runs_and_what_is_none_is_not():
    assert runs_of(torch.tensor([2.0, 3.0, 0.0, 1.0])) == ((2, 2), (0, 2))
    assert runs_of(torch.arange(5)) == ((0, 5),)
    assert runs_of(torch.tensor([1.0, 0.0])) == ((1, 1), (0, 1))
    for other in ([0.0, 0.0], [0.0, -1.0], [0.5, 1.0], [1.0, 2.0]):
        assert runs_of(torch.tensor(other)) is None
