"""Scales in a file's metadata as alpha tensors, and what is said of them."""

from __future__ import annotations

import json
import math

import pytest
import torch
from raw_lora import ENDINGS, noise, pair

from craft_core.errors import CraftError
from craft_core.lora import parse_lora
from craft_core.lora.stated_scales import stated_scales_note, with_stated_alphas
from craft_core.lora.text_encoder import merge_text_encoders
from craft_core.types import LoraFile

TEXT = "text_encoder.text_model.encoder.layers.0.mlp.fc1"
LAYER = "unet.a.to_q"
DOWN = tuple(down for down, _ in ENDINGS.values())


def metadata(**config):
    entries = {f"{part}.{name}": value for part in ("unet", "text_encoder")
               for name, value in config.items()}  # fmt: skip
    return {"lora_adapter_metadata": json.dumps(entries)}


def scale_without_metadata(state, stem):
    """What a loader that reads tensors alone takes."""
    (down,) = [t for key, t in state.items() if key.startswith(stem) and key.endswith(DOWN)]
    return state[f"{stem}.alpha"].item() / down.shape[0] if f"{stem}.alpha" in state else 1.0


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize(
    ("config", "own_alpha", "scale"),
    [
        ({"r": 3, "lora_alpha": 6}, None, 2.0),
        ({"r": 3, "lora_alpha": 6, "use_rslora": True}, None, 6 / math.sqrt(3)),
        ({"r": 3, "lora_alpha": 6}, 1.5, 0.5),
        ({"r": 3, "lora_alpha": 6, "use_rslora": True}, 1.5, 1.5 / math.sqrt(3)),
        ({"r": 64, "lora_alpha": 6, "use_rslora": True}, 1.5, 0.5),
        ({"r": 3}, None, 1.0),
    ],
)
def test_the_alpha_tensors_say_what_the_metadata_says(config, own_alpha, scale, ending):
    for stem in (TEXT, LAYER):
        state = pair(stem, (5, 4), rank=3, ending=ending)
        if own_alpha is not None:
            state[f"{stem}.alpha"] = torch.tensor(own_alpha)
        made = with_stated_alphas(state, metadata(**config))
        assert scale_without_metadata(made, stem) == pytest.approx(scale, rel=1e-12)
        kept = {key: tensor for key, tensor in made.items() if not key.endswith("alpha")}
        assert kept.keys() == {key for key in state if not key.endswith("alpha")}


def test_the_layers_the_text_part_and_its_merge_have_the_same_scales():
    config = metadata(r=2, lora_alpha=5, use_rslora=True)
    state = pair(LAYER, (5, 4), ending="PEFT") | pair(TEXT, (5, 4), ending="PEFT")
    file = parse_lora(state, config, {"a.to_q": (5, 4)})
    (update,) = file.layers["a.to_q"]
    text = with_stated_alphas(file.text_encoder, file.metadata)
    assert update.scale == pytest.approx(5 / math.sqrt(2))
    assert scale_without_metadata(text, TEXT) == pytest.approx(update.scale)
    part = merge_text_encoders([file], [1.0], torch.float32)
    product = part.tensors[f"{TEXT}.lora_up.weight"] @ part.tensors[f"{TEXT}.lora_down.weight"]
    whole = part.tensors[f"{TEXT}.alpha"].item() / 2 * product
    torch.testing.assert_close(whole, update.delta())  # the pairs hold the same numbers


def test_the_difference_from_the_host_is_said_once_with_its_size():
    config = metadata(r=2, lora_alpha=8, alpha_pattern={"fc1": 1})
    state = pair(LAYER, (5, 4), ending="PEFT") | pair(TEXT, (5, 4), ending="PEFT")
    file = parse_lora(state, config, {"a.to_q": (5, 4)})
    (note,) = file.notes
    assert note.startswith("1 layer and 1 text-encoder matrix are") and "0.5 to 4 times" in note
    assert stated_scales_note(pair(TEXT, (5, 4), ending="PEFT"), config).startswith(
        "1 text-encoder"
    )


@pytest.mark.parametrize("config", [{"r": 2, "lora_alpha": 2}, {"r": 2}, {}])
def test_nothing_is_said_where_nothing_differs(config):
    state = pair(LAYER, (5, 4), ending="PEFT")
    assert parse_lora(state, metadata(**config), {"a.to_q": (5, 4)}).notes == ()
    assert parse_lora(state, {}, {"a.to_q": (5, 4)}).notes == ()
    assert with_stated_alphas(state, metadata(**config)).keys() == state.keys()


def test_a_text_encoder_is_never_scaled_by_the_denoisers_configuration():
    config = {"lora_adapter_metadata": json.dumps({"unet.r": 2, "unet.lora_alpha": 8})}
    for stem in (TEXT, "text_model.encoder.layers.0.mlp.fc1", "te1.layers.0.mlp.fc1"):
        state = pair(stem, (5, 4), ending="PEFT")
        assert with_stated_alphas(state, config).keys() == state.keys()
        part = merge_text_encoders([LoraFile({}, state, (), config)], [1.0], torch.float32)
        assert part.tensors[f"{stem}.alpha"].item() == 2.0


def test_stale_metadata_is_refused_in_the_text_part_as_in_a_layer():
    config = metadata(r=64, lora_alpha=64)
    with pytest.raises(CraftError, match="rank 2, but the file's metadata says 64"):
        with_stated_alphas(pair(TEXT, (5, 4), ending="PEFT"), config)


def test_other_kinds_have_no_part_in_it():
    state = {f"{LAYER}.diff": noise(5, 4), f"{LAYER}.lokr_w1": noise(2, 2)}
    assert with_stated_alphas(state, metadata(r=2, lora_alpha=8)).keys() == state.keys()


def test_stale_metadata_leaves_its_updates_out_where_that_is_allowed():
    config = metadata(r=64, lora_alpha=64)
    state = pair(TEXT, (5, 4), ending="PEFT") | pair("unet.b", (5, 4), rank=64, ending="PEFT")
    layers = {"b": (5, 4)}
    with pytest.raises(CraftError, match="metadata says 64.*allow_unmatched"):
        parse_lora(state, config, layers)
    file = parse_lora(state, config, layers, allow=True)
    assert list(file.layers) == ["b"] and len(file.faults) == 1
    assert with_stated_alphas(file.text_encoder, file.metadata, allow=True) == {}


@pytest.mark.parametrize("stem", [TEXT, LAYER])
@pytest.mark.parametrize("stated", [{"lora_alpha": 4}, {"r": 0, "lora_alpha": 4}])
@pytest.mark.parametrize("own_alpha", [torch.tensor(2.0), torch.tensor(1j), None])
def test_factors_without_ranks_are_refused_in_words(stem, stated, own_alpha):
    state = pair(stem, (5, 4), rank=0)
    if own_alpha is not None:
        state[f"{stem}.alpha"] = own_alpha
    with pytest.raises(CraftError):
        parse_lora(state, metadata(**stated), {"a.to_q": (5, 4)})
    with pytest.raises(CraftError):
        with_stated_alphas(state, metadata(**stated))


@pytest.mark.parametrize("stem", [TEXT, LAYER])
def test_an_alpha_that_is_no_real_number_is_refused_in_words(stem):
    state = pair(stem, (5, 4), rank=2) | {f"{stem}.alpha": torch.tensor(1j)}
    with pytest.raises(CraftError, match="complex64 numbers"):
        parse_lora(state, metadata(r=2, lora_alpha=4), {"a.to_q": (5, 4)})
