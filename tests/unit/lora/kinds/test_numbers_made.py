"""Small factors of a file do not become very many numbers, and rotations are rotations."""

from __future__ import annotations

import pytest
import torch
from raw_lora import noise

from craft_core.errors import CraftError
from craft_core.lora import parse_lora, text_encoder
from craft_core.lora.formats import AdaptedLayer, build_updates
from craft_core.lora.formats.parts import check_made
from craft_core.lora.peft_config import Stated
from craft_core.lora.text_encoder import merge_text_encoders
from craft_core.types import LayerTarget, LoraFile

LAYERS = {"a.to_q": (640, 640)}
TEXT = "lora_te1_text_model_encoder_layers_0_mlp_fc1"


def test_an_update_may_be_up_to_64_times_its_tensors():
    tensor = torch.zeros(3, 5)
    check_made(64 * 15, ("a", tensor))
    with pytest.raises(CraftError, match=r"a \(3, 5\) would become 961 numbers"):
        check_made(64 * 15 + 1, ("a", tensor))


@pytest.mark.parametrize("rank", [4, 16, 24, 32, 48, 64])
@pytest.mark.parametrize(
    ("out", "inputs", "kernel"),
    [
        (1280, 2560, (3, 3)),
        (640, 1280, (3, 3)),
        (320, 4, (3, 3)),
        (512, 512, (3, 3, 3)),
        (8, 640, (3, 3)),
    ],
)
def test_a_loha_with_cores_of_any_usual_rank_is_read(out, inputs, kernel, rank):
    held = {"w1_a": (rank, out), "w1_b": (rank, inputs), "t1": (rank, rank, *kernel),
            "w2_a": (rank, out), "w2_b": (rank, inputs), "t2": (rank, rank, *kernel)}  # fmt: skip
    state = {
        f"unet.a.conv.hada_{part}": torch.empty(shape, device="meta").expand(shape)
        for part, shape in held.items()
    }
    layer = AdaptedLayer(LayerTarget("a.conv"), (out, inputs, *kernel))
    parts = {f"hada_{part}": (key, state[key]) for part, key in zip(held, state, strict=True)}
    ((update, _),) = build_updates(parts, layer, Stated())
    assert update.outputs == out and update.inputs == (inputs, *kernel)


@pytest.mark.parametrize("rank", [1, 8, 64, 128])
@pytest.mark.parametrize("out", [1, 64, 640, 5120])
def test_a_loha_of_a_linear_layer_of_any_usual_rank_is_read(out, rank):
    shapes = {"w1_a": (out, rank), "w1_b": (rank, 640), "w2_a": (out, rank), "w2_b": (rank, 640)}
    parts = {f"hada_{part}": (part, torch.empty(shape, device="meta"))
             for part, shape in shapes.items()}  # fmt: skip
    layer = AdaptedLayer(LayerTarget("a"), (out, 640))
    ((update, _),) = build_updates(parts, layer, Stated())
    assert update.outputs == out


def test_a_lokr_whose_rank_would_blow_up_is_refused():
    state = {
        "unet.a.to_q.lokr_w1": torch.ones(640, 1),
        "unet.a.to_q.lokr_w2_a": torch.ones(20_000, 1),
        "unet.a.to_q.lokr_w2_b": torch.ones(1, 640),
        "unet.a.to_q.lokr_t2": torch.ones(20_000, 1, 1, 1),
    }
    with pytest.raises(CraftError, match="would become 12800000 numbers"):
        parse_lora(state, {}, LAYERS)


@pytest.mark.parametrize(
    "shapes",
    [
        {"lokr_w1_a": (20_000, 1), "lokr_w1_b": (1, 20_000), "lokr_w2": (1, 1)},
        {"hada_w1_a": (9_000, 1), "hada_w1_b": (1, 9_000), "hada_t1": (9_000, 1, 1),
         "hada_w2_a": (1, 1), "hada_w2_b": (1, 9_000), "hada_t2": (1, 1, 1)},
        {"lora_down.weight": (1, 9_000, 1), "lora_up.weight": (1, 1, 1), "lora_mid.weight":
         (1, 1, 9_000)},
    ],
    ids=["LoKr", "LoHa", "LoCon"],
)  # fmt: skip
def test_a_text_encoders_factors_that_would_blow_up_are_refused(shapes):
    state = {f"{TEXT}.{part}": torch.ones(1).expand(shape) for part, shape in shapes.items()}
    with pytest.raises(CraftError, match="numbers"):
        merge_text_encoders([LoraFile({}, state, (), {})], [1.0], torch.float32)


def test_text_encoder_parts_of_full_rank_are_bounded_together():
    one = {"lokr_w1": noise(60, 60), "lokr_w2": noise(60, 60)}
    state = {f"lora_te1_{n}.{part}": value for n in range(83) for part, value in one.items()}
    with pytest.raises(CraftError, match="1075680000 numbers"):
        merge_text_encoders([LoraFile({}, state, (), {})], [1.0], torch.float16)


def test_whole_differences_of_a_text_encoder_are_merged_whatever_their_size(monkeypatch):
    monkeypatch.setattr(text_encoder, "_LARGEST", 10)
    monkeypatch.setattr(text_encoder, "_MOST_DENSE", 10)
    state = {f"lora_te1_{n}.diff": noise(6, 5) for n in range(3)}
    merged = merge_text_encoders([LoraFile({}, state, (), {})], [1.0], torch.float32)
    assert merged.matrices == 3


@pytest.mark.parametrize(("size", "large"), [(5, 1e10), (5, 1e20), (5, 1e15), (4, 3e38)])
def test_blocks_that_make_no_rotation_are_refused(size, large):
    blocks = noise(640 // size, size, size).clamp(-1, 1) * large
    with pytest.raises(CraftError, match="make no rotation"):
        parse_lora({"unet.a.to_q.oft_blocks": blocks}, {}, LAYERS)


@pytest.mark.parametrize("size", [4, 5, 64])
@pytest.mark.parametrize("large", [1e-6, 1e-2, 1.0, 30.0])
def test_turns_are_those_of_the_cayley_transform(size, large):
    blocks = noise(640 // size, size, size) * large
    (update,) = parse_lora({"unet.a.to_q.oft_blocks": blocks}, {}, LAYERS).layers["a.to_q"]
    skew = (blocks - blocks.transpose(1, 2)).double()
    one = torch.eye(size, dtype=torch.float64)
    exact = (one + skew) @ torch.linalg.inv(one - skew) - one
    error = (update.turns - exact).abs().max() / exact.abs().max()
    assert error < 5e-5
    turned = update.turns.double() + one
    assert torch.dist(turned @ turned.transpose(1, 2), one.expand_as(turned)) < 1e-3
