"""Every adapter kind in the engine, in the host's own classes: what the host's LoraLoader makes of
the same file, and what separately patched models make of its matrices."""

from __future__ import annotations

import comfy.lora
import comfy.sample
import comfy.samplers
import comfy.sd
import family_loras
import folder_paths
import oracle
import pytest
import safetensors.torch
import tiny
import torch
from adapter_samples import HOST_DROPS, HOST_KINDS, SAMPLES, variants, whole_file
from craft_lora_pack.comfy_adapter.engine import engine
from craft_lora_pack.comfy_adapter.engine.bank import BranchModule, layer_parts
from craft_lora_pack.comfy_adapter.engine.hooks import act
from craft_lora_pack.comfy_adapter.engine.in_turn import Acting, InTurn
from craft_lora_pack.comfy_adapter.engine.modules import host_names, lora_layers, model_layers
from craft_lora_pack.comfy_adapter.engine.weights import in_weights
from craft_lora_pack.comfy_adapter.guide.acfg import acfg_guider
from craft_lora_pack.comfy_adapter.model.lora_files import BranchFile, read_branch_file
from craft_lora_pack.comfy_adapter.model.weights import patched_weights
from craft_lora_pack.comfy_adapter.use.fuse_file import FuseRequest, fuse_branches
from craft_lora_pack.comfy_adapter.use.router import RouterRequest, planned
from craft_lora_pack.craft_core.errors import CraftError
from craft_lora_pack.craft_core.fusion import FUSION
from craft_lora_pack.craft_core.fusion.compose import compose
from craft_lora_pack.craft_core.lora import parse_lora
from craft_lora_pack.craft_core.lora.keys import kohya_name
from craft_lora_pack.craft_core.merging import MERGES
from craft_lora_pack.craft_core.routing.markers import parse
from craft_lora_pack.craft_core.types import Bank, Branch, Gates, constant_gates

TOLERANCE = 2e-5
FAMILIES = {"sd15": tiny.sd15, "sdxl": tiny.sdxl}
TRANSFORMERS = {"flux": tiny.flux, "z_image": tiny.z_image, "qwen_image": tiny.qwen_image}
DIFFERENT = FAMILIES | TRANSFORMERS
EVERY = [*FAMILIES, *(pytest.param(f, marks=pytest.mark.sweep) for f in TRANSFORMERS)]
POSITIVE, NEGATIVE = tiny.conditioning(1), tiny.conditioning(2)
KINDS = tuple(SAMPLES)
STEPS = 3


def distance(a, b) -> float:
    """Largest difference, in units of the largest value where that exceeds 1."""
    return ((a - b).abs().max() / b.abs().max().clamp(min=1.0)).item()


def latent_of(model, size=8):
    """Empty, with the model's channels; the noise is seeded."""
    empty = tiny.latent(size=size)["samples"]
    return {"samples": comfy.sample.fix_empty_latent_channels(model, empty)}


def sample(guider, model):
    return oracle.sample(guider, latent_of(model), steps=STEPS)


def symmetric(model):
    return sample(oracle.guider(model, POSITIVE, NEGATIVE), model)


def file_of(kind, layers, without=(), model=None, gate=1.0):
    """(state dict, {module path: dW}): all forms of a kind on all layers, in turn.

    model: on whose weights dW is what it is there at a gate, where it depends on them.
    """
    stems = {kohya_name(path): path for path in layers}

    def on(stem, made):
        if model is None:
            return made.delta
        return made.on(model.model.diffusion_model.get_submodule(stems[stem]).weight.float(), gate)

    places = {stem: layers[path] for stem, path in stems.items()}
    state, deltas = whole_file(kind, places, seed=3, without=without, on=on)
    return state, {path: deltas[kohya_name(path)] for path in layers}


def differences(model, size=0.1):
    """(state dict, module paths): a difference of every weight and bias of the model's layers."""
    generator = torch.Generator().manual_seed(5)
    state, reached = {}, []
    for path in lora_layers(model):
        module = model.model.diffusion_model.get_submodule(path)
        for name, ending in (("weight", "diff"), ("bias", "diff_b")):
            value = getattr(module, name, None)
            if value is not None:
                change = torch.randn(value.shape, generator=generator) * value.std()
                state[f"diffusion_model.{path}.{ending}"] = size * change
        reached.append(path)
    return state, reached


def routed(model, states, strengths):
    layers = lora_layers(model)
    branches = [
        Branch(f"file {j}", role, parse_lora(state, {}, layers, host_names(model)).layers, strength)
        for j, (state, role, strength) in enumerate(
            zip(states, ("content", "style"), strengths, strict=False)
        )
    ]
    bank = Bank.of(branches, list(layers))
    ones = constant_gates(torch.ones(len(bank.layers), len(bank.branches)))
    return engine.attach(model, bank, compose(ones, bank))


def loaded(model, states, strengths):
    """What the host's LoraLoader nodes make of the same files."""
    for state, strength in zip(states, strengths, strict=False):
        model, _ = comfy.sd.load_lora_for_models(model, None, state, strength, 0.0)
    return model


@pytest.mark.parametrize("family", EVERY)
@pytest.mark.parametrize("kind", HOST_KINDS)
def test_a_file_of_the_kind_is_the_hosts_lora_loader(kind, family):
    """On linear layers and convolutions, at four strengths."""
    model = DIFFERENT[family]()
    state, _ = file_of(kind, model_layers(model), HOST_DROPS)
    plain = symmetric(model)
    for strength in (-1.0, 0.5, 1.0, 2.0):
        ours = symmetric(routed(model, [state], [strength]))
        expected = symmetric(loaded(model, [state], [strength]))
        assert distance(expected, plain) > 0.01, "the file must matter for this to say much"
        assert distance(ours, expected) <= TOLERANCE


@pytest.mark.parametrize("kind", HOST_KINDS)
def test_beside_a_file_of_another_kind_it_is_two_lora_loaders(kind):
    model = tiny.sd15()
    layers = model_layers(model)
    states = [file_of(kind, layers, HOST_DROPS)[0], tiny.random_lora(layers, 4, seed=12)]
    strengths = (0.8, 0.6)
    for order in (1, -1):
        ours = symmetric(routed(model, states[::order], strengths[::order]))
        theirs = symmetric(loaded(model, states[::order], strengths[::order]))
        assert distance(ours, theirs) <= TOLERANCE


@pytest.mark.parametrize("kind", HOST_KINDS)
def test_two_files_on_a_patched_model_are_three_lora_loaders(kind):
    """What depends on the weight meets the patched one, and what the first file made of it."""
    model = tiny.sd15()
    layers = model_layers(model)
    under = loaded(model, [tiny.random_lora(layers, 2, seed=31)], [0.5])
    states = [file_of(kind, layers, HOST_DROPS)[0], file_of(kind, layers, HOST_DROPS)[0]]
    states[1] = {key: 1.1 * tensor for key, tensor in states[1].items()}
    ours = symmetric(routed(under, states, (0.8, -0.5)))
    assert distance(ours, symmetric(loaded(under, states, (0.8, -0.5)))) <= TOLERANCE


def in_a_row(model, steps):
    """The MODEL behind Routers and LoRA loaders. steps: (one of the two, a file, its strength)"""
    for node, state, strength in steps:
        model = node(model, [state], [strength])
    return model


def by_loaders(model, steps):
    """The same files by the host's LoraLoader nodes, in the same order."""
    return in_a_row(model, [(loaded, state, strength) for _, state, strength in steps])


ON_WEIGHT = ("DoRA", "GLoRA", "OFT")


@pytest.mark.parametrize("kind", HOST_KINDS)
def test_routers_in_a_row_are_loaders_in_a_row(kind):
    """Each LoRA meets the weight as the Routers before its own have made it."""
    model = tiny.sd15()
    layers = model_layers(model)
    own, plain = file_of(kind, layers, HOST_DROPS)[0], tiny.random_lora(layers, 4, seed=12)
    others = {key: 1.1 * tensor for key, tensor in own.items()}
    for order in ((plain, own), (own, plain), (own, others), (plain, own, others)):
        steps = list(zip((routed,) * 3, order, (0.7, 0.8, -0.5), strict=False))
        ours, theirs = in_a_row(model, steps), by_loaders(model, steps)
        assert distance(symmetric(ours), symmetric(theirs)) <= TOLERANCE


@pytest.mark.parametrize("kind", HOST_KINDS)
def test_loaders_behind_routers_act_behind_them(kind):
    """What a later loader patches into the weights is not there for the LoRAs before it; nodes that
    ask for the weights find all in the same order."""
    model = tiny.sd15()
    layers = model_layers(model)
    own, plain, more = (
        file_of(kind, layers, HOST_DROPS)[0],
        *(tiny.random_lora(layers, 4, seed) for seed in (12, 13)),
    )
    rows = (
        [(routed, own, 0.8), (loaded, plain, 0.7)],
        [(loaded, plain, 0.5), (routed, own, 0.8), (loaded, more, 0.7)],
        [(routed, own, 0.8), (loaded, plain, 0.7), (routed, own, -0.5), (loaded, more, 0.6)],
        [(routed, plain, 0.8), (loaded, more, 0.7), (routed, own, 0.5)],
    )
    for steps in rows:
        ours, theirs = in_a_row(model, steps), by_loaders(model, steps)
        assert distance(symmetric(ours), symmetric(theirs)) <= TOLERANCE
        asked = patched_weights(in_weights(ours)), patched_weights(theirs)
        for path in list(layers)[::7]:
            a, b = (weight_of(path) for weight_of in asked)
            assert distance(a, b) <= TOLERANCE


@pytest.mark.parametrize("kind", ON_WEIGHT)
def test_asymmetric_routers_and_loaders_in_a_row_are_two_separately_patched_models(kind):
    """The backbone has the loaders' patches alone."""
    model = tiny.sd15()
    layers = model_layers(model)
    own, plain = file_of(kind, layers, HOST_DROPS)[0], tiny.random_lora(layers, 4, seed=12)
    loader = (loaded, tiny.random_lora(layers, 4, seed=13), 0.6)
    for steps in (
        [(routed, plain, 0.7), (routed, own, 0.8), loader],
        [(routed, own, 0.8), loader, (routed, own, -0.5)],
    ):
        ours = acfg_guider(in_a_row(model, steps), POSITIVE, NEGATIVE, 4.0, True)
        twin, backbone = tiny.sd15(), in_a_row(tiny.sd15(), [loader])
        bare, whole = patched_weights(backbone), patched_weights(by_loaders(twin, steps))
        deltas = [{path: whole(path) - bare(path) for path in layers}]
        reference = oracle.TwoModels(backbone, twin, deltas, lambda progress: (1.0,))
        for path, module in reference.layers.items():
            reference.weights[path] = bare(path).to(module.weight)
        reference.set_conds(POSITIVE, NEGATIVE)
        reference.set_cfg(4.0)
        assert distance(sample(ours, model), sample(reference, model)) <= TOLERANCE


def test_norms_and_biases_of_an_earlier_router_are_loaders_in_a_row():
    model = tiny.sdxl()
    changes, _ = differences(model, size=1.0)
    dora, oft = (file_of(kind, model_layers(model), HOST_DROPS)[0] for kind in ("DoRA", "OFT"))
    steps = [(routed, changes, 0.7), (routed, dora, 0.8), (routed, oft, 0.5)]
    ours, theirs = in_a_row(model, steps), by_loaders(model, steps)
    assert distance(symmetric(ours), symmetric(theirs)) <= TOLERANCE


def test_views_that_an_earlier_router_has_apart_are_apart_for_a_later_one():
    """Of one step, the average of both views is what the models of each LoRA make, averaged."""
    model = tiny.sd15()
    layers = model_layers(model)
    own = file_of("DoRA", layers, HOST_DROPS)[0]
    states = [tiny.random_lora(layers, 4, seed) for seed in (12, 13)]
    bank = Bank.of(
        [
            Branch(role, role, parse_lora(state, {}, layers, host_names(model)).layers, 0.7)
            for role, state in zip(("content", "style"), states, strict=True)
        ],
        list(layers),
    )
    apart = Gates(lambda moment: torch.eye(2)[:, None].expand(2, len(bank.layers), 2), 2)
    ours = routed(engine.attach(model, bank, compose(apart, bank)), [own], [0.8])
    alone = [by_loaders(model, [(None, s, 0.7), (None, own, 0.8)]) for s in states]
    made = [
        oracle.sample(oracle.guider(one, POSITIVE, NEGATIVE), latent_of(model), steps=1)
        for one in (ours, *alone)
    ]
    assert distance(made[1], made[2]) > 0.01
    assert distance(made[0], (made[1] + made[2]) / 2) <= TOLERANCE


def test_a_loader_behind_a_router_whose_lora_depends_on_the_weight_is_said(caplog):
    model = tiny.sd15()
    layers = model_layers(model)
    plain = tiny.random_lora(layers, 4, seed=12)
    for kind in HOST_KINDS:
        own = file_of(kind, layers, HOST_DROPS)[0]
        caplog.clear()
        symmetric(in_a_row(model, [(routed, plain, 0.7), (loaded, own, 0.8)]))
        said = "put it there" in caplog.text
        assert said == (kind in ON_WEIGHT)


@pytest.mark.parametrize(
    "strength", [0.7, *(pytest.param(s, marks=pytest.mark.sweep) for s in (-1.0, 2.0))]
)
@pytest.mark.parametrize("family", EVERY)
@pytest.mark.parametrize("kind", KINDS)
def test_asymmetric_is_two_separately_patched_models(kind, family, strength):
    model, other, twin = (DIFFERENT[family]() for _ in range(3))
    layers = model_layers(model)
    state, deltas = file_of(kind, layers, model=model, gate=strength)
    ours = acfg_guider(routed(model, [state], [strength]), POSITIVE, NEGATIVE, 4.0, True)
    reference = oracle.TwoModels(other, twin, [deltas], lambda progress: (strength,))
    reference.set_conds(POSITIVE, NEGATIVE)
    reference.set_cfg(4.0)
    assert distance(sample(ours, model), sample(reference, model)) <= TOLERANCE


@pytest.mark.parametrize(
    "family", [pytest.param(f, marks=() if f == "sdxl" else pytest.mark.sweep) for f in DIFFERENT]
)
@pytest.mark.parametrize("kind", KINDS)
def test_at_strength_zero_it_is_bitwise_the_plain_model(kind, family):
    model = DIFFERENT[family]()
    state, _ = file_of(kind, model_layers(model))
    assert torch.equal(symmetric(routed(model, [state], [0.0])), symmetric(model))


@pytest.mark.parametrize("family", DIFFERENT)
def test_differences_of_weights_biases_and_norms_are_the_hosts_lora_loader(family):
    """As the host's Extract and Save Lora names them: all that a model of the class has."""
    model = DIFFERENT[family]()
    state, reached = differences(model)
    assert any(state[f"diffusion_model.{path}.diff"].ndim == 1 for path in reached)
    plain = symmetric(model)
    for strength in (-1.0, 0.5, 2.0):
        ours = symmetric(routed(model, [state], [strength]))
        theirs = symmetric(loaded(model, [state], [strength]))
        assert distance(theirs, plain) > 0.01, "the file must matter for this to say much"
        assert distance(ours, theirs) <= TOLERANCE


@pytest.mark.parametrize("family", DIFFERENT)
def test_every_norm_is_reached(family):
    """Each alone: its hook is called, and its difference does what the host's patch does."""
    model = DIFFERENT[family]()
    norms = [path for path, shape in lora_layers(model).items() if len(shape) == 1]
    network = model.model.diffusion_model
    called = set()
    handles = [
        network.get_submodule(path).register_forward_hook(lambda *_, path=path: called.add(path))
        for path in norms
    ]
    symmetric(model)
    for handle in handles:
        handle.remove()
    assert called == set(norms)


def test_asymmetric_differences_are_two_separately_patched_models():
    """The backbone's rows have the model's own weights, biases and norms."""
    model, other, twin = tiny.sdxl(), tiny.sdxl(), tiny.sdxl()
    state, _ = differences(model)
    ours = acfg_guider(routed(model, [state], [0.7]), POSITIVE, NEGATIVE, 4.0, True)
    reference = oracle.TwoModels(other, twin, [], lambda progress: ())
    network = twin.model.diffusion_model
    for key, change in state.items():
        path, _, ending = key.removeprefix("diffusion_model.").rpartition(".")
        name = "bias" if ending == "diff_b" else "weight"
        own = getattr(network.get_submodule(path), name).data
        own.add_(change.to(own.device), alpha=0.7)
    reference.set_conds(POSITIVE, NEGATIVE)
    reference.set_cfg(4.0)
    assert distance(sample(ours, model), sample(reference, model)) <= TOLERANCE


def test_differences_of_zeros_cost_nothing():
    """No layer gets a hook."""
    model = tiny.sd15()
    state = {key: torch.zeros_like(tensor) for key, tensor in differences(model)[0].items()}
    layers = lora_layers(model)
    file = parse_lora(state, {}, layers, host_names(model))
    assert file.zeros == len(state) and not file.layers


SLICED = {  # family -> (model, naming of its fused layers' slices)
    "flux": (tiny.flux, family_loras.FLUX_DIFFUSERS),
    "z_image": (tiny.z_image, family_loras.Z_IMAGE_AI_TOOLKIT),
}


@pytest.mark.parametrize("family", SLICED)
@pytest.mark.parametrize("kind", HOST_KINDS)
def test_slices_of_a_fused_layer_are_the_hosts(kind, family):
    make, naming = SLICED[family]
    model = make()
    layers = model_layers(model)
    places = {
        stem: (rows.stop - rows.start, *layers[path][1:])
        for stem, path, rows in naming.places(layers)
    }
    assert len(places) > len({path for _, path, _ in naming.places(layers)})
    state, _ = whole_file(kind, places, seed=3, without=HOST_DROPS)
    ours = symmetric(routed(model, [state], [0.8]))
    expected = symmetric(loaded(model, [state], [0.8]))
    assert distance(expected, symmetric(model)) > 0.01
    assert distance(ours, expected) <= TOLERANCE


@pytest.fixture
def folder(tmp_path):
    folder_paths.add_model_folder_path("loras", str(tmp_path))
    yield tmp_path
    folder_paths.folder_names_and_paths["loras"][0].remove(str(tmp_path))
    folder_paths.filename_list_cache.clear()


BRANCHES = (BranchFile("of a kind.safetensors", "content", 0.7),
            BranchFile("plain.safetensors", "style", -0.4))  # fmt: skip


@pytest.fixture(params=KINDS)
def placed(request, folder):
    """(model, the two states), their files in place: one of the kind, one plain."""
    model = tiny.sdxl(transformer_depth_output=[0, 0, 1, 1, 1, 1])  # with B-LoRA's blocks
    layers = model_layers(model)
    states = file_of(request.param, layers)[0], tiny.random_lora(layers, 3, seed=12)
    for chosen, state in zip(BRANCHES, states, strict=True):
        safetensors.torch.save_file(state, folder / chosen.name)
    return model, states


def test_every_method_takes_it_and_auto_too(placed):
    model, _ = placed
    for method in FUSION:
        for sets in ("auto", "all") if method.traits.layer_sets else ("all",):
            request = RouterRequest("<c>a</c> <s>b</s>", BRANCHES, sets, {"method": method.key})
            files = [read_branch_file(one, model) for one in BRANCHES]
            made = planned(model, request, parse(request.prompt), files)
            ours = engine.attach(model, made.bank, compose(made.gates, made.bank))
            assert torch.isfinite(symmetric(ours)).all()


def test_a_file_fused_of_it_is_the_routed_model(placed):
    """Cut to a rank above that of these layers: only rounding is lost."""
    model, states = placed
    strengths = [one.strength for one in BRANCHES]
    request = FuseRequest(BRANCHES, "all", {"method": "direct"}, rank=4096, save_as="fp32")
    result = fuse_branches(model, request, lambda done, total: None)
    assert "relative error" in result.report
    alone = {kohya_name(path): one for path, one in result.layers.items()}
    stored = {
        f"{stem}.{end}": tensor
        for stem, one in alone.items()
        for end, tensor in (
            ("lora_down.weight", one.down),
            ("lora_up.weight", one.up.reshape(*one.up.shape, *[1] * (one.down.ndim - 2))),
            ("alpha", torch.tensor(one.scale * one.rank)),
        )
    }
    ours = symmetric(routed(model, states, strengths))
    assert distance(symmetric(loaded(model, [stored], [1.0])), ours) <= TOLERANCE


@pytest.mark.parametrize("method", MERGES.keys())
def test_every_weight_merge_takes_it(placed, method):
    model, _ = placed
    request = FuseRequest(BRANCHES, "all", {"method": method}, rank=8, save_as="fp32")
    result = fuse_branches(model, request, lambda done, total: None)
    assert set(result.layers) == set(model_layers(model))
    assert max(one.rank for one in result.layers.values()) <= 8


def test_without_what_cannot_act_the_rest_of_a_file_acts(folder):
    """A replaced weight, a layer of another model, a norm that the model computes in one step."""
    model = tiny.z_image()
    state = tiny.random_lora(model_layers(model), 3, seed=12)
    gone = next(key.removesuffix(".alpha") for key in state if key.endswith(".alpha"))
    rest = {key: tensor for key, tensor in state.items() if not key.startswith(f"{gone}.")}
    broken = rest | {
        f"{gone}.lora_down.weight": torch.ones(3, 5),
        f"{gone}.lora_up.weight": torch.ones(7, 3),
        "diffusion_model.cap_embedder.0.set_weight": torch.ones(4),
        "diffusion_model.layers.0.attention.q_norm.diff": torch.ones(64),
    }
    only = (BranchFile("of a kind.safetensors", "content", 0.7),)
    safetensors.torch.save_file(broken, folder / only[0].name)
    with pytest.raises(CraftError, match="replaced weight.*allow_unmatched"):
        read_branch_file(only[0], model)
    request = RouterRequest("", only, "all", {"method": "direct"}, allow_unmatched=True)
    made = planned(model, request, None, [read_branch_file(only[0], model, allow=True)])
    (line,) = (one for one in made.report if "cannot act" in one)
    assert "2 that cannot act" in line and "replaced weight" in line and gone in line
    assert any("attention.q_norm" in fault for fault in made.faults)
    ours = engine.attach(model, made.bank, compose(made.gates, made.bank))
    assert distance(symmetric(ours), symmetric(loaded(model, [rest], [0.7]))) <= TOLERANCE


def test_a_rank_of_zero_is_refused_where_an_update_has_full_rank(folder):
    model = tiny.sdxl()
    layers = model_layers(model)
    names = {"full": SAMPLES["LoKr"]["whole"], "low": SAMPLES["LoKr"]["w2 in two"]}
    path = next(path for path in layers if path.endswith("attn1.to_q"))
    only = (BranchFile("of a kind.safetensors", "content", 0.7),)
    request = FuseRequest(only, "all", {"method": "direct"}, save_as="fp32")
    for name, make in names.items():
        made = make(layers[path], 3)
        safetensors.torch.save_file(made.named(kohya_name(path)), folder / only[0].name)
        if name == "full":
            with pytest.raises(CraftError, match=f"{path} in of a kind.safetensors has full rank"):
                fuse_branches(model, request, lambda done, total: None)
            continue
        (one,) = fuse_branches(model, request, lambda done, total: None).layers.values()
        assert one.rank == 8 and distance(one.delta(), 0.7 * made.delta) <= TOLERANCE


@pytest.mark.parametrize("groups", [1, 2, 8])
@pytest.mark.parametrize("kind", KINDS)
def test_a_convolution_in_groups_gets_the_kinds_dw(kind, groups):
    """One after another, where a kind depends on the weight it meets."""
    layer = torch.nn.Conv2d(8, 8, 3, padding=1, groups=groups)
    shape, x = tuple(layer.weight.shape), torch.randn(2, 8, 5, 5)
    for name in variants(kind, shape):
        made = SAMPLES[kind][name](shape, 3)
        (update,) = parse_lora(made.named("lora_unet_a"), {}, {"a": shape}).layers["a"]
        with torch.inference_mode():
            y, weight = layer(x), layer.weight.clone()
            if update.on_weight:
                module = BranchModule({"a": (update,)}, torch.float32)
                (part,) = layer_parts("a", [frozenset("a")], [module])
                InTurn().add(layer, x, y, [Acting(part, 0.7), Acting(part, 0.4)])
            else:
                for gate in (0.7, 0.4):
                    act(layer, x, y, update, gate * update.scale)
            for gate in (0.7, 0.4):
                weight += gate * made.on(weight, gate)
            wanted = layer._conv_forward(x, weight, layer.bias)
        assert distance(y, wanted) <= TOLERANCE, name
