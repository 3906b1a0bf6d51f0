"""Names of layers that trainers use and the host has no table for.

Trainers on diffusers' models (SimpleTuner, diffusers' own scripts) and on models as they were
published (musubi-tuner) save a LoRA under their model's names. The host knows many of them; those
of Wan, HunyuanVideo, Cosmos Predict 2, LTX-Video, Lumina 2 and Flux.2 it knows in part or not at
all. A table here says how such a model calls a layer of the host's model. Sources: the conversion
scripts of diffusers (scripts/convert_*_to_diffusers.py, loaders/single_file_utils.py) and
musubi-tuner's model classes.

A layer that the host has fused is several layers of the trainer's model, one below the other. The
prefixes before a name, and underscores for dots, are the business of keys.LoraNames.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from ..types import LayerShapes, LayerTarget

Sizes = tuple[str, ...]
_WHOLE: Sizes = ("rest",)
_QKV: Sizes = ("inputs", "rest", "rest")
_QKV_MLP: Sizes = ("inputs", "inputs", "inputs", "rest")


@dataclass(frozen=True)
class Rule:
    """Layers of the host -> what another model calls them.

    layer: a pattern of module paths. names: templates as in re.sub, one for each part of the
    outputs. sizes: of each part: "inputs" is as many outputs as the layer has inputs, "rest" an
    equal share of what is left. swapped: whether that model has the two halves the other way round.
    """

    layer: str
    names: tuple[str, ...]
    sizes: Sizes = _WHOLE
    swapped: bool = False


@dataclass(frozen=True)
class Table:
    """Rules for the models that have a layer `told_by`."""

    told_by: str
    rules: tuple[Rule, ...]


def _same_below(layer: str, name: str, below: dict[str, str]) -> Iterator[Rule]:
    """layer.key -> name.value, for a layer's children."""
    for ours, theirs in below.items():
        yield Rule(rf"{layer}\.{re.escape(ours)}", (rf"{name}.{theirs}",))


def _qkv(layer: str, *names: str) -> Rule:
    return Rule(layer, names, _QKV)


_WAN = Table(
    "blocks.0.self_attn.q",
    (
        *_same_below(r"(blocks|vace_blocks)\.(\d+)\.self_attn", r"\1.\2.attn1",
                     {"q": "to_q", "k": "to_k", "v": "to_v", "o": "to_out.0"}),
        *_same_below(r"(blocks|vace_blocks)\.(\d+)\.cross_attn", r"\1.\2.attn2",
                     {"q": "to_q", "k": "to_k", "v": "to_v", "o": "to_out.0",
                      "k_img": "add_k_proj", "v_img": "add_v_proj"}),
        *_same_below(r"(blocks|vace_blocks)\.(\d+)\.ffn", r"\1.\2.ffn",
                     {"0": "net.0.proj", "2": "net.2"}),
        Rule(r"vace_blocks\.(\d+)\.before_proj", (r"vace_blocks.\1.proj_in",)),
        Rule(r"vace_blocks\.(\d+)\.after_proj", (r"vace_blocks.\1.proj_out",)),
        *_same_below("text_embedding", "condition_embedder.text_embedder",
                     {"0": "linear_1", "2": "linear_2"}),
        *_same_below("time_embedding", "condition_embedder.time_embedder",
                     {"0": "linear_1", "2": "linear_2"}),
        Rule(r"time_projection\.1", ("condition_embedder.time_proj",)),
        Rule(r"img_emb\.proj\.1", ("condition_embedder.image_embedder.ff.net.0.proj",)),
        Rule(r"img_emb\.proj\.3", ("condition_embedder.image_embedder.ff.net.2",)),
        Rule(r"head\.head", ("proj_out",)),
    ),
)  # fmt: skip
"""diffusers' WanTransformer3DModel."""


def _two_layers(ours: str, theirs: str, published: str) -> Iterator[Rule]:
    """An embedder of two layers: diffusers' name, and the published model's."""
    yield from _same_below(ours, theirs, {"in_layer": "linear_1", "out_layer": "linear_2"})
    yield from _same_below(ours, published, {"in_layer": "0", "out_layer": "2"})


_DOUBLE, _REFINER = r"double_blocks\.(\d+)", r"txt_in\.individual_token_refiner\.blocks\.(\d+)"
_REFINED = r"context_embedder.token_refiner.refiner_blocks.\1"
_HUNYUAN_VIDEO = Table(
    "txt_in.individual_token_refiner.blocks.0.self_attn.qkv",
    (
        _qkv(rf"{_DOUBLE}\.(img|txt)_attn\.qkv",
             *(rf"double_blocks.\1.\2_attn_{part}" for part in "qkv")),  # 1.5 and Image 2.1
        _qkv(rf"{_DOUBLE}\.img_attn\.qkv",
             *(rf"transformer_blocks.\1.attn.to_{part}" for part in "qkv")),
        _qkv(rf"{_DOUBLE}\.txt_attn\.qkv",
             *(rf"transformer_blocks.\1.attn.add_{part}_proj" for part in "qkv")),
        *_same_below(_DOUBLE, r"transformer_blocks.\1", {
            "img_attn.proj": "attn.to_out.0", "txt_attn.proj": "attn.to_add_out",
            "img_mod.lin": "norm1.linear", "txt_mod.lin": "norm1_context.linear",
            "img_mlp.0": "ff.net.0.proj", "img_mlp.2": "ff.net.2",
            "txt_mlp.0": "ff_context.net.0.proj", "txt_mlp.2": "ff_context.net.2",
        }),
        Rule(r"single_blocks\.(\d+)\.linear1",
             (*(rf"single_transformer_blocks.\1.attn.to_{part}" for part in "qkv"),
              r"single_transformer_blocks.\1.proj_mlp"), _QKV_MLP),
        *_same_below(r"single_blocks\.(\d+)", r"single_transformer_blocks.\1",
                     {"linear2": "proj_out", "modulation.lin": "norm.linear"}),
        _qkv(rf"{_REFINER}\.self_attn\.qkv", *(rf"{_REFINED}.attn.to_{part}" for part in "qkv")),
        *_same_below(_REFINER, _REFINED, {
            "self_attn.proj": "attn.to_out.0", "mlp.0": "ff.net.0.proj", "mlp.2": "ff.net.2",
            "adaLN_modulation.1": "norm_out.linear",
        }),
        Rule(r"txt_in\.input_embedder", ("context_embedder.proj_in",)),
        *_two_layers(r"txt_in\.t_embedder", "context_embedder.time_text_embed.timestep_embedder",
                     "txt_in.t_embedder.mlp"),
        *_two_layers(r"txt_in\.c_embedder", "context_embedder.time_text_embed.text_embedder",
                     "txt_in.c_embedder.mlp"),
        *_same_below(r"txt_in\.c_embedder", "txt_in.c_embedder",
                     {"in_layer": "linear_1", "out_layer": "linear_2"}),
        *_two_layers("time_in", "time_text_embed.timestep_embedder", "time_in.mlp"),
        *_two_layers("guidance_in", "time_text_embed.guidance_embedder", "guidance_in.mlp"),
        *_same_below("vector_in", "time_text_embed.text_embedder",
                     {"in_layer": "linear_1", "out_layer": "linear_2"}),
        Rule(r"img_in\.proj", ("x_embedder.proj",)),
        Rule(r"final_layer\.linear", ("proj_out",)),
        Rule(r"final_layer\.adaLN_modulation\.1", ("norm_out.linear",), swapped=True),
    ),
)  # fmt: skip
"""HunyuanVideo as published, with q, k and v apart as in 1.5, and as in diffusers."""

_COSMOS = Table(
    "blocks.0.adaln_modulation_self_attn.1",
    (
        *(rule
          for ours, theirs in (("self_attn", "attn1"), ("cross_attn", "attn2"))
          for rule in _same_below(
              rf"blocks\.(\d+)\.{ours}", rf"transformer_blocks.\1.{theirs}",
              {"q_proj": "to_q", "k_proj": "to_k", "v_proj": "to_v", "output_proj": "to_out.0"})),
        *_same_below(r"blocks\.(\d+)", r"transformer_blocks.\1", {
            "mlp.layer1": "ff.net.0.proj", "mlp.layer2": "ff.net.2",
            **{f"adaln_modulation_{part}.{number}": f"norm{norm}.linear_{number}"
               for norm, part in ((1, "self_attn"), (2, "cross_attn"), (3, "mlp"))
               for number in (1, 2)},
        }),
        Rule(r"x_embedder\.proj\.1", ("patch_embed.proj",)),
        Rule(r"t_embedder\.1\.linear_([12])", (r"time_embed.t_embedder.linear_\1",)),
        Rule(r"final_layer\.adaln_modulation\.([12])", (r"norm_out.linear_\1",)),
        Rule(r"final_layer\.linear", ("proj_out",)),
    ),
)  # fmt: skip
"""diffusers' CosmosTransformer3DModel: Cosmos Predict 2 and Anima."""

_LTX = Table(
    "patchify_proj",
    (
        Rule("patchify_proj", ("proj_in",)),
        Rule(r"adaln_single\.(.+)", (r"time_embed.\1",)),
    ),
)
"""diffusers' LTXVideoTransformer3DModel, which calls all other layers as the host does."""

_LUMINA = Table(
    "layers.0.attention.qkv",
    (
        _qkv(r"(.+)\.attention\.qkv", *(rf"\1.attn.to_{part}" for part in "qkv")),
        Rule(r"(.+)\.attention\.out", (r"\1.attn.to_out.0",)),
        Rule(r"(.+)\.feed_forward\.w([123])", (r"\1.feed_forward.linear_\2",)),
        Rule(r"(layers\.\d+|noise_refiner\.\d+)\.adaLN_modulation\.1", (r"\1.norm1.linear",)),
        Rule(r"cap_embedder\.1", ("time_caption_embed.caption_embedder.1",)),
        Rule(r"t_embedder\.mlp\.0", ("time_caption_embed.timestep_embedder.linear_1",)),
        Rule(r"t_embedder\.mlp\.2", ("time_caption_embed.timestep_embedder.linear_2",)),
        Rule(r"final_layer\.adaLN_modulation\.1", ("norm_out.linear_1",)),
        Rule(r"final_layer\.linear", ("norm_out.linear_2",)),
    ),
)
"""diffusers' Lumina2Transformer2DModel."""

_FLUX2 = Table(
    "double_stream_modulation_img.lin",
    (
        Rule(r"((?:double|single)_stream_modulation\w*)\.lin", (r"\1.linear",)),
        *_same_below("time_in", "time_guidance_embed.timestep_embedder",
                     {"in_layer": "linear_1", "out_layer": "linear_2"}),
        *_same_below("guidance_in", "time_guidance_embed.guidance_embedder",
                     {"in_layer": "linear_1", "out_layer": "linear_2"}),
    ),
)  # fmt: skip
"""What the host's table of Flux leaves out of diffusers' Flux2Transformer2DModel."""

TABLES = (_WAN, _HUNYUAN_VIDEO, _COSMOS, _LTX, _LUMINA, _FLUX2)


def trainer_names(layers: LayerShapes) -> Iterator[tuple[str, LayerTarget]]:
    """(name without prefix, target) of every layer that a table knows by another name."""
    rules = [rule for table in TABLES if table.told_by in layers for rule in table.rules]
    compiled = [(re.compile(rule.layer), rule) for rule in rules]
    for path, shape in layers.items():
        for pattern, rule in compiled:
            found = pattern.fullmatch(path)
            if found is None:
                continue
            for name, rows in zip(rule.names, _rows(rule.sizes, shape), strict=True):
                half = shape[0] // 2
                order = ((half, shape[0] - half), (0, half)) if rule.swapped else None
                yield found.expand(name), LayerTarget(path, rows, order=order)


def _rows(sizes: Sizes, shape: tuple[int, ...]) -> Iterator[tuple[int, int] | None]:
    """(start, length) of each part of a layer's outputs; None for the whole."""
    if len(sizes) == 1:
        yield None
        return
    outputs, inputs = shape[:2]
    rest = (outputs - inputs * sizes.count("inputs")) // sizes.count("rest")
    start = 0
    for size in sizes:
        length = inputs if size == "inputs" else rest
        yield start, length
        start += length
