"""CLIP's text tower is read in both spellings, and a file without its projection is refused."""

from __future__ import annotations

import json

import pytest
import safetensors.torch
import torch
from laws.clip_text import (
    LAYERS,
    PROJECTION,
    TOKENS,
    WIDTH,
    as_open_clip,
    text_weights,
)

from craft_core.errors import CraftError
from craft_core.evaluation.encoders.text_tower_file import read_text_tower

POSITIONS = "text_model.embeddings.position_embedding.weight"
FIRST = "text_model.encoder.layers.0.mlp.fc1.weight"
EYE = torch.eye(WIDTH)
PICTURE_TOWER = {
    "vision_model.embeddings.class_embedding": torch.ones(32),
    "visual_projection.weight": torch.ones(WIDTH, 32),
    "logit_scale": torch.tensor(4.6),
}


def written(path, weights, **metadata):
    owned = {
        name: one.clone(memory_format=torch.contiguous_format) for name, one in weights.items()
    }
    safetensors.torch.save_file(owned, path, metadata or None)
    return path


@pytest.fixture(scope="module")
def weights():
    return text_weights()


@pytest.mark.parametrize("open_clip", [False, True])
@pytest.mark.parametrize("kind", [torch.float32, torch.float16, torch.bfloat16])
def test_both_spellings_give_the_same_sizes_and_projection(tmp_path, weights, open_clip, kind):
    given = {name: one.to(kind) for name, one in weights.items()}
    of_old = {"text_model.embeddings.position_ids": torch.arange(77)[None]}
    given = (as_open_clip(given) if open_clip else given | of_old) | PICTURE_TOWER
    tower = read_text_tower(written(tmp_path / "clip.safetensors", given))
    assert (tower.layers, tower.width, tower.tokens) == (LAYERS, WIDTH, TOKENS)
    assert torch.equal(tower.projection, weights[PROJECTION].to(kind))


def test_an_older_comfyuis_projection_is_transposed(tmp_path, weights):
    """It wrote transformers' names, and OpenCLIP's of the projection."""
    given = {name: one for name, one in weights.items() if name != PROJECTION}
    given["text_projection"] = weights[PROJECTION].T
    tower = read_text_tower(written(tmp_path / "clip.safetensors", given))
    assert torch.equal(tower.projection, weights[PROJECTION])


def test_long_clip_looks_at_248_tokens(tmp_path):
    path = written(tmp_path / "long.safetensors", text_weights(tokens=248))
    assert read_text_tower(path).tokens == 248
    path = written(tmp_path / "deep.safetensors", text_weights(layers=23, tokens=248))
    with pytest.raises(CraftError, match="its text tower looks at 248 tokens"):
        read_text_tower(path)


def changed(name, one):
    return lambda given: {**given, name: one}


def without(name):
    return lambda given: {key: one for key, one in given.items() if key != name}


REFUSED = {
    "a picture tower alone": (lambda _: PICTURE_TOWER, "it has no text tower of CLIP"),
    "T5": (
        lambda _: {"encoder.block.0.layer.0.SelfAttention.k.weight": torch.ones(8, 8)},
        "it has no text tower of CLIP",
    ),
    "a language model": (
        lambda _: {"model.layers.0.post_attention_layernorm.weight": torch.ones(8)},
        "it has no text tower of CLIP",
    ),
    "no projection": (without(PROJECTION), "it has no text_projection"),
    "two projections": (changed("text_projection", EYE), "it has several text_projection"),
    "the identity": (changed(PROJECTION, EYE.half()), "zero or the identity"),
    "zero": (changed(PROJECTION, 0 * EYE), "zero or the identity"),
    "not finite": (changed(PROJECTION, EYE / 0), "numbers that are not finite"),
    "not square": (
        changed(PROJECTION, torch.ones(32, WIDTH)), r"\(32, 64\) in place of \(64, 64\)",
    ),
    "no layer": (without(FIRST), f"it has no {FIRST}"),
    "narrow": (changed(FIRST, torch.ones(3, WIDTH)), r"\(3, 64\) in place of \(256, 64\)"),
    "fp8": (
        changed(FIRST, torch.ones(4 * WIDTH, WIDTH).to(torch.float8_e4m3fn)),
        "fc1.weight is of torch.float8_e4m3fn",
    ),
    "whole numbers": (
        changed(PROJECTION, torch.ones(WIDTH, WIDTH, dtype=torch.int64)), "is of torch.int64",
    ),
    "quantised": (changed("scaled_fp8", torch.ones(2)), "its weights are quantised"),
    "quantised layer": (
        changed("text_model.x.comfy_quant", torch.ones(2)), "its weights are quantised",
    ),
    "several encoders": (
        changed(f"clip_g.{POSITIONS}", torch.ones(500, 1)), "it also has clip_g.text_model.",
    ),
    "two towers": (
        lambda given: given | as_open_clip(given), "both text_model. and transformer.resblocks.",
    ),
    "many tokens": (changed(POSITIONS, torch.ones(78, WIDTH)), "looks at 78 tokens"),
    "positions": (changed(POSITIONS, torch.ones(77)), r"shape \(77,\) and not 2 axes"),
    "wide": (changed(POSITIONS, torch.ones(77, 4096)), "2 layers of width 4096"),
    "deep": (
        lambda given: given | {f"text_model.encoder.layers.{n}.x": EYE for n in range(33)},
        "33 layers of width 64",
    ),
    "a layer named anew": (
        lambda given: {key.replace("layers.1.", "layers.01."): one for key, one in given.items()},
        "it has no text_model.encoder.layers.1.",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_score_prompts_is_refused_in_three_parts(tmp_path, weights, name):
    change, reason = REFUSED[name]
    path = written(tmp_path / "given.safetensors", change(weights))
    with pytest.raises(CraftError, match=reason) as caught:
        read_text_tower(path)
    said = str(caught.value)
    assert said.startswith("given.safetensors cannot score prompts: ")
    assert "It takes CLIP's text tower with text_projection" in said
    assert "Choose the file of a whole CLIP" in said


def test_a_quantisation_that_only_the_header_names_is_refused(tmp_path, weights):
    layers = json.dumps({"layers": {"text_model": {"format": "float8_e4m3fn"}}})
    path = written(tmp_path / "given.safetensors", weights, _quantization_metadata=layers)
    with pytest.raises(CraftError, match="its weights are quantised"):
        read_text_tower(path)


def test_only_whole_safetensors_files_are_read(tmp_path, weights):
    torch.save(weights, tmp_path / "clip.pt")
    with pytest.raises(
        CraftError, match=r"clip.pt cannot score prompts: it is no safetensors file"
    ):
        read_text_tower(tmp_path / "clip.pt")
    path = written(tmp_path / "clip.safetensors", weights)
    path.write_bytes(path.read_bytes()[:-2])
    with pytest.raises(CraftError, match=r"clip.safetensors cannot be read: it is damaged"):
        read_text_tower(path)
