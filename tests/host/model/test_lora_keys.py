"""LoRA names and factors against the host's own key map, loader and weight patches.

UNets of the true sizes on the meta device; small layers where numbers are compared.
"""

import functools

import comfy.lora
import comfy.model_patcher
import comfy.supported_models
import comfy.utils
import family_loras
import pytest
import tiny
import torch
from craft_lora_pack.comfy_adapter.engine.modules import host_names, model_layers
from craft_lora_pack.craft_core.lora import (
    lora_names,
    parse_lora,
    read_lora,
    unet_diffusers_paths,
    write_lora,
)
from raw_lora import noise, pair
from unet_layers import sd1_layers, sdxl_layers, unet_layers

META = torch.device("meta")
_UNET = {
    "image_size": 32,
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 320,
    "num_res_blocks": [2, 2, 2, 2],
    "channel_mult": [1, 2, 4, 4],
    "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0],
    "transformer_depth_middle": 1,
    "transformer_depth_output": [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0],
    "use_spatial_transformer": True,
    "use_linear_in_transformer": True,
    "legacy": False,
    "adm_in_channels": None,
    "use_temporal_attention": False,
    "dtype": torch.float32,
}
_XL = _UNET | {
    "num_res_blocks": [2, 2, 2],
    "channel_mult": [1, 2, 4],
    "context_dim": 2048,
    "num_classes": "sequential",
    "adm_in_channels": 2816,
    "num_head_channels": 64,
}


def depths(*, down, middle, up):
    return {
        "transformer_depth": down,
        "transformer_depth_middle": middle,
        "transformer_depth_output": up,
    }


CONFIGS = {
    "SD15": _UNET | {"context_dim": 768, "use_linear_in_transformer": False, "num_heads": 8},
    "SD20": _UNET | {"context_dim": 1024, "num_head_channels": 64},
    "SD21UnclipH": _UNET
    | {"context_dim": 1024, "num_head_channels": 64}
    | {"num_classes": "sequential", "adm_in_channels": 2048},
    "SDXL": _XL | depths(down=[0, 0, 2, 2, 10, 10], middle=10, up=[0, 0, 0, 2, 2, 2, 10, 10, 10]),
    "SDXLRefiner": _XL
    | {"model_channels": 384, "num_res_blocks": [2] * 4, "channel_mult": [1, 2, 4, 4]}
    | {"context_dim": 1280, "adm_in_channels": 2560}
    | depths(down=[0, 0, 4, 4, 4, 4, 0, 0], middle=4, up=[0, 0, 0, 4, 4, 4, 4, 4, 4, 0, 0, 0]),
    "SSD1B": _XL | depths(down=[0, 0, 2, 2, 4, 4], middle=-1, up=[0, 0, 0, 1, 1, 2, 10, 4, 4]),
    "Segmind_Vega": _XL
    | depths(down=[0, 0, 1, 1, 2, 2], middle=-1, up=[0, 0, 0, 1, 1, 1, 2, 2, 2]),
    "KOALA_700M": _XL
    | {"num_res_blocks": [1, 1, 1]}
    | depths(down=[0, 2, 5], middle=-2, up=[0, 0, 2, 2, 5, 5]),
}


@functools.cache
def model(name):
    """The host's model of a family, true sizes, without memory for its weights."""
    config = getattr(comfy.supported_models, name)(CONFIGS[name])
    config.unet_config |= CONFIGS[name]
    config.set_inference_dtype(torch.float32, None)
    return config.get_model({}, device=META)


@functools.cache
def layers(name):
    kinds = (torch.nn.Linear, torch.nn.modules.conv._ConvNd)
    modules = model(name).diffusion_model.named_modules()
    return {path: tuple(m.weight.shape) for path, m in modules if isinstance(m, kinds)}


def path_of(key):
    return key.removeprefix("diffusion_model.").removesuffix(".weight")


@functools.cache
def host_map(name):
    """The host's names of linear and convolution weights -> module path."""
    names = comfy.lora.model_lora_keys_unet(model(name), {})
    paths = {stem: path_of(key) for stem, key in names.items() if key.endswith(".weight")}
    return {stem: path for stem, path in paths.items() if path in layers(name)}


@pytest.mark.parametrize(("name", "made"), [("SD15", sd1_layers()), ("SDXL", sdxl_layers())])
def test_the_hand_made_layer_lists_are_the_hosts(name, made):
    assert made == layers(name)


@pytest.mark.parametrize("name", CONFIGS)
def test_every_name_the_host_maps_points_to_the_same_layer(name):
    ours = lora_names(layers(name))
    assert len(host_map(name)) > 5 * len(layers(name))
    wrong = {
        stem: path
        for stem, path in host_map(name).items()
        if stem not in ours or ours[stem].module != path or ours[stem].rows
    }
    assert wrong == {}


@pytest.mark.parametrize("name", CONFIGS)
def test_no_two_layers_of_the_host_share_a_diffusers_name(name):
    """Every layer has one; the host's table agrees on all of them."""
    paths = unet_diffusers_paths(layers(name))
    assert set(paths.values()) == set(layers(name))
    table = comfy.utils.unet_to_diffusers(CONFIGS[name])
    expected = {k[: -len(".weight")]: path_of(v) for k, v in table.items() if k.endswith(".weight")}
    expected = {stem: path for stem, path in expected.items() if path in layers(name)}
    assert expected == paths


def naming(name, style):
    """Stem of every layer of a model in one naming, each layer once."""
    short = {path: stem for stem, path in unet_diffusers_paths(layers(name)).items()}
    if style == "kohya LDM":
        return {"lora_unet_" + path.replace(".", "_"): path for path in layers(name)}
    if style == "generic":
        return {f"diffusion_model.{path}": path for path in layers(name)}
    if style == "kohya diffusers":
        return {"lora_unet_" + stem.replace(".", "_"): path for path, stem in short.items()}
    if style == "LyCORIS":
        return {"lycoris_" + stem.replace(".", "_"): path for path, stem in short.items()}
    if style == "old diffusers":
        return {f"unet.{processor(stem)}": path for path, stem in short.items()}
    if style == "PEFT model":
        return {f"base_model.model.{stem}": path for path, stem in short.items()}
    assert style == "PEFT"
    return {f"unet.{stem}": path for path, stem in short.items()}


def processor(stem):
    return stem.replace(".to_", ".processor.to_").replace(".to_out.0", ".to_out")


def raw(name, style, rank=1):
    """A rank-1 LoRA on every layer."""
    ending = {"old diffusers": "old diffusers", "PEFT": "PEFT", "PEFT model": "PEFT default"}
    state = {}
    for stem, path in naming(name, style).items():
        state |= pair(stem, layers(name)[path], rank, ending.get(style, "kohya"))
    return state


HOST_STYLES = ("kohya LDM", "kohya diffusers", "generic", "LyCORIS", "old diffusers")


@pytest.mark.parametrize("style", HOST_STYLES)
@pytest.mark.parametrize("name", ["SD15", "SDXL", "SSD1B"])
def test_a_file_reaches_the_layers_the_host_loads_it_into(name, style):
    state = raw(name, style)
    names = comfy.lora.model_lora_keys_unet(model(name), {})
    expected = {path_of(key) for key in comfy.lora.load_lora(state, names, log_missing=False)}
    file = parse_lora(state, {}, layers(name))
    assert set(file.layers) == expected == set(layers(name))
    assert list(file.layers) == list(layers(name)) and not file.unmatched


@pytest.mark.parametrize("style", ["PEFT", "PEFT model"])
@pytest.mark.parametrize("name", ["SD15", "SDXL"])
def test_peft_files_reach_every_layer_also_where_the_host_has_no_name(name, style):
    state = raw(name, style)
    names = comfy.lora.model_lora_keys_unet(model(name), {})
    expected = {path_of(key) for key in comfy.lora.load_lora(state, names, log_missing=False)}
    file = parse_lora(state, {}, layers(name))
    assert set(file.layers) == set(layers(name)) and not file.unmatched
    missed = set(layers(name)) - expected
    attention = {path for path in layers(name) if ".to_" in path}
    assert missed == (attention if style == "PEFT" else set(layers(name)))


SMALL = unet_layers((8, 16), (0, 1), 12, middle=1, linear=False)
BLOCK = "input_blocks.4.1.transformer_blocks.0.attn2"
NAME = "down_blocks.1.attentions.0.transformer_blocks.0.attn2"
TO_K, CONV, PROJ = f"{BLOCK}.to_k", "input_blocks.4.0.in_layers.2", "input_blocks.4.1.proj_in"
ALPHA = torch.tensor(5.0)


def kohya(path):
    return "lora_unet_" + path.replace(".", "_")


def loha(stem, out, inputs, rank=2, **cores):
    state = {f"{stem}.hada_{part}": tensor for part, tensor in cores.items()}
    for i in "12":
        a, b = (rank, out) if cores else (out, rank), (rank, inputs)
        state |= {f"{stem}.hada_w{i}_a": noise(*a, seed=int(i))}
        state |= {f"{stem}.hada_w{i}_b": noise(*b, seed=int(i) + 7)}
    return state


def raw_update(kind):
    """(stem, module path, tensors) of one small update."""
    match kind:
        case "kohya linear":
            return kohya(TO_K), TO_K, pair(kohya(TO_K), SMALL[TO_K], 3)
        case "kohya conv":
            return kohya(CONV), CONV, pair(kohya(CONV), SMALL[CONV], 3)
        case "linear on a 1x1 convolution":
            return kohya(PROJ), PROJ, pair(kohya(PROJ), SMALL[PROJ][:2], 3)
        case "LoCon with mid":
            shape = (*SMALL[CONV][:2], 1, 1)
            mid = {f"{kohya(CONV)}.lora_mid.weight": noise(3, 3, 3, 3, seed=4)}
            return kohya(CONV), CONV, pair(kohya(CONV), shape, 3) | mid
        case "old diffusers":
            stem = f"unet.{NAME}.processor.to_k"
            return stem, TO_K, pair(stem, SMALL[TO_K], 3, "old diffusers")
        case "PEFT":
            return f"unet.{NAME}.to_k", TO_K, pair(f"unet.{NAME}.to_k", SMALL[TO_K], 3, "PEFT")
        case "LoHa linear":
            return kohya(TO_K), TO_K, loha(kohya(TO_K), *SMALL[TO_K])
        case "LoHa beyond the layer's rank":
            return kohya(TO_K), TO_K, loha(kohya(TO_K), *SMALL[TO_K], rank=5)
        case "LoHa conv":
            return kohya(CONV), CONV, loha(kohya(CONV), SMALL[CONV][0], SMALL[CONV][1] * 9)
        case "LoHa Tucker":
            cores = {"t1": noise(2, 2, 3, 3), "t2": noise(2, 2, 3, 3, seed=3)}
            return kohya(CONV), CONV, loha(kohya(CONV), *SMALL[CONV][:2], **cores)
    raise AssertionError(kind)


KINDS = (
    "kohya linear",
    "kohya conv",
    "linear on a 1x1 convolution",
    "LoCon with mid",
    "old diffusers",
    "PEFT",
    "LoHa linear",
    "LoHa beyond the layer's rank",
    "LoHa conv",
    "LoHa Tucker",
)


def host_weight(state, stem, key, weight, strength):
    """What the host makes of the weight with the file's update of one layer."""
    ((target, adapter),) = comfy.lora.load_lora(state, {stem: key}, log_missing=False).items()
    offset = None if isinstance(target, str) else target[1]
    patch = (strength, adapter, 1.0, offset, None)
    return comfy.lora.calculate_weight([patch], weight.clone(), "key")


def assert_same(left, right):
    """To float32 rounding of the products' size."""
    assert (left - right).abs().max() <= 1e-6 * max(1.0, right.abs().max().item())


@pytest.mark.parametrize("with_alpha", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("kind", KINDS)
def test_our_delta_is_the_hosts_patch(kind, dtype, with_alpha):
    stem, path, state = raw_update(kind)
    state = {key: tensor.to(dtype) for key, tensor in state.items()}
    state |= {f"{stem}.alpha": ALPHA} if with_alpha else {}
    weight = noise(*SMALL[path], seed=11)
    (factors,) = parse_lora(state, {}, SMALL).layers[path]
    ours = weight + 0.7 * factors.delta()
    assert_same(ours, host_weight(state, stem, "key", weight, 0.7))


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_we_wrote_is_the_same_update_to_the_host(kind, tmp_path):
    stem, path, state = raw_update(kind)
    file = parse_lora(state | {f"{stem}.alpha": ALPHA}, {}, SMALL)
    write_lora(tmp_path / "a.safetensors", file.layers, shapes=SMALL)
    written = comfy.utils.load_torch_file(str(tmp_path / "a.safetensors"), safe_load=True)
    weight = noise(*SMALL[path], seed=11)
    (factors,) = read_lora(tmp_path / "a.safetensors", SMALL).layers[path]
    ours = weight - 1.3 * factors.delta()
    assert_same(ours, host_weight(written, kohya(path), "key", weight, -1.3))


@functools.cache
def flux():
    config = {
        "image_model": "flux",
        "in_channels": 16,
        "out_channels": 16,
        "vec_in_dim": 12,
        "context_in_dim": 20,
        "hidden_size": 32,
        "mlp_ratio": 4.0,
        "num_heads": 2,
        "depth": 2,
        "depth_single_blocks": 2,
        "axes_dim": [4, 6, 6],
        "theta": 10000,
        "patch_size": 2,
        "qkv_bias": True,
        "guidance_embed": True,
        "txt_ids_dims": [],
        "dtype": torch.float32,
    }
    kind = comfy.supported_models.Flux(config)
    kind.set_inference_dtype(torch.float32, None)
    made = kind.get_model({}, device=META)
    return made, comfy.model_patcher.ModelPatcher(made, META, META)


def test_fused_slices_of_flux_are_the_hosts():
    """q, k, v and mlp of a fused layer, under the diffusers names only the host knows."""
    made, patcher = flux()
    shapes, names = model_layers(patcher), comfy.lora.model_lora_keys_unet(made, {})
    stems = [
        "transformer.transformer_blocks.1.attn.add_k_proj",
        "transformer.single_transformer_blocks.0.attn.to_v",
        "transformer.single_transformer_blocks.0.proj_mlp",
        "lora_transformer_transformer_blocks_0_attn_to_q",
    ]
    for stem in stems:
        key, (_, start, length) = names[stem]
        path = path_of(key)
        state = pair(stem, (length, shapes[path][1]), 3, "PEFT") | {f"{stem}.alpha": ALPHA}
        (factors,) = parse_lora(state, {}, shapes, host_names(patcher)).layers[path]
        assert factors.rows == (start, length)
        weight = noise(*shapes[path], seed=11)
        expected = host_weight(state, stem, names[stem], weight.clone(), 0.7)
        weight[start : start + length] += 0.7 * factors.delta()
        assert_same(weight, expected)


def test_the_hosts_names_of_flux_never_contradict_ours():
    _, patcher = flux()
    shapes, extra = model_layers(patcher), host_names(patcher)
    names = lora_names(shapes, extra)
    assert all(names[stem] == target for stem, target in extra.items() if target.module in shapes)
    assert names["transformer.transformer_blocks.0.attn.to_k"].rows == (32, 32)


DITS = {"flux": tiny.flux, "z_image": tiny.z_image, "qwen_image": tiny.qwen_image}


@pytest.mark.parametrize("family", DITS)
def test_every_name_the_host_maps_for_a_dit_points_to_the_same_rows(family):
    patcher = DITS[family]()
    shapes = model_layers(patcher)
    names = lora_names(shapes, host_names(patcher))
    checked, reordered = 0, set()
    for stem, value in comfy.lora.model_lora_keys_unet(patcher.model, {}).items():
        key, offset, *reorder = (value, None) if isinstance(value, str) else value
        if not key.endswith(".weight") or path_of(key) not in shapes:
            continue
        if reorder:
            reordered.add(path_of(key))
            continue
        rows = None if offset is None else (offset[1], offset[2])
        assert (names[stem].module, names[stem].rows) == (path_of(key), rows)
        checked += 1
    assert checked > 3 * len(shapes)
    assert reordered == ({"final_layer.adaLN_modulation.1"} if family == "flux" else set())


def by_the_host(patcher, state):
    """{module path: what the host's loader adds to the weight} of a file."""
    names = comfy.lora.model_lora_keys_unet(patcher.model, {})
    shapes, patches = model_layers(patcher), {}
    for target, adapter in comfy.lora.load_lora(state, names, log_missing=False).items():
        key, offset = (target, None) if isinstance(target, str) else target
        patches.setdefault(path_of(key), []).append((1.0, adapter, 1.0, offset, None))
    return {
        path: comfy.lora.calculate_weight(found, torch.zeros(shapes[path]), path)
        for path, found in patches.items()
    }


def by_us(patcher, state):
    shapes = model_layers(patcher)
    file = parse_lora(state, {}, shapes, host_names(patcher))
    assert not file.unmatched
    found = {path: torch.zeros(shapes[path]) for path in file.layers}
    for path, updates in file.layers.items():
        for one in updates:
            start, length = one.rows or (0, shapes[path][0])
            found[path][start : start + length] += one.delta()
    return found


FILES = {
    "flux diffusers": ("flux", family_loras.FLUX_DIFFUSERS, True),
    "flux kohya": ("flux", family_loras.KOHYA, True),
    "z-image ai-toolkit": ("z_image", family_loras.Z_IMAGE_AI_TOOLKIT, True),
    "z-image musubi": ("z_image", family_loras.Z_IMAGE_MUSUBI, False),
    "z-image kohya": ("z_image", family_loras.KOHYA, True),
    "qwen DiffSynth": ("qwen_image", family_loras.QWEN_DIFFSYNTH, True),
    "qwen diffusers": ("qwen_image", family_loras.QWEN_DIFFUSERS, True),
    "qwen musubi": ("qwen_image", family_loras.KOHYA, True),
}


@pytest.mark.parametrize("kind", FILES)
def test_a_dits_file_is_the_matrices_it_was_made_of(kind):
    """The same as the host makes of it, where the host reads all of that naming."""
    family, naming, hosts = FILES[kind]
    patcher = DITS[family]()
    state, deltas = naming.file(model_layers(patcher), 3, seed=5)
    for found in [by_us(patcher, state), *([by_the_host(patcher, state)] if hosts else [])]:
        assert found.keys() == deltas.keys()
        for path, delta in deltas.items():
            assert_same(found[path], delta)
