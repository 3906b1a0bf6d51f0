"""Endings of keys, kinds of updates, text encoders and model families."""

import pytest
from unet_layers import sd1_layers, sdxl_layers

from craft_core.lora.families import family_of, is_text_encoder
from craft_core.lora.formats import KINDS, Key
from craft_core.lora.keys import kohya_name, unet_diffusers_paths


@pytest.mark.parametrize(
    ("key", "stem", "part"),
    [
        ("lora_unet_a.lora_down.weight", "lora_unet_a", "down"),
        ("lora_unet_a.lora_up.weight", "lora_unet_a", "up"),
        ("lora_unet_a.lora_mid.weight", "lora_unet_a", "mid"),
        ("lora_unet_a.alpha", "lora_unet_a", "alpha"),
        ("unet.a.processor.to_q_lora.down.weight", "unet.a.processor.to_q", "down"),
        ("unet.a.processor.to_q_lora.alpha", "unet.a.processor.to_q", "alpha"),
        ("unet.a.to_q.lora.up.weight", "unet.a.to_q", "up"),
        ("unet.a.to_q.lora_linear_layer.up.weight", "unet.a.to_q", "up"),
        ("unet.a.to_q.lora_A.weight", "unet.a.to_q", "down"),
        ("unet.a.to_q.lora_B.weight", "unet.a.to_q", "up"),
        ("unet.a.to_q.lora_A.default.weight", "unet.a.to_q", "down"),
        ("a.lora_B", "a", "up"),
        ("lora_unet_a.hada_w1_a", "lora_unet_a", "hada_w1_a"),
        ("lora_unet_a.hada_t2", "lora_unet_a", "hada_t2"),
        ("lora_unet_a.lokr_w1", "lora_unet_a", "lokr_w1"),
        ("a.b.lokr_w2_a", "a.b", "lokr_w2_a"),
        ("lora_unet_a.lokr_t2", "lora_unet_a", "lokr_t2"),
        ("lora_unet_a.diff", "lora_unet_a", "diff"),
        ("lora_unet_a.w_norm", "lora_unet_a", "diff"),
        ("lora_unet_a.diff_b", "lora_unet_a", "diff_b"),
        ("lora_unet_a.b_norm", "lora_unet_a", "diff_b"),
        ("a.dora_scale", "a", "dora_scale"),
        ("a.oft_blocks", "a", "oft_blocks"),
        ("a.rescale", "a", "rescale"),
        ("lora_unet_a.weight", "lora_unet_a", "channels"),
        ("lycoris_a.on_input", "lycoris_a", "on_input"),
        ("a.a1.weight", "a", "a1"),
        ("a.b2.weight", "a", "b2"),
        ("a.lora_magnitude_vector", "a", "magnitude"),
        ("a.lora_magnitude_vector.default.weight", "a", "magnitude"),
        ("a.lora_B.bias", "a", "lora_bias"),
        ("a.lora_B.default.bias", "a", "lora_bias"),
    ],
)
def test_a_key_is_split_into_layer_and_part(key, stem, part):
    assert KINDS.split(key) == Key(stem, part)
    assert KINDS.refused(key) is None
    long = stem + "_b" * 1000
    assert KINDS.split(long + key.removeprefix(stem)) == Key(long, part)


@pytest.mark.parametrize(
    "key", ["a", "a.weight", "lora_a.b.weight", "a.lora_down.weight_scale", "a.alpha.b", ""]
)
def test_an_unknown_ending_is_not_guessed(key):
    assert KINDS.split(key) is None


@pytest.mark.parametrize(
    ("ending", "kind"),
    [
        ("oft_diag", "OFT or BOFT of another layout"),
        ("oft_R.default.weight", "OFT or BOFT of another layout"),
        ("boft_R", "OFT or BOFT of another layout"),
        ("bm.weight", "GLoRA with a core"),
        ("ia3_l", "IA3 of PEFT"),
        ("lambda_layer", "T-LoRA"),
        ("q_layer.weight", "T-LoRA"),
        ("lora_A.default.bias", "bias of a down factor"),
        ("set_weight", "replaced weight"),
        ("reshape_weight", "widened weight"),
    ],
)
def test_every_kind_that_is_not_carried_is_known_by_name(ending, kind):
    assert KINDS.refused(f"lora_unet_a.{ending}").name == kind
    assert KINDS.split(f"lora_unet_a.{ending}") is None


@pytest.mark.parametrize(
    "key",
    [
        "lora_te_text_model_encoder_layers_0_mlp_fc1.lora_up.weight",
        "lora_te1_text_model_encoder_layers_0_mlp_fc1.alpha",
        "lora_te2_text_projection.lora_down.weight",
        "lora_te3_encoder_block_0.lora_down.weight",
        "text_encoder.text_model.encoder.layers.0.mlp.fc1.lora_A.weight",
        "text_encoder_2.text_model.encoder.layers.0.mlp.fc1.lora_linear_layer.up.weight",
        "text_encoders.clip_l.transformer.text_model.a.lora_up.weight",
        "base_model.model.text_model.encoder.layers.0.self_attn.k_proj.lora_A.weight",
        "text_model.encoder.layers.0.mlp.fc1.lora_A.weight",
        "lycoris_te1_text_model_encoder.lora_up.weight",
        "clip_l.transformer.text_model.a.lora_up.weight",
    ],
)
def test_text_encoder_keys_are_known_in_every_naming(key):
    assert is_text_encoder(key)


@pytest.mark.parametrize("layers", [sd1_layers(), sdxl_layers()])
def test_no_layer_of_a_unet_is_taken_for_a_text_encoder(layers):
    names = [*layers, *unet_diffusers_paths(layers)]
    stems = [*names, *map(kohya_name, names), *(f"lycoris_{kohya_name(n)[10:]}" for n in names)]
    assert not any(map(is_text_encoder, stems))


@pytest.mark.parametrize(
    ("layers", "family"), [(sd1_layers(), "SD1.x or SD2.x"), (sdxl_layers(), "SDXL")]
)
def test_a_unets_family_is_read_off_its_names_in_every_naming(layers, family):
    paths = unet_diffusers_paths(layers)
    for names in (layers, paths, map(kohya_name, layers), map(kohya_name, paths)):
        assert family_of(names) == family


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("transformer.single_transformer_blocks.0.attn.to_q.lora_A.weight", "Flux"),
        ("lora_unet_double_blocks_0_img_attn_qkv.lora_down.weight", "Flux"),
        ("diffusion_model.joint_blocks.0.x_block.attn.qkv.lora_A.weight", "SD3"),
        ("diffusion_model.blocks.0.self_attn.q.lora_A.weight", "Wan"),
        ("unet.mid_block.attentions.0.proj_in.lora_A.weight", "a UNet (SD1.x, SD2.x or SDXL)"),
        ("transformer.transformer_blocks.0.attn.to_q.lora_A.weight", "a diffusion transformer"),
        ("something.else", None),
    ],
)
def test_other_families_are_told_by_their_names(name, family):
    assert family_of([name]) == family
