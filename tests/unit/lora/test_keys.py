"""Names of layers in LoRA files, for hand-made lists of the true SD1.x and SDXL layers."""

import pytest
from unet_layers import sd1_layers, sdxl_layers, unet_layers

from craft_core.errors import CraftError
from craft_core.lora import kohya_stems, lora_names, unet_diffusers_blocks, unet_diffusers_paths
from craft_core.types import LayerTarget

TO_Q = "input_blocks.4.1.transformer_blocks.0.attn1.to_q"
TO_OUT = "input_blocks.4.1.transformer_blocks.0.attn1.to_out.0"


@pytest.mark.parametrize("layers", [sd1_layers(), sdxl_layers()])
@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("conv_in", "input_blocks.0.0"),
        ("conv_out", "out.2"),
        ("time_embedding.linear_1", "time_embed.0"),
        ("time_embedding.linear_2", "time_embed.2"),
        ("down_blocks.0.resnets.1", "input_blocks.2.0"),
        ("down_blocks.0.downsamplers.0.conv", "input_blocks.3.0.op"),
        ("down_blocks.1.resnets.0", "input_blocks.4.0"),
        ("down_blocks.1.resnets.0.conv1", "input_blocks.4.0.in_layers.2"),
        ("down_blocks.1.resnets.0.conv2", "input_blocks.4.0.out_layers.3"),
        ("down_blocks.1.resnets.0.time_emb_proj", "input_blocks.4.0.emb_layers.1"),
        ("down_blocks.1.resnets.0.conv_shortcut", "input_blocks.4.0.skip_connection"),
        ("down_blocks.1.attentions.0", "input_blocks.4.1"),
        ("mid_block.resnets.0", "middle_block.0"),
        ("mid_block.attentions.0", "middle_block.1"),
        ("mid_block.resnets.1.conv1", "middle_block.2.in_layers.2"),
        ("up_blocks.1.attentions.2", "output_blocks.5.1"),
    ],
)
def test_sd1_and_sdxl_blocks_carry_their_published_names(layers, name, path):
    assert unet_diffusers_blocks(layers)[name] == path


@pytest.mark.parametrize(
    ("layers", "name", "path"),
    [
        (sdxl_layers(), "up_blocks.0.attentions.0", "output_blocks.0.1"),  # B-LoRA's content
        (sdxl_layers(), "up_blocks.0.attentions.1", "output_blocks.1.1"),  # B-LoRA's style
        (sdxl_layers(), "up_blocks.0.upsamplers.0.conv", "output_blocks.2.2.conv"),
        (sdxl_layers(), "add_embedding.linear_1", "label_emb.0.0"),
        (sd1_layers(), "up_blocks.0.upsamplers.0.conv", "output_blocks.2.1.conv"),
        (sd1_layers(), "up_blocks.3.attentions.2", "output_blocks.11.1"),
        (sd1_layers(), "down_blocks.3.resnets.1", "input_blocks.11.0"),
    ],
)
def test_where_the_families_differ_each_has_its_own_blocks(layers, name, path):
    assert unet_diffusers_blocks(layers)[name] == path


@pytest.mark.parametrize(
    ("layers", "absent"),
    [
        (sdxl_layers(), "down_blocks.0.attentions.0"),
        (sdxl_layers(), "up_blocks.2.attentions.0"),
        (sdxl_layers(), "down_blocks.2.downsamplers.0.conv"),
        (sdxl_layers(), "down_blocks.0.resnets.0.conv_shortcut"),
        (sd1_layers(), "down_blocks.3.attentions.0"),
        (sd1_layers(), "add_embedding.linear_1"),
    ],
)
def test_only_what_the_model_has_is_named(layers, absent):
    assert absent not in unet_diffusers_blocks(layers)


@pytest.mark.parametrize("layers", [sd1_layers(), sdxl_layers()])
def test_every_layer_has_a_diffusers_name_and_no_name_is_shared(layers):
    paths = unet_diffusers_paths(layers)
    assert set(paths.values()) == set(layers)
    doubled = 2 if "label_emb.0.0" in layers else 0  # add_embedding is also class_embedding
    assert len(paths) == len(layers) + doubled


def test_blocks_are_counted_from_the_list_itself():
    """A KOALA-like UNet: one resnet a level, no middle; and a single-level one."""
    koala = unet_layers((320, 640, 1280), (0, 2, 5), 2048, 0, True, label=2816, resnets=1)
    koala = {path: shape for path, shape in koala.items() if not path.startswith("middle_block")}
    blocks = unet_diffusers_blocks(koala)
    assert blocks["down_blocks.2.attentions.0"] == "input_blocks.5.1"
    assert blocks["up_blocks.0.attentions.1"] == "output_blocks.1.1"
    assert blocks["up_blocks.2.resnets.1"] == "output_blocks.5.0"
    assert not any(name.startswith("mid_block") for name in blocks)
    single = unet_diffusers_blocks(unet_layers((320,), (1,), 768, 1, False, resnets=1))
    assert single["up_blocks.0.attentions.1"] == "output_blocks.1.1"


def test_blocks_do_not_depend_on_the_order_of_the_list():
    layers = sdxl_layers()
    backwards = dict(reversed(layers.items()))
    assert unet_diffusers_blocks(backwards) == unet_diffusers_blocks(layers)


@pytest.mark.parametrize("layers", [{}, {"double_blocks.0.img_attn.qkv": (9, 3)}, {"a": (1, 1)}])
def test_what_is_no_unet_has_no_diffusers_blocks(layers):
    assert unet_diffusers_blocks(layers) == {}
    assert unet_diffusers_paths(layers) == {}


@pytest.mark.parametrize(
    "stem",
    [
        "lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q",
        "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn1_to_q",
        "lycoris_down_blocks_1_attentions_0_transformer_blocks_0_attn1_to_q",
        "diffusion_model.input_blocks.4.1.transformer_blocks.0.attn1.to_q",
        "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1.processor.to_q",
        "down_blocks.1.attentions.0.transformer_blocks.0.attn1.processor.to_q",
        "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q",
        "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q",
        "base_model.model.down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q",
        "unet.base_model.model.down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q",
    ],
)
def test_every_naming_points_to_the_layer(stem):
    assert lora_names(sdxl_layers())[stem] == LayerTarget(TO_Q)


@pytest.mark.parametrize("processor", ["", ".processor"])
@pytest.mark.parametrize("number", ["", ".0"])
def test_the_output_projection_is_found_with_and_without_its_number(processor, number):
    stem = f"unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1{processor}.to_out{number}"
    assert lora_names(sdxl_layers())[stem] == LayerTarget(TO_OUT)


def test_a_block_number_is_not_a_prefix_of_another():
    names = lora_names(sdxl_layers())
    stem = "unet.mid_block.attentions.0.transformer_blocks.{}.attn1.to_q"
    path = "middle_block.1.transformer_blocks.{}.attn1.to_q"
    assert [names[stem.format(i)].module for i in range(10)] == [path.format(i) for i in range(10)]
    assert stem.format(10) not in names


def test_the_hosts_names_are_added_with_their_row_slices():
    layers = {"double_blocks.0.img_attn.qkv": (9, 3)}
    extra = {
        "transformer.transformer_blocks.0.attn.to_k": LayerTarget(
            "double_blocks.0.img_attn.qkv", (3, 3)
        )
    }
    names = lora_names(layers, extra)
    assert names["transformer.transformer_blocks.0.attn.to_k"].rows == (3, 3)
    assert names["lora_unet_double_blocks_0_img_attn_qkv"] == LayerTarget(
        "double_blocks.0.img_attn.qkv"
    )


def test_a_hosts_name_for_no_linear_layer_is_left_out():
    assert "unet.norm" not in lora_names({"a.b": (2, 2)}, {"unet.norm": LayerTarget("norm")})


def test_a_name_with_two_meanings_is_refused():
    with pytest.raises(CraftError, match="lora_unet_a_b_c"):
        lora_names({"a.b_c": (2, 2), "a_b.c": (2, 2)})
    with pytest.raises(CraftError, match="lora_unet_a"):
        lora_names({"a": (2, 2), "b": (2, 2)}, {"lora_unet_a": LayerTarget("b")})


@pytest.mark.parametrize(
    "stem",
    [
        "diffusion_model.double_blocks.0.img_attn_qkv",
        "transformer.double_blocks.0.img_attn.qkv",
        "lycoris_double_blocks_0_img_attn_qkv",
        "lora_transformer_double_blocks_0_img_attn_qkv",
        "base_model.model.double_blocks.0.img_attn_qkv",
        "model.diffusion_model.double_blocks.0.img_attn.qkv",
        "double_blocks.0.img_attn.qkv",
    ],
)
def test_prefix_and_underscores_do_not_hide_a_layer(stem):
    names = lora_names({"double_blocks.0.img_attn.qkv": (9, 3), "double_blocks.0.img": (1, 1)})
    assert names[stem] == LayerTarget("double_blocks.0.img_attn.qkv")
    assert f"{stem}_2" not in names and "lora_te1_double_blocks_0_img" not in names


def test_a_name_with_underscores_that_two_layers_share_is_neithers():
    layers = {"a.b_c": (1, 1), "a_b.c": (1, 1)}
    names = lora_names({"a.b_c": (1, 1)})
    assert "diffusion_model.a_b_c" in names
    with pytest.raises(CraftError, match="would mean both"):
        lora_names(layers)
    extra = {"transformer.x.y": LayerTarget("a", (0, 2)), "unet.x_y": LayerTarget("a", (2, 2))}
    both = lora_names({"a": (4, 1)}, extra)
    assert "x.y" not in both and both["unet.x_y"].rows == (2, 2)


def test_a_fused_projection_is_all_its_parts_where_the_model_has_them_apart():
    """Krea 2's queries are wider than its keys and values."""
    layers = {"blocks.0.attn.wq": (8, 8), "blocks.0.attn.wk": (4, 8), "blocks.0.attn.wv": (4, 8)}
    extra = {
        f"transformer.transformer_blocks.0.attn.to_{part}": LayerTarget(f"blocks.0.attn.w{part}")
        for part in "qkv"
    }
    names = lora_names(layers, extra)
    for stem in ("lycoris_transformer_blocks_0_attn_to_qkv",
                 "transformer.transformer_blocks.0.attn.to_qkv"):  # fmt: skip
        assert names.targets(stem) == (
            LayerTarget("blocks.0.attn.wq", order=((0, 8),), of=16),
            LayerTarget("blocks.0.attn.wk", order=((8, 4),), of=16),
            LayerTarget("blocks.0.attn.wv", order=((12, 4),), of=16),
        )
        assert stem not in names  # it points to no one layer
    assert [one.module[-2:] for one in names.targets("transformer_blocks.0.attn.to_kv")] == [
        "wk", "wv",
    ]  # fmt: skip
    assert names.targets("transformer_blocks.1.attn.to_qkv") == ()


def test_a_fused_projection_is_one_slice_where_the_model_has_fused_it_too():
    layers = {"double.0.qkv": (12, 4), "single.0.linear1": (28, 4)}
    extra = {
        f"transformer.{name}.0.attn.to_{part}": LayerTarget(module, (4 * at, 4))
        for name, module in (("a", "double.0.qkv"), ("b", "single.0.linear1"))
        for at, part in enumerate("qkv")
    }
    names = lora_names(layers, extra)
    assert names["lycoris_a_0_attn_to_qkv"] == LayerTarget("double.0.qkv")
    assert names["lycoris_b_0_attn_to_qkv"] == LayerTarget("single.0.linear1", (0, 12))
    assert names["transformer.b.0.attn.to_kv"] == LayerTarget("single.0.linear1", (4, 8))


@pytest.mark.parametrize("layers", [sd1_layers(), sdxl_layers()])
def test_no_stem_that_points_somewhere_is_longer_than_the_longest(layers):
    """Its bound keeps a file's names from choosing how long they are looked up."""
    names = lora_names(layers)
    before = [
        "base_model.model." + inner + outer
        for inner in ("", "model.diffusion_model.", "lora_prior_unet_", "lora_transformer_")
        for outer in ("", "base_model.model.")
    ]
    stems = [prefix + name for prefix in before for name in names]
    found = [stem for stem in stems if names.targets(stem)]
    assert len(found) > len(names)
    assert max(map(len, found)) <= names.longest < 200


KNOWN = {  # path -> how files of kohya's trainer for SD1.5 call the layer
    "input_blocks.1.1.proj_in": "lora_unet_down_blocks_0_attentions_0_proj_in",
    "input_blocks.1.0.in_layers.2": "lora_unet_down_blocks_0_resnets_0_conv1",
    "input_blocks.3.0.op": "lora_unet_down_blocks_0_downsamplers_0_conv",
    "middle_block.1.transformer_blocks.0.attn2.to_out.0": (
        "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_out_0"
    ),
    "middle_block.2.out_layers.3": "lora_unet_mid_block_resnets_1_conv2",
    "output_blocks.2.1.conv": "lora_unet_up_blocks_0_upsamplers_0_conv",
    "output_blocks.11.1.transformer_blocks.0.ff.net.0.proj": (
        "lora_unet_up_blocks_3_attentions_2_transformer_blocks_0_ff_net_0_proj"
    ),
}


def test_kohyas_stems_of_sd1_are_those_of_its_trainers_files():
    stems = kohya_stems(sd1_layers())
    assert {path: stems[path] for path in KNOWN} == KNOWN


@pytest.mark.parametrize("layers", [sdxl_layers(), {"double_blocks.0.img_attn.qkv": (9, 3)}])
def test_kohyas_stems_of_sdxl_and_of_every_other_model_are_its_paths(layers):
    stems = kohya_stems(layers)
    assert stems == {path: f"lora_unet_{path.replace('.', '_')}" for path in layers}


@pytest.mark.parametrize("layers", [sd1_layers(), sdxl_layers()])
def test_kohyas_stems_are_different_names_of_all_layers_that_are_read_back(layers):
    stems, names = kohya_stems(layers), lora_names(layers)
    assert stems.keys() == layers.keys() and len(set(stems.values())) == len(layers)
    assert all(names[stem] == LayerTarget(path) for path, stem in stems.items())
