"""Files compared without a model: all namings of a layer become one name, and shapes come from
factors."""

from __future__ import annotations

import pytest
import torch
from raw_lora import ENDINGS, noise, pair
from unet_layers import sd1_layers, sdxl_layers

from craft_core.errors import CraftError
from craft_core.lora import lora_names, read_lora, write_lora
from craft_core.lora.formats import shape_of
from craft_core.lora.keys import kohya_name
from craft_core.lora.without_model import plain_name, read_together, stems_of

UNETS = {"sd1": sd1_layers(), "sdxl": sdxl_layers()}


@pytest.mark.parametrize("layers", UNETS.values(), ids=UNETS)
def test_all_names_of_a_layer_are_one_and_no_two_layers_share_it(layers):
    of_path = {path: plain_name(kohya_name(path)) for path in layers}
    assert len(set(of_path.values())) == len(layers)
    for stem, target in lora_names(layers).items():
        assert plain_name(stem) == of_path[target.module], stem


@pytest.mark.parametrize(
    ("stems", "name"),
    [
        (("transformer.single_transformer_blocks.3.attn.to_q",
          "lora_transformer_single_transformer_blocks_3_attn_to_q",
          "base_model.model.transformer.single_transformer_blocks.3.attn.to_q",
          "lycoris_single_transformer_blocks_3_attn_to_q"),
         "single_transformer_blocks_3_attn_to_q"),
        (("diffusion_model.double_blocks.0.img_attn.qkv",
          "model.diffusion_model.double_blocks.0.img_attn.qkv",
          "lora_unet_double_blocks_0_img_attn_qkv"), "double_blocks_0_img_attn_qkv"),
        (("blocks.11.self_attn.o", "diffusion_model.blocks.11.self_attn.o"),
         "blocks_11_self_attn_o"),
    ],
)  # fmt: skip
def test_names_of_other_architectures(stems, name):
    assert {plain_name(stem) for stem in stems} == {name}


SHAPES = {
    "input_blocks.4.1.proj_in": (8, 6),
    "middle_block.1.transformer_blocks.0.attn1.to_out.0": (6, 6),
    "output_blocks.2.2.conv": (5, 4, 3, 3),
    "output_blocks.10.0.in_layers.2": (7, 5, 3, 3),
}
DIFFUSERS = {
    "input_blocks.4.1.proj_in": "unet.down_blocks.1.attentions.0.proj_in",
    "middle_block.1.transformer_blocks.0.attn1.to_out.0":
        "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_out.0",
    "output_blocks.2.2.conv": "unet.up_blocks.0.upsamplers.0.conv",
    "output_blocks.10.0.in_layers.2": "unet.up_blocks.3.resnets.1.conv1",
}  # fmt: skip


def ldm_file(seed=0, shapes=SHAPES):
    state = {}
    for path, shape in shapes.items():
        state |= pair(kohya_name(path), shape, rank=2, seed=seed)
        state[f"{kohya_name(path)}.alpha"] = torch.tensor(1.0)
    return state


def diffusers_file(ending, seed=9):
    state = {}
    for path, shape in SHAPES.items():
        state |= pair(DIFFUSERS[path], shape, rank=3, ending=ending, seed=seed)
    return state


@pytest.mark.parametrize("ending", ENDINGS)
def test_two_namings_meet_in_the_same_layers(ending):
    both = read_together([("a", ldm_file(), {}), ("b", diffusers_file(ending), {})])
    assert len(both.shapes) == len(SHAPES)
    assert sorted(both.shapes.values()) == sorted(SHAPES.values())
    for plain in both.shapes:
        (one,), (other,) = (file.layers[plain] for file in both.files)
        assert (one.scale, other.scale) == (0.5, 1.0) and (one.rank, other.rank) == (2, 3)
    assert set(both.stems.values()) == {kohya_name(path) for path in SHAPES}
    assert not any(file.unmatched for file in both.files)


def test_depth_order_is_the_unets():
    found = read_together([("a", ldm_file(), {})])
    assert list(found.shapes.values()) == [SHAPES[path] for path in SHAPES]  # 2 before 10


def test_it_reads_what_reading_against_the_model_reads(tmp_path):
    path = tmp_path / "lora.safetensors"
    write_lora(path, {p: read_lora_of(ldm_file(), tmp_path)[p][0] for p in SHAPES})
    against = read_lora(path, SHAPES)
    found = read_together([("a", ldm_file(), {})]).files[0]
    for module, (expected,) in against.layers.items():
        (one,) = found.layers[plain_name(kohya_name(module))]
        assert torch.equal(one.down, expected.down) and torch.equal(one.up, expected.up)
        assert one.scale == expected.scale


def read_lora_of(state, tmp_path):
    from safetensors.torch import save_file

    save_file(state, tmp_path / "source.safetensors")
    return read_lora(tmp_path / "source.safetensors", SHAPES).layers


def test_a_1x1_convolution_may_be_a_linear_in_the_other_file():
    one = pair("lora_unet_a_proj_in", (6, 4, 1, 1))
    other = pair("lora_unet_a_proj_in", (6, 4), seed=5)
    for files in ((one, other), (other, one)):
        found = read_together([("x", files[0], {}), ("y", files[1], {})])
        assert list(found.shapes.values()) == [(6, 4, 1, 1)]
        assert all(file.layers["a_proj_in"][0].down.shape == (2, 4, 1, 1) for file in found.files)


def test_a_loha_convolution_meets_a_locon_one():
    name, shape = "lora_unet_output_blocks_0_0_in_layers_2", (6, 4, 3, 3)
    one = pair(name, shape)
    sizes = {"w1_a": (6, 2), "w1_b": (2, 36), "w2_a": (6, 2), "w2_b": (2, 36)}
    two = {f"{name}.hada_{part}": noise(*sizes[part], seed=i) for i, part in enumerate(sizes)}
    product = (two[f"{name}.hada_w1_a"] @ two[f"{name}.hada_w1_b"]) * (
        two[f"{name}.hada_w2_a"] @ two[f"{name}.hada_w2_b"]
    )
    for states in ((one, two), (two, one)):
        both = read_together([(str(i), state, {}) for i, state in enumerate(states)])
        assert list(both.shapes.values()) == [shape]
        loha = both.files[1 if states[1] is two else 0].layers
        ((update,),) = loha.values()
        torch.testing.assert_close(update.delta(), product.reshape(shape), rtol=1e-5, atol=1e-5)
    other = pair(name, (6, 35))
    with pytest.raises(CraftError, match="same model"):
        read_together([("a", one, {}), ("b", other, {})])


def test_files_that_meet_in_a_third_are_of_one_model():
    stems = [f"lora_unet_middle_block_1_{end}" for end in ("proj_in", "proj_out")]
    states = [pair(stems[0], (6, 4)), pair(stems[1], (6, 4))]
    bridge = states[0] | states[1]
    with pytest.raises(CraftError, match="no layer in common"):
        read_together([("a", states[0], {}), ("b", states[1], {})])
    for order in ((states[0], states[1], bridge), (bridge, *states)):
        assert len(read_together([(str(i), s, {}) for i, s in enumerate(order)]).files) == 3


def test_files_of_different_models_are_told_apart_by_their_shapes():
    other = ldm_file(shapes={"input_blocks.4.1.proj_in": (9, 6)})
    with pytest.raises(CraftError, match="input_blocks_4_1_proj_in is .*in sdxl.*in sd1"):
        read_together([("sdxl", ldm_file(), {}), ("sd1", other, {})])


def test_a_refused_kind_is_named_with_its_file():
    state = ldm_file()
    state["lora_unet_x.set_weight"] = noise(2, 2)
    with pytest.raises(CraftError, match="odd: .*replaced weight"):
        read_together([("odd", state, {})])


@pytest.mark.parametrize("kernel", [(), (3, 3)])
def test_shapes_of_every_kind_of_update(kernel):
    ones = (1,) * len(kernel)
    tucker = {"down": noise(2, 5, *ones), "mid": noise(2, 2, *kernel), "up": noise(7, 2, *ones)}
    plain = {"down": noise(2, 5, *kernel), "up": noise(7, 2, *ones)}
    hada = {
        f"hada_w{i}_{end}": noise(*size)
        for i in "12"
        for end, size in (("a", (7, 2)), ("b", (2, 5)))
    }
    core = {
        f"hada_w{i}_{end}": noise(*size)
        for i in "12"
        for end, size in (("a", (2, 7)), ("b", (2, 5)))
    } | {f"hada_t{i}": noise(2, 2, *kernel) for i in "12"}

    def shape(tensors):
        return shape_of({part: (part, tensor) for part, tensor in tensors.items()})

    assert shape(plain) == (7, 5, *kernel)
    if kernel:
        assert shape(tucker) == shape(core) == (7, 5, *kernel)
    assert shape(hada) == (7, 5)
    assert shape({"down": noise(2, 5)}) is None
    assert shape({"down": noise(5), "up": noise(7, 2)}) is None


def test_text_encoder_keys_are_kept_apart():
    text = pair("lora_te1_text_model_encoder_layers_0_mlp_fc1", (4, 3))
    state = {**ldm_file(), **text}
    assert list(stems_of(state, text_encoder=True)) == [
        "lora_te1_text_model_encoder_layers_0_mlp_fc1"
    ]
    (file,) = read_together([("a", state, {})]).files
    assert set(file.text_encoder) == set(text)
