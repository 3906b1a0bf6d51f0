"""The contract of adapter kinds, for every form of each: all ways to compute an update agree."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from adapter_samples import SAMPLES, variants, weight_of
from raw_lora import noise
from torch.nn import functional

from craft_core.errors import CraftError
from craft_core.lora import frobenius_norm, magnitude, parse_lora, read_lora, write_lora
from craft_core.lora.cost import multiplications
from craft_core.lora.factors import combine
from craft_core.lora.formats import KINDS, shape_of
from craft_core.lora.text_encoder import merge_text_encoders
from craft_core.lora.without_model import read_together
from craft_core.types import LayerPass, LayerTarget, LoraFile


def is_one_kind(state) -> bool:
    return bool(KINDS.of({KINDS.split(key).part: 0 for key in state}))


def told_shape(sample):
    """A weight's shape as the tensors tell it."""
    parts = {KINDS.split(f"lora_x.{end}").part: (end, t) for end, t in sample.tensors.items()}
    return shape_of(parts)


SHAPES = {
    "linear": (24, 16),
    "wide": (8, 32),
    "conv": (16, 8, 3, 3),
    "1x1": (8, 16, 1, 1),
    "3-d": (8, 8, 1, 3, 3),
}
CASES = [
    pytest.param(kind, name, shape, id=f"{kind} {name} {label}")
    for kind in SAMPLES
    for label, shape in SHAPES.items()
    for name in variants(kind, shape)
]
STEM = "lora_unet_a"
every_case = pytest.mark.parametrize(("kind", "name", "shape"), CASES)


def read(kind, name, shape, **changes):
    """(the update of the one layer as it is on weight_of(shape), its textbook matrix)"""
    update, sample = raw(kind, name, shape, **changes)
    return update.on(weight_of(shape)), sample.delta


def raw(kind, name, shape, **changes):
    """(the update of the one layer, its sample)"""
    sample = SAMPLES[kind][name](shape, 3)
    file = parse_lora(sample.named(STEM) | changes, {}, {"a": shape})
    assert file.kinds == {"a": kind}
    (update,) = file.layers["a"]
    assert update.on_weight == (sample.change is not None)
    return update, sample


def close(left, right, tolerance=2e-5):
    assert left.shape == right.shape
    assert (left - right).abs().max() <= tolerance * max(1.0, right.abs().max().item())


def product(stride=1):
    convolution = {3: functional.conv1d, 4: functional.conv2d, 5: functional.conv3d}

    def map_of(x, weight):
        if weight.ndim == 2:
            return functional.linear(x, weight)
        padding = [size // 2 for size in weight.shape[2:]]
        return convolution[weight.ndim](x, weight, None, stride, padding)

    return map_of


def test_every_kind_has_samples():
    assert list(SAMPLES) == [kind.name for kind in KINDS if not kind.of_bias]


@pytest.mark.parametrize(
    "page", ["README.md", "web/docs/CRAFTRouter.md", "web/docs/CRAFTRouter/zh.md"]
)
def test_what_users_read_lists_every_kind(page):
    text = (Path(__file__).parents[3] / page).read_text("utf-8")
    assert [kind.name for kind in KINDS if kind.name not in text] == []


@every_case
def test_the_update_is_the_textbooks_matrix(kind, name, shape):
    update, delta = read(kind, name, shape)
    close(update.delta(), delta)
    assert (update.outputs, *update.inputs) == shape


@every_case
@pytest.mark.parametrize("stride", [1, 2])
def test_what_it_adds_is_the_layers_product_with_that_matrix(kind, name, shape, stride):
    update, sample = raw(kind, name, shape)
    weight, bias = weight_of(shape), noise(shape[0], seed=9)
    update = replace(update, **update.taken(lambda: weight))
    run, axis = product(stride), 1 if len(shape) > 2 else -1
    sizes = {2: [(3, shape[1]), (2, 5, shape[1])]}.get(
        len(shape), [(2, shape[1], *(7,) * (len(shape) - 2))]
    )
    for size in sizes:
        x = noise(*size, seed=5)
        plain = run(x, weight)
        base = plain + bias.reshape(-1, *(1,) * (len(shape) - 2))
        again = lambda inputs: run(inputs, weight)  # noqa: E731
        for gate in (1.0, -0.5):
            added = update.added(LayerPass(x, base, run, axis, bias, gate, again))
            wanted = run(x, sample.on(weight, gate))
            close(update.scale * added, wanted)
            there = base.clone()
            update.act(LayerPass(x, there, run, axis, bias, gate, again), gate * update.scale)
            close(there, base + gate * wanted)
            apart = torch.stack([base, base], dim=-1)[..., 0]  # not in one piece
            update.act(LayerPass(x, apart, run, axis, bias, gate, again), gate * update.scale)
            close(apart, base + gate * wanted)


@every_case
def test_what_it_costs_can_be_counted_whatever_the_kind(kind, name, shape):
    """It runs by its own tensors: no fewer products than one with each of its numbers."""
    update, _ = read(kind, name, shape)
    used = min(tensor.numel() for tensor in update.tensors().values())
    assert multiplications(update) >= used


@every_case
def test_its_factors_are_exact_and_its_rank_holds(kind, name, shape):
    update, delta = read(kind, name, shape)
    factors = update.factors()
    close(factors.delta(), delta)
    assert torch.linalg.matrix_rank(delta.flatten(1)) <= min(update.rank, *factors.down.shape[:1])
    if update.is_low_rank:
        assert factors.rank == update.rank
    else:
        assert factors.rank <= min(shape[0], delta[0].numel())


@every_case
@pytest.mark.parametrize("k", [1, 9, 10**6])
def test_sums_over_its_entries_are_the_matrixs(kind, name, shape, k):
    update, delta = read(kind, name, shape)
    entries = delta.abs().double().flatten().sort(descending=True).values
    found = magnitude((update,), k)
    assert found.top == pytest.approx(entries[:k].sum().item(), rel=1e-5)
    assert found.total == pytest.approx(entries.sum().item(), rel=1e-5)
    assert frobenius_norm(update) == pytest.approx(entries.norm().item(), rel=1e-5)


@every_case
def test_its_tensors_are_all_of_its_numbers(kind, name, shape):
    update, sample = raw(kind, name, shape)
    weight = weight_of(shape)
    empty = update.mapped(lambda tensor: tensor.to("meta"))
    assert empty.rank == update.rank and (empty.outputs, *empty.inputs) == shape
    close(empty.with_tensors(update.tensors()).on(weight).delta(), sample.delta)
    close(update.mapped(torch.Tensor.double).on(weight).delta(), sample.delta)


@every_case
def test_slices_of_a_fused_layer_and_another_branch_combine(kind, name, shape):
    """Rows 0 and 2 of three, the second half as strong, beside a plain update of all rows."""
    sample = SAMPLES[kind][name](shape, 3)
    whole = {"a": (3 * shape[0], *shape[1:])}
    stems = {f"lora_x_{part}": LayerTarget("a", (part * shape[0], shape[0])) for part in (0, 2)}
    state = {key: value for stem in stems for key, value in sample.named(stem).items()}
    first, second = parse_lora(state, {}, whole, stems).layers["a"]
    weight = weight_of(shape).repeat(3, *(1,) * (len(shape) - 1))
    first, second = (one.on(weight) for one in (first, second))
    assert (first.rows, second.rows) == ((0, shape[0]), (2 * shape[0], shape[0]))
    found = combine([first, second], whole["a"][0]).delta()
    wanted = torch.zeros(whole["a"])
    wanted[: shape[0]] = wanted[2 * shape[0] :] = sample.delta
    close(found, wanted)


@every_case
def test_a_missing_part_is_told(kind, name, shape):
    sample = SAMPLES[kind][name](shape, 3)
    for gone in sample.tensors:
        state = {key: t for key, t in sample.named(STEM).items() if key != f"{STEM}.{gone}"}
        if gone == "alpha" or set(state) <= {f"{STEM}.alpha"}:
            continue
        if KINDS.of({KINDS.split(key).part: 0 for key in state}):
            continue  # a LoCon without mid is a LoRA
        with pytest.raises(CraftError, match="For one layer the file holds just lora_unet_a"):
            parse_lora(state, {}, {"a": shape})


@every_case
@pytest.mark.parametrize("axis", [0, 1])
def test_another_models_file_is_told_by_its_shape(kind, name, shape, axis):
    """A layer 7 wider in one axis: no size of any sample divides that."""
    sample = SAMPLES[kind][name](shape, 3)
    told = told_shape(sample)
    if len(told) < 2 and (axis == 1) == (told == shape[:1]):
        assert kind in ("OFT", "IA3"), "what turns or scales one side fits any other side"
        return
    other = tuple(size + 7 * (i == axis) for i, size in enumerate(shape))
    with pytest.raises(CraftError, match="which does not fit a of this model"):
        parse_lora(sample.named(STEM), {}, {"a": other})


@every_case
def test_two_kinds_in_one_layer_are_refused(kind, name, shape):
    state = SAMPLES[kind][name](shape, 3).named(STEM)
    for other in SAMPLES:
        if other != kind:
            both = state | SAMPLES[other][next(iter(SAMPLES[other]))](shape, 3).named(STEM)
            if is_one_kind(both):
                continue  # a DoRA is another kind with a magnitude
            with pytest.raises(CraftError, match="holds just"):
                parse_lora(both, {}, {"a": shape})


@every_case
def test_its_tensors_tell_the_shape_without_a_model(kind, name, shape):
    """Up to a kernel flattened into the inputs."""
    sample = SAMPLES[kind][name](shape, 3)
    assert told_shape(sample) in (shape, (shape[0], sample.delta[0].numel()), shape[:1], ())
    plain = SAMPLES["LoRA"]["plain"](shape, 8).named(STEM)
    both = read_together([("one", sample.named(STEM), {}), ("two", plain, {})])
    assert list(both.shapes.values()) == [shape]
    close(both.files[0].layers["a"][0].on(weight_of(shape)).delta(), sample.delta)


@every_case
def test_a_file_we_write_of_it_is_the_same_update(kind, name, shape, tmp_path):
    update, delta = read(kind, name, shape)
    write_lora(tmp_path / "a.safetensors", {"a": update})
    again = read_lora(tmp_path / "a.safetensors", {"a": shape})
    close(again.layers["a"][0].delta(), delta)
    assert again.kinds == {"a": "LoRA"}


@pytest.mark.parametrize(
    ("kind", "name"), [(kind, name) for kind in SAMPLES for name in variants(kind, (24, 16))]
)
def test_in_a_text_encoder_it_is_added_up_by_strength(kind, name):
    stem, shape = "lora_te1_text_model_encoder_layers_0_mlp_fc1", (24, 16)
    sample = SAMPLES[kind][name](shape, 3)
    plain = SAMPLES["LoRA"]["plain"](shape, 8)
    files = [LoraFile({}, one.named(stem)) for one in (sample, plain)]
    if sample.change is not None:
        with pytest.raises(CraftError, match=f"text-encoder update of {kind}"):
            merge_text_encoders(files, [0.5, 2.0], torch.float32)
        return
    part = merge_text_encoders(files, [0.5, 2.0], torch.float32)
    (update,) = parse_lora(part.tensors, {}, {"x": shape}, {stem: LayerTarget("x")}).layers["x"]
    close(update.delta(), 0.5 * sample.delta + 2.0 * plain.delta)


@every_case
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_small_types_are_read_as_they_are(kind, name, shape, dtype):
    sample = SAMPLES[kind][name](shape, 3)
    small = {key: t.to(dtype) for key, t in sample.named(STEM).items()}
    (update,) = parse_lora(small, {}, {"a": shape}).layers["a"]
    wide = {key: t.float() for key, t in small.items()}
    (wanted,) = parse_lora(wide, {}, {"a": shape}).layers["a"]
    weight = weight_of(shape)
    close(update.on(weight).delta(), wanted.on(weight).delta())


@every_case
def test_without_the_weight_it_depends_on_it_has_no_matrix(kind, name, shape, tmp_path):
    update, sample = raw(kind, name, shape)
    if sample.change is None:
        assert update.on(weight_of(shape)) is update
        return
    assert not update.is_low_rank
    told = f"{kind} changes a layer by what its weight is. Without the model.*--checkpoint"
    for asked in (
        update.delta, update.factors, update.entries, lambda: magnitude((update,), 3),
        lambda: frobenius_norm(update), lambda: combine([update, update]),
        lambda: write_lora(tmp_path / "a.safetensors", {"a": update}),
    ):  # fmt: skip
        with pytest.raises(CraftError, match=told):
            asked()
