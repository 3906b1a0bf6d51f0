"""Reading LoRA files: every key is carried, kept apart, listed or refused by name."""

import json

import pytest
import safetensors.torch
import torch
from raw_lora import ENDINGS, noise, pair
from unet_layers import sd1_layers, sdxl_layers, unet_layers

from craft_core.errors import CraftError
from craft_core.lora import parse_lora, read_lora, storage
from craft_core.types import LayerTarget

LAYERS = unet_layers((8, 16), (0, 2), 12, middle=2, linear=True, label=10)
LDM = "input_blocks.4.1.transformer_blocks.1.attn2."
DIFFUSERS = "down_blocks.1.attentions.0.transformer_blocks.1.attn2."
TO_K, TO_OUT, CONV = f"{LDM}to_k", f"{LDM}to_out.0", "input_blocks.4.0.in_layers.2"


def flat(name):
    return name.replace(".", "_")


STEMS = {  # naming -> (ending, stem of to_k, stem of to_out, stem of a convolution)
    "kohya LDM": ("kohya", f"lora_unet_{flat(TO_K)}", f"lora_unet_{flat(TO_OUT)}")
    + (f"lora_unet_{flat(CONV)}",),
    "kohya diffusers": ("kohya", f"lora_unet_{flat(DIFFUSERS)}to_k")
    + (f"lora_unet_{flat(DIFFUSERS)}to_out_0", "lora_unet_down_blocks_1_resnets_0_conv1"),
    "old diffusers": ("old diffusers", f"unet.{DIFFUSERS}processor.to_k")
    + (f"unet.{DIFFUSERS}processor.to_out", "unet.down_blocks.1.resnets.0.conv1"),
    "diffusers": ("diffusers", f"unet.{DIFFUSERS}to_k", f"unet.{DIFFUSERS}to_out.0")
    + ("unet.down_blocks.1.resnets.0.conv1",),
    "PEFT": ("PEFT", f"unet.{DIFFUSERS}to_k", f"unet.{DIFFUSERS}to_out.0")
    + ("unet.down_blocks.1.resnets.0.conv1",),
    "PEFT model": ("PEFT default", f"base_model.model.{DIFFUSERS}to_k")
    + (f"base_model.model.{DIFFUSERS}to_out.0", "base_model.model.down_blocks.1.resnets.0.conv1"),
    "generic": ("PEFT", f"diffusion_model.{TO_K}", f"diffusion_model.{TO_OUT}")
    + (f"diffusion_model.{CONV}",),
    "LyCORIS": ("kohya", f"lycoris_{flat(DIFFUSERS)}to_k", f"lycoris_{flat(DIFFUSERS)}to_out_0")
    + ("lycoris_down_blocks_1_resnets_0_conv1",),
}


def lora(ending="kohya", stem=None, dtype=torch.float32):
    return pair(stem or f"lora_unet_{flat(TO_K)}", LAYERS[TO_K], ending=ending, dtype=dtype)


@pytest.mark.parametrize(("ending", "to_k", "to_out", "conv"), STEMS.values(), ids=STEMS)
def test_every_naming_gives_the_same_factors(ending, to_k, to_out, conv):
    state, alpha = {}, torch.tensor(1.0)
    for stem, path in ((to_k, TO_K), (to_out, TO_OUT), (conv, CONV)):
        state |= pair(stem, LAYERS[path], ending=ending) | {f"{stem}.alpha": alpha}
    file = parse_lora(state, {}, LAYERS)
    assert list(file.layers) == [CONV, TO_K, TO_OUT]
    assert not file.unmatched and not file.text_encoder
    for path, (factors,) in file.layers.items():
        down, up = pair("", LAYERS[path]).values()
        assert torch.equal(factors.down, down) and torch.equal(factors.up, up.flatten(1))
        assert factors.scale == 0.5 and factors.rows is None


@pytest.mark.parametrize("ending", ENDINGS)
def test_every_ending_is_read_under_every_stem(ending):
    for to_k in (stems[1] for stems in STEMS.values()):
        assert list(parse_lora(pair(to_k, LAYERS[TO_K], ending=ending), {}, LAYERS).layers) == [
            TO_K
        ]


@pytest.mark.parametrize("layers", [sd1_layers(), sdxl_layers()])
def test_layers_come_in_depth_order_whatever_the_files_order(layers):
    paths = [path for path in layers if path.endswith("to_q")]
    state = {}
    for path in sorted(paths):
        state |= pair(f"lora_unet_{flat(path)}", layers[path], rank=1)
    assert list(parse_lora(state, {}, layers).layers) == paths


def test_the_same_conv_projection_fits_linear_and_1x1_models():
    """SD1.x projects with 1x1 convolutions, SD2.x with linear layers of the same width."""
    stem = "lora_unet_input_blocks_1_1_proj_in"
    linear = unet_layers((8,), (1,), 12, middle=1, linear=True)
    conv = unet_layers((8,), (1,), 12, middle=1, linear=False)
    for state in (pair(stem, (8, 8)), pair(stem, (8, 8, 1, 1))):
        for layers, shape in ((linear, (2, 8)), (conv, (2, 8, 1, 1))):
            ((factors,),) = parse_lora(state, {}, layers).layers.values()
            assert factors.down.shape == shape and factors.up.shape == (8, 2)


def test_slices_of_a_fused_layer_are_kept_side_by_side_in_row_order():
    layers = {"double_blocks.0.img_attn.qkv": (9, 4)}
    extra = {
        f"transformer.transformer_blocks.0.attn.to_{name}": LayerTarget(
            "double_blocks.0.img_attn.qkv", (3 * index, 3)
        )
        for index, name in enumerate("qkv")
    }
    state = {}
    for name in "vq":
        state |= pair(f"transformer.transformer_blocks.0.attn.to_{name}", (3, 4), ending="PEFT")
    (slices,) = parse_lora(state, {}, layers, extra).layers.values()
    assert [factors.rows for factors in slices] == [(0, 3), (6, 3)]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float8_e4m3fn])
def test_small_dtypes_are_read_as_they_are(dtype, tmp_path):
    safetensors.torch.save_file(lora(dtype=dtype), tmp_path / "a.safetensors")
    ((factors,),) = read_lora(tmp_path / "a.safetensors", LAYERS).layers.values()
    assert factors.down.dtype == factors.up.dtype == dtype
    assert torch.isfinite(factors.delta()).all()


def test_packed_numbers_are_refused():
    state = lora()
    state[next(iter(state))] = torch.zeros(2, 6, dtype=torch.uint8).view(torch.float4_e2m1fn_x2)
    with pytest.raises(CraftError, match="holds float4_e2m1fn_x2 numbers"):
        parse_lora(state, {}, LAYERS)


def test_metadata_scales_are_honoured_and_kohyas_note_is_not():
    stem = f"unet.{DIFFUSERS}to_k"
    config = {"unet.r": 2, "unet.lora_alpha": 8, "unet.alpha_pattern": {"attn2.to_k": 3}}
    metadata = {"lora_adapter_metadata": json.dumps(config), "ss_network_alpha": "64"}
    state = pair(stem, LAYERS[TO_K], ending="PEFT")
    assert parse_lora(state, metadata, LAYERS).layers[TO_K][0].scale == 1.5
    assert parse_lora(lora(), metadata, LAYERS).layers[TO_K][0].scale == 1.0


def test_a_resized_file_is_read_by_its_alphas_where_its_metadata_is_of_the_old_rank():
    stem = f"unet.{DIFFUSERS}to_k"
    config = json.dumps({"unet.r": 64, "unet.lora_alpha": 64})
    state = pair(stem, LAYERS[TO_K], ending="PEFT")
    resized = state | {f"{stem}.alpha": torch.tensor(1.0)}
    metadata = {"lora_adapter_metadata": config}
    assert parse_lora(resized, metadata, LAYERS).layers[TO_K][0].scale == 0.5
    with pytest.raises(CraftError, match="rank 2, but the file's metadata says 64"):
        parse_lora(state, metadata, LAYERS)


def test_text_encoder_tensors_are_kept_apart_untouched():
    encoder = {
        "lora_te1_text_model_encoder_layers_0_mlp_fc1.lora_down.weight": noise(2, 3),
        "lora_te1_text_model_encoder_layers_0_mlp_fc1.dora_scale": noise(3),
        "text_encoder_2.text_model.encoder.layers.0.mlp.fc1.lora_A.weight": noise(2, 3),
    }
    file = parse_lora(lora() | encoder, {}, LAYERS)
    assert dict(file.text_encoder) == encoder and not file.unmatched


def test_names_of_no_layer_are_listed_once_each():
    other = pair("lora_unet_input_blocks_99_1_proj_in", (4, 4))
    state = (
        lora() | other | {"bundle_emb.word": noise(3), f"lora_unet_{flat(TO_OUT)}.alpha": noise(1)}
    )
    assert set(parse_lora(state, {}, LAYERS).unmatched) == {
        "lora_unet_input_blocks_99_1_proj_in",
        "bundle_emb.word",
        f"lora_unet_{flat(TO_OUT)}",
    }


@pytest.mark.parametrize(
    ("ending", "kind"),
    [("ia3_l", "IA3 of PEFT"), ("oft_R.weight", "OFT or BOFT")]
    + [("bm.weight", "GLoRA"), ("set_weight", "replaced")],
)
@pytest.mark.parametrize("stem", [f"lora_unet_{flat(TO_K)}", "lora_unet_input_blocks_4_1_norm"])
def test_kinds_that_are_not_carried_are_named_counted_and_refused(ending, kind, stem):
    unknown = {f"{stem}{i or ''}.{ending}": noise(3) for i in range(3)}
    with pytest.raises(CraftError, match=f"{kind}.* and 1 more.*SVD"):
        parse_lora(lora() | unknown, {}, LAYERS)


def test_an_unknown_part_of_a_known_layer_is_refused():
    with pytest.raises(CraftError, match="unknown kind.*weight_scale"):
        parse_lora(lora() | {f"lora_unet_{flat(TO_K)}.lora_up.weight_scale": noise(1)}, {}, LAYERS)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_numbers_whose_sum_is_too_large_for_their_type_are_finite(dtype):
    state = lora(dtype=dtype)
    key = next(iter(state))
    large = torch.full_like(state[key], torch.finfo(dtype).max)
    assert not large.sum().isfinite()
    ((factors,),) = parse_lora(state | {key: large}, {}, LAYERS).layers.values()
    assert torch.equal(factors.down, large)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float8_e5m2])
def test_nan_and_infinity_are_refused_by_name(value, dtype):
    state = lora(dtype=dtype)
    key = next(iter(state))
    broken = state[key].float()
    broken[0, 0] = value
    with pytest.raises(CraftError, match=f"{key} holds NaN or infinity"):
        parse_lora(state | {key: broken.to(dtype)}, {}, LAYERS)


def test_the_family_of_a_file_is_looked_up_only_for_an_error_and_once(monkeypatch):
    searches = []
    monkeypatch.setattr(storage, "family_of", lambda names: searches.append([*names]) or "SDXL")
    parse_lora(lora(), {}, LAYERS)
    assert not searches
    misfits = lora() | lora(stem=f"lora_unet_{flat(TO_OUT)}")
    with pytest.raises(CraftError, match="look like SDXL"):
        parse_lora(misfits, {}, dict.fromkeys((TO_K, TO_OUT), (9, 9)), allow=True)
    assert len(searches) == 1


def test_one_layer_under_two_names_is_refused():
    with pytest.raises(CraftError, match="are both there for one layer"):
        parse_lora(lora() | lora(stem=f"lora_unet_{flat(DIFFUSERS)}to_k"), {}, LAYERS)
    with pytest.raises(CraftError, match="are both there for one layer"):
        parse_lora(lora(ending="PEFT") | lora(ending="PEFT named"), {}, LAYERS)


@pytest.mark.parametrize(
    ("made_for", "model", "family"),
    [(sd1_layers(), sdxl_layers(), "SD1.x or SD2.x"), (sdxl_layers(), sd1_layers(), "SDXL")],
)
def test_a_lora_of_another_unet_is_refused_by_shape_and_named(made_for, model, family):
    state = {}
    for path, shape in made_for.items():
        if path.endswith("to_k"):
            state |= pair(f"lora_unet_{flat(path)}", shape, rank=1)
    with pytest.raises(CraftError, match=f"does not fit.*look like {family}.*another base model"):
        parse_lora(state, {}, model)


@pytest.mark.parametrize(
    ("stem", "family"),
    [
        ("transformer.single_transformer_blocks.0.attn.to_q", "they look like Flux"),
        ("lora_unet_joint_blocks_0_x_block_attn_qkv", "they look like SD3"),
        ("something.else", "of no known family"),
    ],
)
def test_a_lora_that_matches_nothing_is_refused_and_its_family_told(stem, family):
    with pytest.raises(CraftError, match=f"{stem}.*{family}.*The model looks like SDXL"):
        parse_lora(pair(stem, (4, 4)), {}, LAYERS)


def test_a_file_of_text_encoder_tensors_alone_is_a_file_without_layers():
    encoder = pair("lora_te_text_model_encoder_layers_0_mlp_fc1", (4, 4))
    file = parse_lora(encoder, {}, LAYERS)
    assert file.layers == {} and dict(file.text_encoder) == encoder and not file.unmatched
    with pytest.raises(CraftError, match="No name in this LoRA"):
        parse_lora(encoder | pair("something.else", (4, 4)), {}, LAYERS)


def test_a_file_without_tensors_says_so():
    with pytest.raises(CraftError, match="no tensors"):
        parse_lora({}, {}, LAYERS)


def test_a_file_of_an_embedding_alone_says_what_it_is():
    state = {"bundle_emb.word.string_to_param.*": noise(3)}
    with pytest.raises(CraftError, match="an embedding and no LoRA.*models/embeddings"):
        parse_lora(state, {}, LAYERS)


FLUX = {f"double_blocks.{i}.img_attn.{name}": (4, 4) for i in (0, 1) for name in ("qkv", "proj")}


def test_where_only_the_naming_is_unknown_three_of_the_names_are_shown():
    stems = [f"strange.double_blocks.{i}.img_attn_x_{name}" for i in (0, 1) for name in "ab"]
    state = {}
    for stem in stems:
        state |= pair(stem, (4, 4))
    with pytest.raises(CraftError) as caught:
        parse_lora(state, {}, FLUX)
    assert all(stem in caught.value.given for stem in stems[:3])
    assert stems[3] not in str(caught.value) and "and 1 more" in caught.value.given
    assert "look like Flux, and so does the model" in caught.value.possible
    assert "made for this model" not in str(caught.value)


def test_the_naming_may_be_unknown_of_a_model_with_the_same_blocks():
    model = FLUX | {"double_stream_modulation_img.lin": (4, 4)}
    with pytest.raises(CraftError, match="the model like Flux.2.*only the naming"):
        parse_lora(pair("strange.double_blocks.0.x", (4, 4)), {}, model)


def test_tensors_can_be_renamed_before_they_are_looked_up(tmp_path):
    strange = {f"strange.{key}": tensor for key, tensor in lora().items()}
    safetensors.torch.save_file(strange, tmp_path / "a.safetensors")

    def convert(state):
        return {key.removeprefix("strange."): tensor for key, tensor in state.items()}

    assert list(read_lora(tmp_path / "a.safetensors", LAYERS, convert=convert).layers) == [TO_K]
    with pytest.raises(CraftError, match="names of a kind that is not known"):
        read_lora(tmp_path / "a.safetensors", LAYERS)


def test_only_safetensors_are_opened(tmp_path):
    torch.save(lora(), tmp_path / "a.pt")
    with pytest.raises(CraftError, match=r"a\.pt is not a safetensors file"):
        read_lora(tmp_path / "a.pt", LAYERS)
    (tmp_path / "a.pt").rename(tmp_path / "a.safetensors")
    with pytest.raises(CraftError, match=r"a\.safetensors cannot be read"):
        read_lora(tmp_path / "a.safetensors", LAYERS)


@pytest.mark.parametrize("keep", [0, 4, 8, 100, -1])
def test_a_truncated_file_is_one_clear_sentence(tmp_path, keep):
    whole = safetensors.torch.save(lora())
    (tmp_path / "a.safetensors").write_bytes(whole[:keep])
    with pytest.raises(CraftError, match="download it again"):
        read_lora(tmp_path / "a.safetensors", LAYERS)


def test_a_missing_file_and_a_folder_are_clear_too(tmp_path):
    (tmp_path / "folder.safetensors").mkdir()
    for name in ("none.safetensors", "folder.safetensors"):
        with pytest.raises(CraftError, match=f"{name} cannot be read"):
            read_lora(tmp_path / name, LAYERS)


def test_an_error_names_the_file_it_comes_from(tmp_path):
    safetensors.torch.save_file(pair("x", (4, 4)), tmp_path / "my style.SAFETENSORS")
    with pytest.raises(CraftError, match=r"^my style\.SAFETENSORS: No name in this LoRA"):
        read_lora(tmp_path / "my style.SAFETENSORS", LAYERS)


def test_a_file_may_be_replaced_while_its_tensors_are_in_use(tmp_path):
    path = tmp_path / "a.safetensors"
    safetensors.torch.save_file(lora(), path)
    ((factors,),) = read_lora(path, LAYERS).layers.values()
    before = factors.down.clone()
    path.write_bytes(b"\0" * path.stat().st_size)
    assert torch.equal(factors.down, before)
