"""Nodes that read a MODEL's weights find the routed LoRAs in them, as they find the LoraLoader's;
where no weights say what a routed MODEL does, they are refused."""

from __future__ import annotations

from pathlib import Path

import comfy.hooks
import comfy.model_management
import comfy.model_patcher
import comfy.sd
import comfy.utils
import folder_paths
import oracle
import pytest
import small_world_models as small
import tiny
import torch
from adapter_samples import HOST_DROPS, HOST_KINDS, SAMPLES, whole_file
from comfy_extras.nodes_attention_multiply import UNetSelfAttentionMultiply
from comfy_extras.nodes_lora_extract import LoraSave
from comfy_extras.nodes_model_merging import (
    CheckpointSave,
    ModelAdd,
    ModelMergeBlocks,
    ModelMergeSimple,
    ModelSave,
    ModelSubtract,
)
from craft_lora_pack.comfy_adapter.engine import engine
from craft_lora_pack.comfy_adapter.engine.engine import is_routed, set_asymmetric
from craft_lora_pack.comfy_adapter.engine.modules import (
    PREFIX,
    host_names,
    lora_layers,
    model_layers,
)
from craft_lora_pack.comfy_adapter.engine.weights import in_weights
from craft_lora_pack.comfy_adapter.guide.acfg import acfg_guider
from craft_lora_pack.craft_core.errors import CraftError
from craft_lora_pack.craft_core.fusion import FUSION
from craft_lora_pack.craft_core.fusion.compose import compose
from craft_lora_pack.craft_core.lora import parse_lora
from craft_lora_pack.craft_core.lora.keys import kohya_name
from craft_lora_pack.craft_core.schedule.schedule import Schedule
from craft_lora_pack.craft_core.types import Bank, Branch, Factors, constant_gates
from oracle import LAW, distance
from three_loras import case
from two_loras import NEGATIVE, POSITIVE, cosine, loras, routed, two_loaders

RANK = 7  # of both LoRAs of `loras` together
HALF_STEP = torch.finfo(torch.float16).eps  # Extract and Save Lora writes float16
MERGES = {
    "simple": lambda a, b: ModelMergeSimple().merge(a, b, 0.4)[0],
    "simple, all of the first": lambda a, b: ModelMergeSimple().merge(a, b, 1.0)[0],
    "blocks": lambda a, b: ModelMergeBlocks().merge(a, b, input=0.3, middle=0.0, out=1.0)[0],
    "subtract": lambda a, b: ModelSubtract().merge(a, b, 0.7)[0],
    "add": lambda a, b: ModelAdd().merge(a, ModelSubtract().merge(b, tiny.sdxl(seed=2), 0.2)[0])[0],
}
BLOCK_SHARES = {"input_blocks": 0.3, "middle_block": 0.0, "output_blocks": 1.0, "out": 1.0}
SHARES = {  # of a first model's layer in the merge
    "simple": lambda path: 0.4,
    "blocks": lambda path: BLOCK_SHARES.get(path.split(".")[0], 0.3),
    "subtract": lambda path: 0.7,
    "add": lambda path: 1.0,
}


def sample(model):
    return oracle.sample(oracle.guider(model, POSITIVE, NEGATIVE), tiny.latent(size=8), steps=2)


def trio(seed=0, schedule=None):
    """(a base, it routed, it through the host's loaders)"""
    model = tiny.sdxl(seed=seed)
    states = loras(model_layers(model))
    return model, routed(model, states, schedule), two_loaders(model, states)


def written(folder: str, node) -> dict[str, torch.Tensor]:
    """What a node writes into that folder of the output."""
    node()
    (path,) = (Path(folder_paths.get_output_directory()) / folder).glob("*.safetensors")
    state = comfy.utils.load_torch_file(str(path))
    path.unlink()
    return state


def saved(model) -> dict[str, torch.Tensor]:
    return written("models", lambda: ModelSave().save(model, "models/m"))


def extracted(model, kind="full_diff") -> dict[str, torch.Tensor]:
    return written("loras", lambda: LoraSave.execute("loras/l", RANK, kind, True, model))


def assert_equal_files(ours, theirs, tolerance=LAW):
    assert ours.keys() == theirs.keys()
    for key, weight in theirs.items():
        if weight.numel():
            assert distance(ours[key].float(), weight.float()) <= tolerance, key


@pytest.mark.parametrize("name", MERGES)
@pytest.mark.parametrize("place", ["first", "second", "both"])
def test_merges_find_the_branches_in_the_weights(name, place):
    other, other_routed, other_loaded = trio(seed=1)
    _, ours, theirs = trio()
    one, two = {
        "first": ((ours, other), (theirs, other)),
        "second": ((other, ours), (other, theirs)),
        "both": ((ours, other_routed), (theirs, other_loaded)),
    }[place]
    merged, reference = MERGES[name](*one), MERGES[name](*two)
    assert distance(sample(merged), sample(reference)) <= LAW
    assert_equal_files(saved(merged), saved(reference))


@pytest.mark.parametrize("name", SHARES)
def test_a_first_model_keeps_its_schedule_and_acfg_with_its_share_of_the_weights(name):
    """The reference merges the two models of every step: conditional rows with the LoRAs as they
    are then, unconditional rows without."""
    other = tiny.sdxl(seed=1)
    model, ours, _ = trio(schedule=Schedule("cosine"))
    layers = model_layers(model)
    plain, twin = (MERGES[name](tiny.sdxl(), other) for _ in range(2))
    comfy.model_management.load_models_gpu([plain, twin])
    deltas = [
        {path: SHARES[name](path) * delta for path, delta in dense.items()}
        for dense in (oracle.dense_deltas(state, layers) for state in loras(layers))
    ]
    reference = oracle.TwoModels(plain, twin, deltas, cosine)
    reference.set_conds(POSITIVE, NEGATIVE)
    reference.set_cfg(4.0)
    ours = acfg_guider(MERGES[name](ours, other), POSITIVE, NEGATIVE, 4.0, True)
    latent = tiny.latent(2, size=8)
    assert distance(*(oracle.sample(g, latent, steps=3) for g in (ours, reference))) <= LAW


def test_saving_writes_the_branches_and_leaves_the_model_as_it_was():
    model, ours, theirs = trio()
    before = sample(model), sample(ours)
    file = saved(ours)
    assert_equal_files(file, saved(theirs))
    unlike = [key for key, weight in saved(model).items() if not torch.equal(weight, file[key])]
    assert len(unlike) == len(model_layers(model))
    assert torch.equal(sample(ours), before[1])
    assert torch.equal(sample(model), before[0])


@pytest.mark.parametrize("kind", [kind for kind in SAMPLES if kind not in HOST_KINDS])
def test_a_kind_that_the_host_has_not_is_in_the_weights_as_it_acts(kind):
    model, other = tiny.sdxl(), tiny.sdxl(seed=1)
    stems = {kohya_name(path): shape for path, shape in model_layers(model).items()}
    state, _ = whole_file(kind, stems, seed=3)
    ours, prefix = routed(model, [state, state]), "model.diffusion_model."
    file = {key.removeprefix(prefix): one for key, one in saved(ours).items() if prefix in key}
    other.model.diffusion_model.load_state_dict(file)
    assert distance(sample(ours), sample(model)) > 1e-3
    assert distance(sample(other), sample(ours)) <= LAW


@pytest.mark.parametrize("kind", HOST_KINDS)
def test_every_adapter_kind_is_in_the_weights_as_the_hosts_loader_patches_it(kind):
    """Saved, and as the first model of a merge."""
    model, other = tiny.sdxl(), tiny.sdxl(seed=1)
    stems = {kohya_name(path): shape for path, shape in model_layers(model).items()}
    state, _ = whole_file(kind, stems, seed=3, without=HOST_DROPS)
    ours, theirs = routed(model, [state, state]), two_loaders(model, [state, state])
    assert_equal_files(saved(ours), saved(theirs))
    merged, reference = (MERGES["simple"](m, other) for m in (ours, theirs))
    assert distance(sample(merged), sample(reference)) <= LAW


def test_acfg_refuses_branches_that_a_merge_had_to_put_into_the_weights():
    """A DoRA depends on the weight it meets; in the weights it would act in the negative too."""
    model, other = tiny.sdxl(), tiny.sdxl(seed=1)
    stems = {kohya_name(path): shape for path, shape in model_layers(model).items()}
    plain, dora = (whole_file(kind, stems, seed=3)[0] for kind in ("LoRA", "DoRA"))
    for state, refused in (plain, False), (dora, True):
        merged = MERGES["simple"](routed(model, [state, state]), other)
        later = routed(merged, loras(model_layers(merged)))
        for one in (merged, later, later.clone()):
            assert set_asymmetric(one, False)
            if not refused:
                assert set_asymmetric(one, True)
                continue
            with pytest.raises(CraftError, match="Put the Router behind that node"):
                set_asymmetric(one, True)


def test_differences_of_biases_and_norms_are_in_the_weights_too():
    model, other = tiny.sdxl(), tiny.sdxl(seed=1)
    generator = torch.Generator().manual_seed(5)
    state = {}
    for name, value in model.model.diffusion_model.named_parameters():
        path, _, part = name.rpartition(".")
        if path in lora_layers(model):
            change = 0.1 * value.std() * torch.randn(value.shape, generator=generator)
            state[f"diffusion_model.{path}.{'diff' if part == 'weight' else 'diff_b'}"] = change
    parsed = parse_lora(state, {}, lora_layers(model), host_names(model))
    bank = Bank.of([Branch("a", "content", parsed.layers, 0.7)], list(lora_layers(model)))
    ones = constant_gates(torch.ones(len(bank.layers), 1))
    ours = engine.attach(model, bank, compose(ones, bank))
    theirs = comfy.sd.load_lora_for_models(model, None, state, 0.7, 0.0)[0]
    assert_equal_files(saved(ours), saved(theirs))
    merged, reference = (MERGES["simple"](m, other) for m in (ours, theirs))
    assert distance(sample(merged), sample(reference)) <= LAW


def test_slices_of_a_fused_layer_are_saved_in_their_rows():
    model = tiny.sdxl()
    path = "middle_block.1.transformer_blocks.0.attn1.to_q"
    generator = torch.Generator().manual_seed(0)
    width = model_layers(model)[path][1]
    parts = tuple(
        Factors(torch.randn(2, width, generator=generator),
                torch.randn(length, 2, generator=generator), 0.5, (start, length))
        for start, length in ((0, 16), (48, 16))
    )  # fmt: skip
    bank = Bank.of([Branch("a", "content", {path: parts})], list(model_layers(model)))
    ours = engine.attach(model, bank, constant_gates(torch.full((1, 1), 0.7)))
    key = f"{PREFIX}{path}.weight"
    expected = model.model.diffusion_model.get_submodule(path).weight.clone()
    for part in parts:
        start, length = part.rows
        expected[start : start + length] += 0.7 * part.delta()
    patched = ours.model_state_dict(filter_prefix=PREFIX)[key]
    assert distance(patched, expected) <= LAW


def test_checkpoint_save_writes_the_branches_beside_clip_and_vae():
    world = small.load()
    layers = model_layers(world.model)
    states = (tiny.random_lora(layers, 4, 11), tiny.random_lora(layers, 3, 12))
    ours, theirs = routed(world.model, states), two_loaders(world.model, states)
    files = [
        written("whole", lambda m=m: CheckpointSave().save(m, world.clip, world.vae, "whole/c"))
        for m in (ours, theirs)
    ]
    assert_equal_files(*files)
    assert any(key.startswith("first_stage_model.") for key in files[0])


def with_fixed_signs(svd):
    """A matrix's singular vectors have free signs, and what the node clamps depends on them."""

    def fixed(matrix):
        u, s, v = svd(matrix)
        signs = u.gather(0, u.abs().argmax(0, keepdim=True)).sign()[0]
        kept = len(s)
        return u[:, :kept] * signs[:kept], s, v[:kept] * signs[:kept, None]

    return fixed


@pytest.mark.parametrize("kind", ["full_diff", "standard"])
def test_extract_lora_finds_the_branches(kind, monkeypatch):
    """In the difference to the base, as the node asks for."""
    monkeypatch.setattr(torch.linalg, "svd", with_fixed_signs(torch.linalg.svd))
    model, ours, theirs = trio()
    ours, theirs = (
        products(extracted(ModelSubtract().merge(m, model, 0.8)[0], kind)) for m in (ours, theirs)
    )
    assert ours.keys() == theirs.keys()
    for key, delta in theirs.items():
        step = 4 * HALF_STEP * max(1e-3, float(delta.abs().max()))
        assert (ours[key] - delta).abs().max() <= step, key
    assert max(delta.abs().max() for delta in ours.values()) > 0.01


def test_extract_lora_finds_the_branches_of_the_model_itself():
    _, ours, theirs = trio()
    assert_equal_files(extracted(ours), extracted(theirs), 2 * HALF_STEP)


def products(file) -> dict[str, torch.Tensor]:
    """dW by name, of low-rank pairs or of differences."""
    out = {}
    for key, value in file.items():
        if key.endswith(".lora_up.weight"):
            down = file[key.replace("lora_up", "lora_down")].float()
            out[key] = value.float().flatten(1) @ down.flatten(1)
        elif not key.endswith(".lora_down.weight"):
            out[key] = value.float()
    return out


MOVING = {
    "a schedule": lambda: under("direct", Schedule("cosine")),
    "K-LoRA": lambda: under("k_lora"),
    "LoRA Composite": lambda: under("composite"),
    "ACFG": lambda: set_asymmetric(under("direct"), True),
}
READERS = {
    "save": saved,
    "extract": extracted,
    "merge as the second": lambda model: ModelMergeSimple().merge(tiny.sdxl(), model, 0.5),
    "subtract": lambda model: ModelSubtract().merge(tiny.sdxl(), model, 1.0),
    "add": lambda model: ModelAdd().merge(tiny.sdxl(), model),
    "blocks": lambda model: ModelMergeBlocks().merge(tiny.sdxl(), model, input=1.0, middle=1.0),
}


def under(method: str, schedule=None):
    """Three LoRAs on a model, by a fusion method under a schedule."""
    given = case("sdxl")
    bank = given.bank()
    gates = FUSION[method].function(bank, given.routing(bank, (0, 1, 2)))
    return engine.attach(given.model, bank, compose(gates, bank, schedule))


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("why", MOVING)
def test_where_no_weights_say_what_the_model_does_the_node_is_refused(why, reader):
    ours = MOVING[why]()
    before = sample(ours)
    with pytest.raises(CraftError, match="Fuse LoRAs to File"):
        READERS[reader](ours)
    assert torch.equal(sample(ours), before)


@pytest.mark.parametrize("schedule", [None, Schedule("constant", {"content": 0.6})])
@pytest.mark.parametrize("method", FUSION.keys())
def test_every_method_whose_gates_never_change_is_in_the_weights_as_it_samples(method, schedule):
    ours = under(method, schedule)
    if method in ("k_lora", "est_lora", "switch", "composite"):
        with pytest.raises(CraftError, match="change from step to step"):
            in_weights(ours)
        return
    weights = in_weights(ours)
    assert not is_routed(weights) and is_routed(ours)
    assert distance(sample(weights), sample(ours)) <= LAW


def test_nodes_before_between_and_after_routers_join_in():
    """A LoRA in the weights, a Router, another one, another LoRA, and a node that multiplies."""
    model = tiny.sdxl()
    layers = model_layers(model)
    first, last = (tiny.random_lora(layers, 2, seed) for seed in (31, 32))
    second = (tiny.random_lora(layers, 2, 41), tiny.random_lora(layers, 5, 42))

    def chain(carry):
        made = comfy.sd.load_lora_for_models(model, None, first, 0.5, 0.0)[0]
        made = carry(carry(made, loras(layers)), second)
        made = comfy.sd.load_lora_for_models(made, None, last, 0.5, 0.0)[0]
        return UNetSelfAttentionMultiply.execute(made, 1.3, 0.8, 1.1, 0.9)[0]

    ours, theirs = chain(routed), chain(two_loaders)
    assert is_routed(ours)
    assert distance(sample(ours), sample(theirs)) <= LAW
    assert_equal_files(saved(ours), saved(theirs))


def test_a_loaders_own_kind_of_patcher_keeps_its_ways():
    """ComfyUI-GGUF's patcher gives each clone its own class, whatever class was cloned."""

    class Own(comfy.model_patcher.ModelPatcher):
        def clone(self, *args, **kwargs):
            own, self.__class__ = self.__class__, Own
            clone = super().clone(*args, **kwargs)
            self.__class__, clone.__class__ = own, Own
            return clone

        def patch_weight_to_device(self, key, device_to=None, inplace_update=False):
            return super().patch_weight_to_device(key, device_to, inplace_update)

    model, _, theirs = trio()
    own = Own(tiny.sdxl().model, tiny.CPU, tiny.CPU)
    ours = routed(own, loras(model_layers(model))).clone()
    assert isinstance(ours, Own)
    assert_equal_files(saved(ours), saved(theirs))


def test_a_node_that_multiplies_some_rows_of_a_weight_finds_the_branches_in_them():
    model, ours, theirs = trio()
    path = next(path for path in model_layers(model) if path.endswith("attn1.to_q"))
    rows = (f"{PREFIX}{path}.weight", (0, 3, 7))
    for made in (ours, theirs):
        made.add_patches({rows: (None,)}, 0.0, 0.5)
    assert distance(sample(ours), sample(theirs)) <= LAW
    _, moving, _ = trio(schedule=Schedule("cosine"))
    with pytest.raises(CraftError, match="Fuse LoRAs to File"):
        moving.add_patches({rows: (None,)}, 0.0, 0.5)


def test_the_branches_survive_the_staging_of_dynamic_vram():
    """Dynamic VRAM copies each patch's tensors into a buffer and rebuilds the patch around them."""
    _, ours, theirs = trio()
    patches = in_weights(ours).patches
    assert patches.keys() == theirs.patches.keys()
    for key in patches:
        weight = comfy.utils.get_attr(ours.model, key)
        results = []
        for given in (patches, theirs.patches):
            staged = comfy.model_patcher.LowVramPatch(key, given)
            staged.prepare(torch.zeros(staged.memory_required(), dtype=torch.uint8), None)
            results.append(staged(weight.clone()))
        assert distance(*results) <= LAW, key


def test_the_hosts_hooks_go_on_beside_branches_that_change():
    model, ours, _ = trio(schedule=Schedule("cosine"))
    lora = tiny.random_lora(model_layers(model), 2, 51)
    hooks = comfy.hooks.create_hook_lora(lora, 0.8, 0.0)
    hooked = comfy.hooks.set_hooks_for_conditioning(POSITIVE, hooks)
    results = []
    for made, positive in (
        (ours, hooked),
        (comfy.sd.load_lora_for_models(ours, None, lora, 0.8, 0.0)[0], POSITIVE),
    ):
        made = made.clone()
        made.register_all_hook_patches(
            hooks, comfy.hooks.create_target_dict(comfy.hooks.EnumWeightTarget.Model)
        )
        guider = oracle.guider(made, positive, positive)
        results.append(oracle.sample(guider, tiny.latent(), steps=2))
    assert distance(*results) <= LAW
