"""Names of LoRA files against the host's own LoraLoader: the same file, the same samples."""

from __future__ import annotations

import json

import comfy.lora
import comfy.lora_convert
import comfy.sample
import family_loras
import folder_paths
import nodes
import oracle
import pair_parts
import pytest
import safetensors.torch
import tiny
import torch
from adapter_samples import SAMPLES, whole_file
from craft_lora_pack.comfy_adapter.engine import engine
from craft_lora_pack.comfy_adapter.engine.bank import BranchModule, layer_parts
from craft_lora_pack.comfy_adapter.engine.modules import host_names, model_layers
from craft_lora_pack.comfy_adapter.model.lora_files import BranchFile, branch, read_branch_file
from craft_lora_pack.comfy_adapter.use.fuse_file import FuseRequest, fuse_branches
from craft_lora_pack.comfy_adapter.use.router import RouterRequest, route
from craft_lora_pack.craft_core.errors import CraftError
from craft_lora_pack.craft_core.fusion.compose import compose
from craft_lora_pack.craft_core.lora import lora_names, parse_lora
from craft_lora_pack.craft_core.lora.keys import kohya_name
from craft_lora_pack.craft_core.types import Bank, LayerTarget, constant_gates
from raw_lora import noise, pair

LOADERS = {
    "sdxl": tiny.sdxl,
    "sd3": tiny.sd3,
    "flux": tiny.flux,
    "z_image": tiny.z_image,
    "qwen_image": tiny.qwen_image,
    "wan": tiny.wan,
    "hunyuan_video": tiny.hunyuan_video,
}
POSITIVE, NEGATIVE = tiny.conditioning(1), tiny.conditioning(2)


def sampled(model):
    empty = {
        "samples": comfy.sample.fix_empty_latent_channels(model, tiny.latent(size=8)["samples"])
    }
    return oracle.sample(oracle.guider(model, POSITIVE, NEGATIVE), empty, steps=3)


def saved(folder, state, metadata=None):
    safetensors.torch.save_file({k: t.clone() for k, t in state.items()},
                                folder / "a.safetensors", metadata)  # fmt: skip
    return folder / "a.safetensors"


def routed(model, path, strength=0.8, allow=False):
    """(MODEL with the file as a branch, the file as read)"""
    chosen = BranchFile("a", "content", strength, path=str(path))
    file = read_branch_file(chosen, model, allow)
    bank = Bank.of([branch(chosen, file)], list(model_layers(model)))
    ones = constant_gates(torch.ones(len(bank.layers), 1))
    return engine.attach(model, bank, compose(ones, bank)), file


def loaded(model, path, monkeypatch, strength=0.8):
    """What the host's LoraLoader makes of the file."""
    monkeypatch.setattr("folder_paths.get_full_path_or_raise", lambda kind, name: str(path))
    return nodes.LoraLoaderModelOnly().load_lora_model_only(model, "a", strength)[0]


def assert_the_hosts(model, path, monkeypatch, *, matters=0.005):
    ours, file = routed(model, path)
    theirs = sampled(loaded(model, path, monkeypatch))
    assert not file.unmatched
    assert oracle.distance(theirs, sampled(model)) > matters
    assert oracle.distance(sampled(ours), theirs) <= oracle.LAW
    return file


REORDERED = {  # names whose outputs the host reorders -> the layer
    ("flux", "transformer.norm_out.linear"): "final_layer.adaLN_modulation.1",
    ("sd3", "transformer.norm_out.linear"): "final_layer.adaLN_modulation.1",
    ("sd3", "lycoris_transformer_blocks_1_norm1_context_linear"):
        "joint_blocks.1.context_block.adaLN_modulation.1",
}  # fmt: skip


@pytest.mark.parametrize("kind", ["LoRA", "LoHa", "LoKr"])
@pytest.mark.parametrize(("family", "stem"), REORDERED)
def test_a_layer_whose_outputs_diffusers_orders_otherwise_is_the_hosts(
    family, stem, kind, tmp_path, monkeypatch
):
    model = LOADERS[family]()
    shape = model_layers(model)[REORDERED[family, stem]]
    state, _ = whole_file(kind, {stem: shape}, seed=3, size=2.0)
    file = assert_the_hosts(model, saved(tmp_path, state), monkeypatch)
    assert list(file.layers) == [REORDERED[family, stem]]


def of_the_host(patcher):
    """(stem, module, rows, reordering function) of every name that the host maps to a layer."""
    shapes = model_layers(patcher)
    for stem, value in comfy.lora.model_lora_keys_unet(patcher.model, {}).items():
        key, offset, function = ((value,) if isinstance(value, str) else value) + (None,) * (
            3 - (1 if isinstance(value, str) else len(value))
        )
        module = key.removeprefix("diffusion_model.").removesuffix(".weight")
        if key.endswith(".weight") and module in shapes:
            yield stem, module, offset and offset[1:], function


@pytest.mark.parametrize("family", LOADERS)
def test_every_name_of_the_host_is_read_into_the_same_numbers(family):
    """Each alone: what our reader and the host's loader add to the weight."""
    patcher = LOADERS[family]()
    shapes = model_layers(patcher)
    extra, counted = host_names(patcher), 0
    names = lora_names(shapes, extra)
    for stem, module, rows, function in of_the_host(patcher):
        target = names[stem]
        assert (target.module, target.rows, target.columns) == (module, rows, None)
        assert (target.order is None) == (function is None)
        if function is not None:
            weight = torch.randn(shapes[module])
            pieces = [weight[start : start + length] for start, length in target.order]
            assert torch.equal(torch.cat(pieces), function(weight))
        counted += 1
    assert counted >= 2 * len(shapes)


@pytest.mark.parametrize("family", LOADERS)
def test_prefixes_and_underscores_hide_no_layer(family):
    """No two layers of a family share a name once prefix and dots are gone."""
    patcher = LOADERS[family]()
    names = lora_names(model_layers(patcher), host_names(patcher))
    for path in model_layers(patcher):
        flat = path.replace(".", "_")
        for stem in (f"lycoris_{flat}", f"transformer.{path}", f"diffusion_model.{flat}", path):
            assert names[stem] == LayerTarget(path)


def test_the_inputs_of_a_layer_can_be_a_slice():
    """As a further host may map them: an offset along the second axis."""
    patcher = tiny.flux()
    module = "single_blocks.0.linear2"
    out, inputs = model_layers(patcher)[module]
    original = comfy.lora.model_lora_keys_unet

    def mapped(model, names):
        key = f"diffusion_model.{module}.weight"
        return original(model, names) | {"attention_part": (key, (1, 64, inputs - 64))}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(comfy.lora, "model_lora_keys_unet", mapped)
        extra = host_names(patcher)
    assert extra["attention_part"] == LayerTarget(module, columns=(64, inputs - 64))
    state = pair("attention_part", (out, inputs - 64))
    (update,) = parse_lora(state, {}, model_layers(patcher), extra).layers[module]
    offset = (1, 64, inputs - 64)
    names = {"attention_part": (f"diffusion_model.{module}.weight", offset)}
    ((_, adapter),) = comfy.lora.load_lora(state, names, log_missing=False).items()
    theirs = comfy.lora.calculate_weight(
        [(1.0, adapter, 1.0, offset, None)], torch.zeros(out, inputs), "key"
    )
    assert (update.delta() - theirs).abs().max() <= 1e-5


DROPPED = {  # files that the host's loader leaves out, in whole or in part
    "wan diffusers": ("wan", family_loras.WAN_DIFFUSERS),
    "wan transformer": ("wan", family_loras.TRANSFORMER),
    "wan lycoris": ("wan", family_loras.LYCORIS),
    "hunyuan diffusers": ("hunyuan_video", family_loras.HUNYUAN_DIFFUSERS),
    "hunyuan musubi": ("hunyuan_video", family_loras.HUNYUAN_MUSUBI),
    "hunyuan 1.5 musubi": ("hunyuan_video", family_loras.HUNYUAN_15_MUSUBI),
    "flux underscores": ("flux", family_loras.FLUX_UNDERSCORES),
    "z-image musubi": ("z_image", family_loras.Z_IMAGE_MUSUBI),
}


@pytest.mark.parametrize("kind", DROPPED)
def test_a_file_whose_names_the_host_drops_acts_as_its_matrices_do(kind, tmp_path, monkeypatch):
    """The host is given the matrices themselves, under names that it has."""
    family, naming = DROPPED[kind]
    model = LOADERS[family]()
    state, deltas = naming.file(model_layers(model), 3, seed=5)
    names = comfy.lora.model_lora_keys_unet(model.model, {})
    known = comfy.lora.load_lora(state, names, log_missing=False)
    assert len(known) < len({stem for stem, *_ in naming.places(model_layers(model))})
    ours, file = routed(model, saved(tmp_path, state))
    assert not file.unmatched and file.layers.keys() == deltas.keys()
    whole = {f"{kohya_name(path)}.diff": delta for path, delta in deltas.items()}
    theirs = sampled(loaded(model, saved(tmp_path, whole), monkeypatch))
    assert oracle.distance(theirs, sampled(model)) > 0.02
    assert oracle.distance(sampled(ours), theirs) <= oracle.LAW


DORAS = {
    "wan": ("transformer.blocks.1.attn1.to_qkv",
            [f"blocks.1.self_attn.{part}" for part in "qkv"], (192, 64)),
    "flux": ("transformer.norm_out.linear", ["final_layer.adaLN_modulation.1"], (128, 64)),
}  # fmt: skip


@pytest.mark.parametrize("family", DORAS)
def test_a_dora_of_a_fused_or_reordered_layer_is_the_hosts(family, tmp_path, monkeypatch):
    """Of a fused one the host is given what its newer loaders divide it into."""
    model = LOADERS[family]()
    stem, paths, shape = DORAS[family]
    state = SAMPLES["DoRA"]["over LoRA"](shape, 3).named(stem)
    ours, file = routed(model, saved(tmp_path, state))
    assert list(file.layers) == paths
    if len(paths) > 1:
        divided = {}
        for number, path in enumerate(paths):
            rows = slice(64 * number, 64 * (number + 1))
            for ending in ("lora_up.weight", "dora_scale"):
                divided[f"{kohya_name(path)}.{ending}"] = state[f"{stem}.{ending}"][rows]
            for ending in ("lora_down.weight", "alpha"):
                divided[f"{kohya_name(path)}.{ending}"] = state[f"{stem}.{ending}"]
        state = divided
    theirs = sampled(loaded(model, saved(tmp_path, state), monkeypatch))
    assert oracle.distance(theirs, sampled(model)) > 0.005
    assert oracle.distance(sampled(ours), theirs) <= oracle.LAW


APART = {  # a fused layer in the file -> the host's layers, from top to bottom
    "wan": ("transformer.blocks.1.attn1.to_qkv",
            [f"blocks.1.self_attn.{part}" for part in "qkv"]),
    "sdxl": ("lycoris_down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_kv",
             [f"input_blocks.3.1.transformer_blocks.0.attn2.to_{part}" for part in "kv"]),
    "flux": ("lycoris_transformer_blocks_1_attn_to_added_qkv", ["double_blocks.1.txt_attn.qkv"]),
}  # fmt: skip


@pytest.mark.parametrize("kind", ["LoRA", "LoHa", "LoKr"])
@pytest.mark.parametrize("family", APART)
def test_a_layer_that_the_trainer_fused_is_its_parts(family, kind, tmp_path, monkeypatch):
    """As LyCORIS saves projections that SimpleTuner has fused; the host is given the matrices."""
    model = LOADERS[family]()
    (stem, paths), shapes = APART[family], model_layers(model)
    outputs = [shapes[path][0] for path in paths]
    whole_shape = (sum(outputs), shapes[paths[0]][1])
    state, deltas = whole_file(kind, {stem: whole_shape}, seed=3, size=1.0)
    ours, file = routed(model, saved(tmp_path, state))
    assert list(file.layers) == paths and not file.unmatched
    rows = deltas[stem].split(outputs)
    whole = {f"{kohya_name(path)}.diff": d for path, d in zip(paths, rows, strict=True)}
    theirs = sampled(loaded(model, saved(tmp_path, whole), monkeypatch))
    assert oracle.distance(theirs, sampled(model)) > 0.005
    assert oracle.distance(sampled(ours), theirs) <= oracle.LAW


@pytest.mark.parametrize("kind", ["LoRA", "LoHa", "LoKr"])
def test_what_the_parts_of_a_fused_layer_share_is_held_once(kind):
    """On the device, too, and in a copy for another one; each part finds its own there."""
    (stem, paths), model = APART["wan"], tiny.wan()
    shapes = model_layers(model)
    out, inputs = shapes[paths[0]]
    state, _ = whole_file(kind, {stem: (len(paths) * out, inputs)}, seed=3)
    file = parse_lora(state, {}, shapes, host_names(model))
    assert list(file.layers) == paths
    module = BranchModule(file.layers, torch.bfloat16)
    for held in (module, module.own_copy()):
        numbers = sum(one.numel() for one in held.parameters())
        assert numbers <= 1.1 * sum(tensor.numel() for tensor in state.values())
        for path, (update,) in file.layers.items():
            (part,) = layer_parts(path, [file.layers], [held])
            for field, tensor in update.tensors().items():
                assert torch.equal(part.held(field), tensor.bfloat16())


def test_the_table_of_hunyuan_video_swaps_the_halves_that_diffusers_swaps():
    """As its conversion script does: (shift, scale) there is (scale, shift) here."""
    patcher = tiny.hunyuan_video()
    shapes = model_layers(patcher)
    out, inputs = shapes["final_layer.adaLN_modulation.1"]
    state = pair("transformer.norm_out.linear", (out, inputs), ending="PEFT")
    (update,) = parse_lora(state, {}, shapes, host_names(patcher)).layers.popitem()[1]
    up, down = state["transformer.norm_out.linear.lora_B.weight"], update.down
    shift, scale = (up @ down).chunk(2)
    assert torch.equal(update.delta(), torch.cat([scale, shift]))


def under_flux(stems, rank=3, seed=7):
    """Random factors under USO's endings, by stem and layer shape."""
    state = {}
    for number, (stem, shape) in enumerate(stems.items()):
        down, up = pair(stem, shape, rank, seed=seed + 3 * number).values()
        state |= {f"{stem}.down.weight": down / shape[1] ** 0.5, f"{stem}.up.weight": 0.1 * up}
    return state


def test_a_file_of_uso_is_the_hosts(tmp_path, monkeypatch):
    """Known by its last blocks, so the model has as many as Flux."""
    model = tiny.flux(depth=19, depth_single_blocks=38)
    wide = 64
    state = under_flux({
        "double_blocks.0.processor.qkv_lora1": (3 * wide, wide),
        "double_blocks.18.processor.qkv_lora2": (3 * wide, wide),
        "double_blocks.1.processor.proj_lora1": (wide, wide),
        "double_blocks.1.processor.proj_lora2": (wide, wide),
        "single_blocks.37.processor.qkv_lora": (3 * wide, wide),
        "single_blocks.2.processor.proj_lora": (wide, 5 * wide),
    })  # fmt: skip
    file = assert_the_hosts(model, saved(tmp_path, state), monkeypatch)
    (part,) = file.layers["single_blocks.37.linear1"]
    assert part.rows == (0, 3 * wide) and len(file.layers) == 6


def test_a_file_of_wan_fun_is_the_hosts(tmp_path, monkeypatch):
    model = tiny.wan()
    layers = {path: shape for path, shape in model_layers(model).items() if "blocks" in path}
    state, _ = family_loras.Naming("lora_unet__", True, "kohya").file(layers, 3, seed=5)
    file = assert_the_hosts(model, saved(tmp_path, state), monkeypatch)
    assert file.layers.keys() == layers.keys()


def control_lora(model):
    """As BFL writes its control LoRAs: factors, biases, and replaced norms."""
    shapes = model_layers(model)
    state = {"single_blocks.0.norm.key_norm.scale": torch.ones(16)}
    for stem in ("img_in", "double_blocks.0.img_attn.qkv", "single_blocks.1.linear2"):
        down, up = pair(stem, shapes[stem], 3, "PEFT").values()
        state |= {f"{stem}.lora_A.weight": down / shapes[stem][1] ** 0.5,
                  f"{stem}.lora_B.weight": 0.1 * up,
                  f"{stem}.lora_B.bias": 0.1 * noise(len(up), seed=4)}  # fmt: skip
    return state


def test_a_control_lora_of_bfl_is_the_hosts_but_for_what_no_branch_can_do(tmp_path, monkeypatch):
    """It replaces norms and widens the first layer: refused by name, or left out where allowed."""
    model = tiny.flux()
    converted = comfy.lora_convert.convert_lora(control_lora(model))
    kept = {key: t for key, t in converted.items()
            if not key.endswith((".set_weight", ".reshape_weight"))}  # fmt: skip
    assert len(kept) == len(converted) - 2
    theirs = sampled(loaded(model, saved(tmp_path, kept), monkeypatch))
    path = saved(tmp_path, control_lora(model))
    with pytest.raises(CraftError, match="replaced weight.*key_norm.set_weight"):
        routed(model, path)
    ours, file = routed(model, path, allow=True)
    assert len(file.layers) == 3 and len(file.faults) == 1
    assert oracle.distance(theirs, sampled(model)) > 0.005
    assert oracle.distance(sampled(ours), theirs) <= oracle.LAW


WIDE = {"fc1": (64, 48), "fc2": (48, 64)}
TEXTS = {f"text_encoder.text_model.encoder.layers.0.mlp.{name}": WIDE[name] for name in WIDE}
PEFT = {"lora_adapter_metadata": json.dumps({
    "unet.r": 3, "unet.lora_alpha": 6, "unet.use_rslora": True,
    "text_encoder.r": 3, "text_encoder.lora_alpha": 1.5,
})}  # fmt: skip
UNET_SCALE, TEXT_SCALE = 6 / 3**0.5, 0.5


def peft_file(folder, model, *, layers=True):
    """(a file with its scales in the metadata, one with the same as alpha tensors)"""
    state = {}
    for number, (stem, shape) in enumerate(TEXTS.items()):
        state |= pair(stem, shape, 3, "PEFT", seed=number)
    if layers:
        path, stem = "input_blocks.1.1.proj_in", "unet.down_blocks.0.attentions.0.proj_in"
        down, up = pair(stem, model_layers(model)[path], 3, "PEFT").values()
        state |= {f"{stem}.lora_A.weight": 0.3 * down, f"{stem}.lora_B.weight": 0.3 * up}
    alphas = {
        key.replace("lora_A.weight", "alpha"): torch.tensor(
            3 * (UNET_SCALE if key.startswith("unet") else TEXT_SCALE)
        )
        for key in state
        if key.endswith("lora_A.weight")
    }
    for name, tensors, metadata in (("stated", state, PEFT), ("explicit", state | alphas, None)):
        safetensors.torch.save_file(tensors, folder / f"{name}.safetensors", metadata)


@pytest.fixture
def folder(tmp_path):
    folder_paths.add_model_folder_path("loras", str(tmp_path))
    folder_paths.filename_list_cache.clear()
    yield tmp_path
    folder_paths.folder_names_and_paths["loras"][0].remove(str(tmp_path))
    folder_paths.filename_list_cache.clear()


PROMPT = "a cat in ink"


def encoded(clip):
    return clip.encode_from_tokens_scheduled(clip.tokenize(PROMPT))[0][0]


def router(model, clip, *names, stack=()):
    branches = tuple(BranchFile(f"{name}.safetensors", "content", 0.8) for name in names)
    request = RouterRequest(PROMPT, branches, "all", {"method": "direct"})
    return route(model, clip, request, stack)


def test_scales_in_the_metadata_count_in_the_text_encoder_as_in_the_layers(folder):
    model, clip = tiny.sd15(), pair_parts.tiny_clip()
    peft_file(folder, model)
    theirs, their_clip = nodes.LoraLoader().load_lora(model, clip, "explicit.safetensors", 0.8, 0.8)
    unscaled, plain_clip = nodes.LoraLoader().load_lora(model, clip, "stated.safetensors", 0.8, 0.8)
    ours = router(model, clip, "stated")
    assert oracle.distance(sampled(ours.model), sampled(theirs)) <= oracle.LAW
    assert oracle.distance(sampled(unscaled), sampled(theirs)) > 0.005
    words = ours.conditioning[0][0]
    assert oracle.distance(words, encoded(their_clip)) <= oracle.LAW
    assert oracle.distance(encoded(plain_clip), encoded(their_clip)) > 0.005
    assert "1 layer and 2 text-encoder matrices are scaled by the alpha" in ours.report


def test_scales_in_the_metadata_count_in_a_lora_stack(folder):
    model, clip = tiny.sd15(), pair_parts.tiny_clip()
    peft_file(folder, model)
    theirs, their_clip = nodes.LoraLoader().load_lora(model, clip, "explicit.safetensors", 0.8, 0.6)
    ours = router(model, clip, stack=[("stated.safetensors", 0.8, 0.6)])
    assert torch.equal(sampled(ours.model), sampled(theirs))
    assert torch.equal(ours.conditioning[0][0], encoded(their_clip))
    assert "Stack stated.safetensors: 1 layer and 2 text-encoder matrices" in ours.report


def test_a_file_of_text_encoder_keys_alone_is_a_branch(folder):
    model, clip = tiny.sd15(), pair_parts.tiny_clip()
    peft_file(folder, model, layers=False)
    _, their_clip = nodes.LoraLoader().load_lora(model, clip, "explicit.safetensors", 0.8, 0.8)
    ours = router(model, clip, "explicit")
    assert oracle.distance(ours.conditioning[0][0], encoded(their_clip)) <= oracle.LAW
    assert oracle.distance(encoded(clip), encoded(their_clip)) > 0.005
    assert torch.equal(sampled(ours.model), sampled(model))
    assert "acts on the text encoder alone" in ours.report


@pytest.mark.parametrize("method", ["direct", "svd"])
def test_files_of_text_encoder_keys_alone_fuse_into_one(folder, method):
    model = tiny.sd15()
    peft_file(folder, model, layers=False)
    branches = tuple(
        BranchFile(f"{name}.safetensors", role, strength)
        for name, role, strength in (("stated", "content", 0.8), ("explicit", "style", 0.4))
    )
    request = FuseRequest(branches, "all", {"method": method}, save_as="fp32")
    made = fuse_branches(model, request, lambda done, total: None)
    made.write(folder / "fused.safetensors")
    clip = pair_parts.tiny_clip()
    _, fused = nodes.LoraLoader().load_lora(model, clip, "fused.safetensors", 1.0, 1.0)
    _, twice = nodes.LoraLoader().load_lora(model, clip, "explicit.safetensors", 0.8, 0.8)
    _, twice = nodes.LoraLoader().load_lora(model, twice, "explicit.safetensors", 0.4, 0.4)
    assert oracle.distance(encoded(fused), encoded(twice)) <= oracle.LAW
