"""Names of diffusers' and of published models for layers of the host's, spelt out by hand."""

from __future__ import annotations

import re

import pytest

from craft_core.lora import lora_names
from craft_core.lora.trainer_names import TABLES, trainer_names
from craft_core.types import LayerTarget

WAN = {
    "blocks.0.self_attn.q": (8, 8),
    "blocks.0.cross_attn.k_img": (8, 8),
    "blocks.0.ffn.2": (8, 12),
    "time_projection.1": (48, 8),
    "head.head": (64, 8),
}
HUNYUAN = {
    "txt_in.individual_token_refiner.blocks.0.self_attn.qkv": (24, 8),
    "txt_in.c_embedder.in_layer": (8, 6),
    "double_blocks.1.txt_attn.qkv": (24, 8),
    "single_blocks.0.linear1": (56, 8),
    "time_in.in_layer": (8, 4),
    "final_layer.adaLN_modulation.1": (16, 8),
}
COSMOS = {
    "blocks.0.adaln_modulation_self_attn.1": (4, 8),
    "blocks.0.adaln_modulation_mlp.2": (24, 4),
    "blocks.0.cross_attn.output_proj": (8, 8),
    "blocks.0.mlp.layer1": (32, 8),
    "x_embedder.proj.1": (8, 20),
    "final_layer.adaln_modulation.2": (16, 4),
}
LTX = {"patchify_proj": (8, 4), "adaln_single.emb.timestep_embedder.linear_1": (8, 4)}
LUMINA = {  # 8 heads for the queries, 2 for keys and values
    "layers.0.attention.qkv": (12, 8),
    "layers.0.feed_forward.w3": (16, 8),
    "context_refiner.0.attention.out": (8, 8),
    "cap_embedder.1": (8, 6),
}
FLUX2 = {"double_stream_modulation_img.lin": (48, 8), "time_in.out_layer": (8, 8)}

EXPECTED = [
    (WAN, "blocks.0.attn1.to_q", "blocks.0.self_attn.q", None),
    (WAN, "blocks.0.attn2.add_k_proj", "blocks.0.cross_attn.k_img", None),
    (WAN, "blocks.0.ffn.net.2", "blocks.0.ffn.2", None),
    (WAN, "condition_embedder.time_proj", "time_projection.1", None),
    (WAN, "proj_out", "head.head", None),
    (HUNYUAN, "transformer_blocks.1.attn.add_k_proj", "double_blocks.1.txt_attn.qkv", (8, 8)),
    (HUNYUAN, "double_blocks.1.txt_attn_v", "double_blocks.1.txt_attn.qkv", (16, 8)),
    (HUNYUAN, "single_transformer_blocks.0.proj_mlp", "single_blocks.0.linear1", (24, 32)),
    (HUNYUAN, "context_embedder.token_refiner.refiner_blocks.0.attn.to_v",
     "txt_in.individual_token_refiner.blocks.0.self_attn.qkv", (16, 8)),
    (HUNYUAN, "context_embedder.time_text_embed.text_embedder.linear_1",
     "txt_in.c_embedder.in_layer", None),
    (HUNYUAN, "txt_in.c_embedder.linear_1", "txt_in.c_embedder.in_layer", None),
    (HUNYUAN, "time_in.mlp.0", "time_in.in_layer", None),
    (COSMOS, "transformer_blocks.0.norm1.linear_1", "blocks.0.adaln_modulation_self_attn.1", None),
    (COSMOS, "transformer_blocks.0.norm3.linear_2", "blocks.0.adaln_modulation_mlp.2", None),
    (COSMOS, "transformer_blocks.0.attn2.to_out.0", "blocks.0.cross_attn.output_proj", None),
    (COSMOS, "transformer_blocks.0.ff.net.0.proj", "blocks.0.mlp.layer1", None),
    (COSMOS, "patch_embed.proj", "x_embedder.proj.1", None),
    (COSMOS, "norm_out.linear_2", "final_layer.adaln_modulation.2", None),
    (LTX, "proj_in", "patchify_proj", None),
    (LTX, "time_embed.emb.timestep_embedder.linear_1",
     "adaln_single.emb.timestep_embedder.linear_1", None),
    (LUMINA, "layers.0.attn.to_q", "layers.0.attention.qkv", (0, 8)),
    (LUMINA, "layers.0.attn.to_v", "layers.0.attention.qkv", (10, 2)),
    (LUMINA, "layers.0.feed_forward.linear_3", "layers.0.feed_forward.w3", None),
    (LUMINA, "context_refiner.0.attn.to_out.0", "context_refiner.0.attention.out", None),
    (FLUX2, "double_stream_modulation_img.linear", "double_stream_modulation_img.lin", None),
    (FLUX2, "time_guidance_embed.timestep_embedder.linear_2", "time_in.out_layer", None),
]  # fmt: skip


@pytest.mark.parametrize(("layers", "name", "path", "rows"), EXPECTED)
def test_a_layer_is_found_by_the_trainers_name_under_every_prefix(layers, name, path, rows):
    names, flat = lora_names(layers), name.replace(".", "_")
    for stem in (name, f"transformer.{name}", f"diffusion_model.{name}", f"lora_unet_{flat}",
                 f"lycoris_{flat}", f"base_model.model.{name}"):  # fmt: skip
        assert names[stem] == LayerTarget(path, rows)


def test_the_halves_that_diffusers_swaps_are_swapped_back():
    target = lora_names(HUNYUAN)["transformer.norm_out.linear"]
    assert target == LayerTarget("final_layer.adaLN_modulation.1", order=((8, 8), (0, 8)))


@pytest.mark.parametrize("layers", [WAN, HUNYUAN, COSMOS, LTX, LUMINA, FLUX2])
def test_the_parts_of_a_layer_are_all_of_it_once(layers):
    """Of each naming: several names without a number in common, or one of the whole."""
    assert sum(table.told_by in layers for table in TABLES) == 1
    parts: dict[tuple[str, str], list] = {}
    for name, target in trainer_names(layers):
        if target.rows is not None:
            naming = re.sub(r"[._](to_|add_)?([qkv]|proj_mlp)(_proj)?\Z", "", name)
            naming = naming.replace(".attn", "") if target.module.startswith("single") else naming
            parts.setdefault((target.module, naming), []).append(target.rows)
    for (module, _), rows in parts.items():
        ends = [start + length for start, length in rows]
        assert [start for start, _ in rows] == [0, *ends[:-1]]
        assert ends[-1] == layers[module][0]


def test_a_table_says_nothing_of_other_models():
    unet = {"input_blocks.1.1.proj_in": (4, 4), "time_in.in_layer": (4, 4), "head.head": (4, 4)}
    assert list(trainer_names(unet)) == []
