"""Load Rank-Limited UNet in the real host: what it samples is W - Q Q^T W, by other means."""

from __future__ import annotations

import asyncio

import comfy.float
import comfy.model_patcher
import comfy.ops
import comfy.sd
import comfy.utils
import execution
import folder_paths
import nodes as host_nodes
import oracle
import pytest
import tiny
import torch
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
from comfy.quant_ops import QuantizedTensor
from craft_lora_pack.comfy_adapter.engine.modules import model_layers
from craft_lora_pack.comfy_adapter.model import basis as adapter
from craft_lora_pack.craft_core.errors import CraftError
from craft_lora_pack.craft_core.lora import write_lora
from craft_lora_pack.craft_core.projection import (
    Basis,
    LayerBasis,
    dimension,
    export_lora,
    orthonormal,
    write_basis,
)
from craft_lora_pack.nodes.rank_limited import LoadRankLimitedUNet
from oracle import LAW, distance

FAMILIES = {"sd15": tiny.sd15, "sdxl": tiny.sdxl}
NODE = "CRAFTLoadRankLimitedUNet"


def random_basis(layers, side="output", content=3, style=2, seed=7) -> Basis:
    """Random orthonormal bases for every layer except the last convolution, which is too small."""
    generator = torch.Generator().manual_seed(seed)

    def q(shape, rank):
        return orthonormal(torch.randn(dimension(shape, side), rank, generator=generator))

    pairs = {path: LayerBasis(q(s, content), q(s, style)) for path, s in layers.items() if s[0] > 4}
    return Basis(pairs, side=side)


def sample(model):
    """The host's KSampler node on a MODEL."""
    with torch.inference_mode():
        (result,) = host_nodes.KSampler().sample(
            model, 3, 3, 4.0, "euler", "normal",
            tiny.conditioning(1), tiny.conditioning(2), tiny.latent(),
        )  # fmt: skip
    return result["samples"].clone()


def forward(model, size=8):
    """One model call, without the host's loading."""
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(1, 4, size, size, generator=generator)
    context = torch.randn(1, 7, tiny.CONTEXT, generator=generator)
    with torch.inference_mode():
        return model.model.diffusion_model(x, torch.tensor([500.0]), context)


def weights(model) -> dict[str, torch.Tensor]:
    state = model.model.diffusion_model.state_dict()
    return {path: state[f"{path}.weight"] for path in model_layers(model)}


def minus(weight, q, side="output", strength=1.0):
    """W - strength * Q Q^T W written out in float64, in the weight's dtype."""
    flat, q = weight.double().flatten(1), q.double()
    inside = q @ q.T @ flat if side == "output" else flat @ q @ q.T
    return (flat - strength * inside).reshape(weight.shape).float().to(weight.dtype)


def fp8_sd15():
    """The SD1.x model with its layers' weights stored as float8, as a weight_dtype setting does."""
    model = tiny.sd15(torch.float16)  # computes in float32, like every cast model here
    paths = model_layers(model)
    for path, module in model.model.diffusion_model.named_modules():
        if path in paths:
            weight = module.weight.to(torch.float8_e4m3fn)
            module.weight = torch.nn.Parameter(weight, requires_grad=False)
    return model


def with_projected_weights(make, basis, which="both", strength=1.0):
    """The same model with W - strength * Q Q^T W put in place by hand."""
    model = make()
    found = weights(model)
    for path, q in basis.select(which).items():
        found[path].copy_(minus(found[path], q, basis.side, strength))
    return model


@pytest.mark.parametrize("side", ["output", "input"])
@pytest.mark.parametrize("family", FAMILIES)
def test_sampling_equals_a_model_of_projected_weights(family, side):
    make = FAMILIES[family]
    basis = random_basis(model_layers(make()), side)
    base = sample(make())
    for which, strength in [("both", 1.0), ("style", 0.4)]:
        projected = with_projected_weights(make, basis, which, strength)
        expected, again = sample(projected), sample(oracle.row_by_row(projected))
        actual = sample(adapter.apply_basis(make(), basis, which, strength))
        assert distance(actual, expected) <= oracle.law(expected, again)
        assert distance(base, expected) > 100 * LAW


def test_strength_zero_is_the_model_bitwise():
    model = tiny.sd15()
    basis = random_basis(model_layers(model))
    assert torch.equal(sample(adapter.apply_basis(model, basis, strength=0.0)), sample(model))


def test_the_model_given_stays_what_it_was_bitwise():
    model = tiny.sd15()
    before, samples = {p: w.clone() for p, w in weights(model).items()}, sample(model)
    limited = adapter.apply_basis(model, random_basis(model_layers(model)))
    assert model.patches == {}
    assert not torch.equal(sample(limited), samples)
    assert torch.equal(sample(model), samples)
    limited.unpatch_model()
    assert all(torch.equal(w, before[p]) for p, w in weights(model).items())


@pytest.mark.parametrize("side", ["output", "input"])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_exported_lora_in_the_hosts_loader_is_the_same_model(family, side, tmp_path):
    model = FAMILIES[family]()
    basis = random_basis(model_layers(model), side)
    base = {path: adapter.base_weight(model, path) for path in basis.layers}
    file = str(tmp_path / "lora.safetensors")
    write_lora(file, export_lora(basis, base, strength=0.8))
    state = comfy.utils.load_torch_file(file, safe_load=True)
    exported, _ = comfy.sd.load_lora_for_models(model, None, state, 1.0, 0.0)
    limited = adapter.apply_basis(model, basis, strength=0.8)
    assert len(exported.patches) == len(limited.patches) == len(basis.layers)
    expected, again = sample(exported), sample(oracle.row_by_row(exported))
    assert distance(sample(limited), expected) <= oracle.law(expected, again)


def test_base_weights_are_those_before_any_patch():
    model = tiny.sd15()
    basis = random_basis(model_layers(model))
    path = next(iter(basis.layers))
    loaded = weights(model)[path].clone()
    limited = adapter.apply_basis(model, basis)
    limited.patch_model(device_to=tiny.CPU)
    assert not torch.equal(weights(model)[path], loaded)
    assert torch.equal(adapter.base_weight(limited, path), loaded)
    limited.unpatch_model()


@pytest.mark.parametrize("order", ["before", "after"])
def test_loras_loaded_before_are_projected_and_those_after_are_not(order):
    model = tiny.sdxl()
    layers = model_layers(model)
    basis = random_basis(layers)
    state = tiny.random_lora(layers, 4, seed=11)

    def load_lora(model):
        return comfy.sd.load_lora_for_models(model, None, state, 0.7, 0.0)[0]

    expected = tiny.sdxl()
    chosen = basis.select("both")
    deltas = {p: patch[0][1] for p, patch in load_lora(expected).patches.items()}
    for path, weight in weights(expected).items():
        up, down, alpha = deltas[f"diffusion_model.{path}.weight"].weights[:3]
        delta = 0.7 * alpha / len(down) * (up.flatten(1) @ down.flatten(1)).reshape(weight.shape)
        q = chosen.get(path)
        moved = weight + delta if order == "before" else weight
        moved = moved if q is None else minus(moved, q)
        weight.copy_(moved if order == "before" else moved + delta)
    if order == "before":
        actual = adapter.apply_basis(load_lora(model), basis)
    else:
        actual = load_lora(adapter.apply_basis(model, basis))
    by_hand, again = sample(expected), sample(oracle.row_by_row(expected))
    assert distance(sample(actual), by_hand) <= oracle.law(by_hand, again)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_weights_are_projected_in_float32_and_rounded_once(dtype):
    model = tiny.sd15(dtype)
    basis = random_basis(model_layers(model))
    limited = adapter.apply_basis(model, basis)
    found, chosen = weights(model), basis.select("both")
    exact = {path: minus(found[path].float(), q) for path, q in chosen.items()}
    limited.patch_model(device_to=tiny.CPU)
    for path, expected in exact.items():
        actual = weights(limited)[path]
        assert actual.dtype == dtype
        half_a_step = expected.abs() * torch.finfo(dtype).eps / 2
        assert ((actual.float() - expected).abs() <= half_a_step + 1e-6).all()
    limited.unpatch_model()


def test_fp8_weights_are_projected_and_rounded_to_a_neighbouring_fp8_value():
    model = fp8_sd15()
    basis = random_basis(model_layers(model))
    found = weights(model)
    exact = {p: minus(found[p].float(), q) for p, q in basis.select("both").items()}
    limited = adapter.apply_basis(model, basis)
    limited.patch_model(device_to=tiny.CPU)
    for path, expected in exact.items():
        actual = weights(limited)[path]
        assert actual.dtype == torch.float8_e4m3fn
        # e4m3: 3 bits of mantissa, smallest step 2^-9; the host rounds up or down at random
        step = torch.maximum(expected.abs() / 8, torch.tensor(2.0**-9))
        assert ((actual.float() - expected).abs() <= step).all()
    limited.unpatch_model()


@pytest.mark.parametrize("make", [tiny.sd15, fp8_sd15])
def test_streamed_weights_are_projected_exactly_at_each_use(make):
    """The host's low-memory mode: weights stay where they are, patched copies are made per call."""
    model, reference = make(), make()
    basis = random_basis(model_layers(model))
    chosen = basis.select("both")
    for path, module in reference.model.diffusion_model.named_modules():
        if path in model_layers(reference):
            weight = module.weight.float()
            weight = minus(weight, chosen[path]) if path in chosen else weight
            module.weight = torch.nn.Parameter(weight, requires_grad=False)
    limited = adapter.apply_basis(model, basis)
    limited.patch_model(device_to=tiny.CPU, lowvram_model_memory=1)
    assert limited.lowvram_patch_counter() == len(basis.layers)
    assert distance(forward(limited), forward(reference)) <= LAW
    limited.unpatch_model()


def test_the_patch_survives_the_staging_of_dynamic_vram():
    """Dynamic VRAM copies each patch's tensors into a buffer and rebuilds the patch around them."""
    model = tiny.sd15()
    basis = random_basis(model_layers(model), "input")
    limited = adapter.apply_basis(model, basis, strength=0.6)
    for path, q in basis.select("both").items():
        key = f"diffusion_model.{path}.weight"
        staged = comfy.model_patcher.LowVramPatch(key, limited.patches)
        assert staged.memory_required() >= q.numel() * 4
        buffer = torch.zeros(staged.memory_required(), dtype=torch.uint8)
        staged.prepare(buffer, None)
        (moved,) = (patch[1].weights[0] for patch in staged.prepared_patches)
        assert moved.untyped_storage().data_ptr() == buffer.untyped_storage().data_ptr()
        weight = weights(model)[path]
        expected = minus(weight, q, "input", 0.6)
        torch.testing.assert_close(staged(weight.clone()), expected, atol=1e-6, rtol=0)
        half = staged(weight.to(torch.bfloat16))  # the type the model computes in
        torch.testing.assert_close(half.float(), expected, atol=4e-3, rtol=2**-7)


def test_quantised_layers_are_dequantised_projected_and_quantised_again():
    operations = comfy.ops.mixed_precision_ops({}, torch.float32, full_precision_mm=True)
    model = torch.nn.Module()
    model.diffusion_model = torch.nn.Module()
    model.diffusion_model.proj = operations.Linear(32, 48, bias=False)
    weight = torch.randn(48, 32, generator=torch.Generator().manual_seed(1))
    scale = weight.abs().max() / 448
    quantised = (weight / scale).to(torch.float8_e4m3fn)
    conf = torch.tensor(list(b'{"format": "float8_e4m3fn"}'), dtype=torch.uint8)
    model.diffusion_model.proj.load_state_dict(
        {"weight": quantised, "weight_scale": scale, "comfy_quant": conf}
    )
    loaded = model.diffusion_model.proj.weight
    assert isinstance(loaded.data, QuantizedTensor)
    patcher = comfy.model_patcher.ModelPatcher(model, tiny.CPU, tiny.CPU)
    basis = random_basis({"proj": (48, 32)})
    torch.testing.assert_close(adapter.base_weight(patcher, "proj"), quantised.float() * scale)
    limited = adapter.apply_basis(patcher, basis)
    limited.patch_model(device_to=tiny.CPU)
    patched = model.diffusion_model.proj.weight
    assert isinstance(patched.data, QuantizedTensor)
    expected = minus(quantised.float() * scale, basis.select("both")["proj"])
    step = torch.maximum(expected.abs() / 8, expected.abs().max() / 448 * 2.0**-9)
    assert ((patched.dequantize() - expected).abs() <= 1.01 * step).all()
    limited.unpatch_model()


def test_large_weights_are_projected_in_pieces_with_the_same_result(monkeypatch):
    monkeypatch.setattr(adapter, "PIECE", 500)
    model = tiny.sd15()
    for side in ("output", "input"):
        basis = random_basis(model_layers(model), side)
        limited = adapter.apply_basis(model, basis)
        limited.patch_model(device_to=tiny.CPU)
        expected = weights(with_projected_weights(tiny.sd15, basis))
        for path, weight in weights(limited).items():
            torch.testing.assert_close(weight, expected[path], atol=1e-6, rtol=0)
        limited.unpatch_model()


def test_a_second_projection_of_a_layer_is_refused():
    model = tiny.sd15()
    basis = random_basis(model_layers(model))
    limited = adapter.apply_basis(model, basis, "content")
    for again, which in [(basis, "content"), (basis, "style"), (basis, "both")]:
        with pytest.raises(CraftError, match="already rank-limited"):
            adapter.apply_basis(limited, again, which)
    lora = tiny.random_lora(model_layers(model), 2, seed=1)
    stacked, _ = comfy.sd.load_lora_for_models(limited, None, lora, 1.0, 0.0)
    with pytest.raises(CraftError, match="already rank-limited"):
        adapter.apply_basis(stacked, basis)
    adapter.apply_basis(adapter.apply_basis(model, basis, strength=0.0), basis)


def test_bases_of_different_layers_add_up():
    model = tiny.sd15()
    basis = random_basis(model_layers(model))
    paths = list(basis.layers)
    one, other = (Basis({p: basis.layers[p] for p in part}) for part in (paths[::2], paths[1::2]))
    twice = adapter.apply_basis(adapter.apply_basis(model, one), other)
    assert torch.equal(sample(twice), sample(adapter.apply_basis(model, basis)))


def test_layers_the_model_lacks_are_an_error_with_an_opt_out():
    model = tiny.sd15()
    basis = random_basis(model_layers(model))
    more = Basis({**basis.layers, "middle_block.9": LayerBasis(torch.eye(8)[:, :1])})
    with pytest.raises(CraftError, match=r"middle_block\.9.*allow_missing"):
        adapter.apply_basis(model, more)
    limited = adapter.apply_basis(model, more, allow_missing=True)
    assert len(limited.patches) == len(basis.layers)
    only = Basis({"middle_block.9": LayerBasis(torch.eye(8)[:, :1])})
    with pytest.raises(CraftError, match="lacks 1"):
        adapter.apply_basis(model, only, allow_missing=True)
    wrong = Basis({path: LayerBasis(torch.eye(7)[:, :1]) for path in basis.layers})
    with pytest.raises(CraftError, match="other sizes"):
        adapter.apply_basis(model, wrong)


def test_a_basis_that_spans_a_whole_layer_is_warned_of(caplog):
    model = tiny.sd15()
    adapter.apply_basis(model, Basis({"out.2": LayerBasis(torch.eye(4))}))
    assert "out.2" in caplog.text


def test_a_strength_outside_its_range_is_refused():
    model = tiny.sd15()
    with pytest.raises(CraftError, match="from 0"):
        adapter.apply_basis(model, random_basis(model_layers(model)), strength=1.2)


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """Empty model folders of our own in place of the host's."""
    names = dict(folder_paths.folder_names_and_paths)
    names.pop(adapter.FOLDER, None)
    for name in ("checkpoints", "diffusion_models"):
        names[name] = ([str(tmp_path / name)], names[name][1])
        (tmp_path / name).mkdir()
    monkeypatch.setattr(folder_paths, "models_dir", str(tmp_path))
    monkeypatch.setattr(folder_paths, "output_directory", str(tmp_path / "output"))
    monkeypatch.setattr(folder_paths, "folder_names_and_paths", names)
    monkeypatch.setattr(folder_paths, "filename_list_cache", {})
    return tmp_path


def put_basis(folders, basis, name="mine.safetensors"):
    (folders / adapter.FOLDER).mkdir(exist_ok=True)
    write_basis(folders / adapter.FOLDER / name, basis)
    return name


def validate(monkeypatch, **inputs):
    """The host's own validation of a prompt with our node, before queueing -> error texts."""
    monkeypatch.setitem(host_nodes.NODE_CLASS_MAPPINGS, NODE, LoadRankLimitedUNet)
    given = {"which": "both", "strength": 1.0, "allow_missing": False} | inputs
    prompt = {"1": {"class_type": NODE, "inputs": given}}
    valid, errors, _ = asyncio.run(execution.validate_inputs("id", prompt, "1", {}))
    assert valid == (not errors)
    return [f"{error['message']}: {error['details']}" for error in errors]


CHECKPOINT = {"source": "checkpoints", "source.ckpt_name": "base.safetensors"}


def test_mistakes_are_told_before_queueing(folders, monkeypatch):
    (folders / "checkpoints" / "base.safetensors").write_bytes(b"")
    (message, _) = validate(monkeypatch, **CHECKPOINT, basis=adapter.FOLDER)
    assert f"{folders / adapter.FOLDER}" in message and "Put one there" in message
    content = Basis({"a": LayerBasis(content=torch.eye(4)[:, :1])})
    basis = put_basis(folders, content)
    assert validate(monkeypatch, **CHECKPOINT, basis=basis) == []
    assert validate(monkeypatch, **CHECKPOINT, basis=basis, which="content") == []
    assert "no style basis" in validate(monkeypatch, **CHECKPOINT, basis=basis, which="style")[0]
    assert (
        "It can be content, style, both"
        in validate(monkeypatch, **CHECKPOINT, basis=basis, which="all")[0]
    )
    assert "source:" in validate(monkeypatch, basis=basis)[0]
    assert "source:" in validate(monkeypatch, basis=basis, source="elsewhere")[0]
    assert "bigger than max" in validate(monkeypatch, **CHECKPOINT, basis=basis, strength=2)[0]
    unknown = CHECKPOINT | {"source.ckpt_name": "gone.safetensors"}
    assert "not in list" in validate(monkeypatch, **unknown, basis=basis)[0]
    lora = folders / adapter.FOLDER / "lora.safetensors"
    comfy.utils.save_torch_file({"x.lora_up.weight": torch.ones(2, 2)}, str(lora))
    assert "no basis file" in validate(monkeypatch, **CHECKPOINT, basis=lora.name)[0]


def test_an_empty_folder_offers_a_choice_that_explains_itself(folders):
    schema = LoadRankLimitedUNet.INPUT_TYPES()["required"]
    assert schema["basis"][1]["options"] == ["(none in models/craft_bases)"]
    put_basis(folders, random_basis({"a": (8, 8)}))
    (folders / adapter.FOLDER / "notes.txt").write_text("no basis")
    schema = LoadRankLimitedUNet.INPUT_TYPES()["required"]
    assert schema["basis"][1]["options"] == ["mine.safetensors"]


def test_the_source_shown_first_has_a_widget():
    """The host's page cannot build a node whose first choice brings sockets alone."""
    kind, settings = LoadRankLimitedUNet.INPUT_TYPES()["required"]["source"]
    assert kind == "COMFY_DYNAMICCOMBO_V3"
    first = settings["options"][0]["inputs"]["required"]
    assert any(spec[0] == "COMBO" for spec in first.values())


def test_a_name_cannot_leave_the_basis_folder(folders):
    put_basis(folders, random_basis({"a": (8, 8)}))
    write_basis(folders / "outside.safetensors", random_basis({"a": (8, 8)}))
    with pytest.raises(CraftError, match="There is no basis file"):
        adapter.load_basis("../outside.safetensors")


def test_a_file_changed_on_disk_runs_the_node_again(folders):
    name = put_basis(folders, random_basis({"a": (8, 8)}))
    before = LoadRankLimitedUNet.fingerprint_inputs(basis=name, which="both")
    assert LoadRankLimitedUNet.fingerprint_inputs(basis=name, which="both") == before
    put_basis(folders, random_basis({"a": (8, 8)}, content=2))
    assert LoadRankLimitedUNet.fingerprint_inputs(basis=name, which="both") != before


def save_real_checkpoint(folders):
    """A checkpoint the host's loaders detect: SD1.x needs 320 channels, the rest may shrink."""
    unet = UNetModel(
        image_size=32, in_channels=4, out_channels=4, model_channels=320, channel_mult=[1],
        num_res_blocks=[1], transformer_depth=[1], transformer_depth_output=[1, 1],
        transformer_depth_middle=1, context_dim=768, num_heads=8,
        use_spatial_transformer=True, legacy=False,
        operations=comfy.ops.disable_weight_init,
    )  # fmt: skip
    tiny.randomise_all(unet, 0)
    state = {key: value.half() for key, value in unet.state_dict().items()}
    full = {f"model.diffusion_model.{key}": value for key, value in state.items()}
    comfy.utils.save_torch_file(full, str(folders / "checkpoints" / "base.safetensors"))
    comfy.utils.save_torch_file(state, str(folders / "diffusion_models" / "base.safetensors"))


def test_each_source_gives_the_same_rank_limited_model(folders):
    save_real_checkpoint(folders)
    (given,) = host_nodes.UNETLoader().load_unet("base.safetensors", "default")
    basis = random_basis(model_layers(given))
    name = put_basis(folders, basis)
    sources = [
        {"source": "model input", "model": given},
        {"source": "diffusion_models", "unet_name": "base.safetensors", "weight_dtype": "default"},
        {"source": "checkpoints", "ckpt_name": "base.safetensors"},
    ]
    models = [
        LoadRankLimitedUNet.execute(source, name, "both", 1.0).result[0] for source in sources
    ]
    assert models[0].model is given.model and models[0] is not given
    for model in models:
        model.patch_model(device_to=tiny.CPU)
    path = "middle_block.1.proj_in"
    loaded = adapter.base_weight(given, path)
    expected = minus(loaded, basis.select("both")[path])
    for model in models:
        torch.testing.assert_close(weights(model)[path].float(), expected, atol=1e-3, rtol=0)
        model.unpatch_model()
    assert not torch.equal(loaded, expected)
