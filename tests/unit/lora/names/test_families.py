"""Which family the names of a file or of a model tell."""

import itertools

import pytest

from craft_core.lora.families import family_of, is_embedding, share_names

TOLD = {
    "lora_unet_double_blocks_0_img_attn_qkv.lora_down.weight": "Flux",
    "transformer.single_transformer_blocks.0.attn.to_q.lora_A.weight": "Flux",
    "double_stream_modulation_img.lin": "Flux.2",
    "distilled_guidance_layer.layers.0.in_layer": "Chroma",
    "txt_in.individual_token_refiner.blocks.0.self_attn.qkv": "HunyuanVideo",
    "lora_unet_double_blocks_0_img_attn_q.lora_down.weight": "HunyuanVideo",
    "lora_unet_joint_blocks_0_x_block_attn_qkv.alpha": "SD3",
    "diffusion_model.blocks.0.self_attn.q.lora_A.weight": "Wan",
    "transformer.blocks.0.attn1.to_q.lora_A.weight": "Wan",
    "lora_unet_blocks_0_self_attn_q_proj.lora_down.weight": "Cosmos Predict 2 or Anima",
    "blocks.0.adaln_modulation_mlp.1": "Cosmos Predict 2 or Anima",
    "diffusion_model.layers.0.attention.to_q.lora_A.weight": "Z-Image or Lumina 2",
    "transformer_blocks.0.img_mlp.net.0.proj": "Qwen-Image",
    "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q": "a UNet (SD1.x, SD2.x or "
    "SDXL)",
    "unet.up_blocks.3.attentions.0.transformer_blocks.0.attn1.to_q": "SD1.x or SD2.x",
    "unet.up_blocks.0.attentions.0.transformer_blocks.1.attn1.to_q": "SDXL",
    "transformer_blocks.0.attn1.to_q": "a diffusion transformer",
}


@pytest.mark.parametrize("name", TOLD)
def test_a_name_tells_its_family(name):
    assert family_of([name]) == TOLD[name]


def test_names_are_shared_by_a_family_and_those_with_its_blocks():
    one_name = {"Flux.2", "Chroma", "HunyuanVideo"}
    for one, other in itertools.product(set(TOLD.values()), repeat=2):
        blocks = {one, other} in ({"Flux", name} for name in one_name)
        assert share_names(one, other) == (one == other or blocks)


def test_an_embedding_beside_a_lora_is_known():
    assert is_embedding("bundle_emb.word.string_to_param.*")
    assert not is_embedding("lora_unet_bundle_emb.lora_down.weight")
