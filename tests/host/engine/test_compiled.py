"""Models under torch.compile: they stay compiled while branches act, in graphs of their own."""

from __future__ import annotations

import gc
import weakref

import comfy.model_management
import comfy.model_patcher
import comfy.patcher_extension
import dynamic_vram
import oracle
import pretend_device
import pytest
import tiny
import torch
import torch._dynamo
from adapter_samples import SAMPLES, variants
from comfy_api.torch_helpers import set_torch_compile_wrapper
from comfy_extras.nodes_torch_compile import TorchCompileModel, skip_torch_compile_dict
from craft_lora_pack.comfy_adapter.engine import engine
from craft_lora_pack.comfy_adapter.engine.bank import BranchModule, layer_parts
from craft_lora_pack.comfy_adapter.engine.compiled import Graphs, why_uncompiled
from craft_lora_pack.comfy_adapter.engine.hooks import (
    GatedChunks,
    ModelCall,
    attached,
    layer_hooks,
)
from craft_lora_pack.comfy_adapter.engine.modules import host_names, model_layers
from craft_lora_pack.comfy_adapter.guide.acfg import acfg_guider
from craft_lora_pack.craft_core.fusion.compose import compose
from craft_lora_pack.craft_core.lora import parse_lora
from craft_lora_pack.craft_core.schedule.schedule import Schedule
from craft_lora_pack.craft_core.types import Bank, Branch, constant_gates
from oracle import LAW, distance
from torch import nn

POSITIVE, NEGATIVE = tiny.conditioning(1), tiny.conditioning(2)
COSINE = Schedule("cosine")
STRENGTHS = (0.7, 0.4)
SMALL = {
    "num_res_blocks": [1, 1], "channel_mult": [1, 2], "transformer_depth": [0, 1],
    "transformer_depth_output": [1, 1, 0, 0],
}  # fmt: skip


@pytest.fixture(autouse=True)
def _fixed_memory(monkeypatch):
    """On a CPU the host's attention reads how much memory is free, where a graph ends."""
    free = 1 << 34
    monkeypatch.setattr(
        comfy.model_management,
        "get_free_memory",
        lambda device=None, torch_free_too=False: (free, free) if torch_free_too else free,
    )
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


class Counting:
    """A backend that runs what another makes of a graph, and counts the graphs."""

    def __init__(self, backend="eager"):
        self.compiler, self.graphs = torch._dynamo.lookup_backend(backend), 0

    def __call__(self, graph, inputs, **options):
        self.graphs += 1
        return self.compiler(graph, inputs)

    def new(self) -> int:
        """Graphs since the last question."""
        graphs, self.graphs = self.graphs, 0
        return graphs


def small():
    return tiny.sdxl(**SMALL)


def compiled(model, backend):
    """As the host's TorchCompileModel."""
    clone = model.clone()
    options = {"guard_filter_fn": skip_torch_compile_dict}
    set_torch_compile_wrapper(model=clone, backend=backend, options=options)
    return clone


def some_layers(model, *parts):
    layers = model_layers(model)
    chosen = {p: s for p, s in layers.items() if any(part in p for part in parts)}
    assert chosen
    return chosen


def routed(model, places, schedule=COSINE, strengths=STRENGTHS, kind=None):
    """The model with two LoRAs on the places, by branch."""
    layers, names = model_layers(model), host_names(model)
    branches = []
    for role, own, strength, seed in zip(
        ("content", "style"), places, strengths, (11, 12), strict=True
    ):
        state = tiny.random_lora(own, 3, seed) if kind is None else kind(own, seed)
        update = parse_lora(state, {}, layers, names).layers
        branches.append(Branch(role, role, update, strength))
    bank = Bank.of(branches, list(layers))
    ones = constant_gates(torch.ones(len(bank.layers), 2))
    return engine.attach(model, bank, compose(ones, bank, schedule))


def acfg(model, positive=POSITIVE, negative=NEGATIVE, latent=None, steps=4, asymmetric=True):
    guider = acfg_guider(model, positive, negative, 4.0, asymmetric)
    return oracle.sample(guider, latent or tiny.latent(size=8), steps=steps)


def mark():
    config = torch._dynamo.config
    return torch.is_autocast_cache_enabled(), config.skip_nnmodule_hook_guards


@pytest.mark.parametrize("inner", ["eager", "aot_eager"])
def test_one_graph_with_branches_and_one_without(inner):
    """Over steps, strengths, schedules and prompts, beside a graph that was compiled before."""
    model, backend = small(), Counting(inner)
    attention = some_layers(model, "attn", "emb_layers")
    places = (attention, attention)
    uncompiled, plain = acfg(model), compiled(model, backend)
    alone = acfg(plain)
    assert backend.new() == 1
    before = mark()

    def check(graphs, given, schedule=COSINE, strengths=STRENGTHS, positive=POSITIVE):
        ours = routed(model, given, schedule, strengths)
        result = acfg(compiled(ours, backend), positive)
        assert backend.new() == graphs
        assert distance(result, acfg(ours, positive)) <= LAW
        assert distance(result, uncompiled) > 1e-3
        assert mark() == before

    check(1, places)
    check(0, places)
    check(0, places, strengths=(0.2, -0.9))
    check(0, places, schedule=Schedule("linear"))
    check(0, places, positive=tiny.conditioning(9))
    check(1, (some_layers(model, "attn1"), some_layers(model, "attn2")))  # other hooks
    assert torch.equal(acfg(plain), alone)
    assert backend.new() == 0
    assert distance(alone, uncompiled) <= LAW


def test_a_model_that_was_never_run_plain_compiles_the_plain_graph_once():
    """Where a schedule has a step without branches, that step's graph is the plain model's."""
    model, backend = small(), Counting()
    places = (some_layers(model, "attn1"),) * 2
    ours = routed(model, places, schedule=None, strengths=(0.0, 0.0))
    assert torch.equal(acfg(compiled(ours, backend)), acfg(model))
    assert backend.new() == 1
    assert torch.equal(acfg(compiled(model, backend)), acfg(model))
    assert backend.new() == 0


def test_rows_areas_and_batches_are_told_apart_in_graphs():
    model, backend = small(), Counting()
    ours = routed(model, (some_layers(model, "attn1"),) * 2)
    area = {"set_area_to_bounds": False, "strength": 1.0}
    left, right = (
        tiny.conditioning(seed, area=(8, 4, 0, x), **area) for seed, x in ((1, 0), (7, 4))
    )
    cases = [
        {},
        {"asymmetric": False},
        {"latent": tiny.latent(3, size=8)},
        {"positive": [*POSITIVE, *tiny.conditioning(7)]},
        {"positive": [*left, *right]},
    ]
    # as many graphs of a block as it has shapes, each of one shape
    with torch._dynamo.config.patch(recompile_limit=64, automatic_dynamic_shapes=False):
        for case in cases:
            assert distance(acfg(compiled(ours, backend), **case), acfg(ours, **case)) <= LAW
        assert backend.new() > 1
        for case in cases:
            acfg(compiled(ours, backend), **case)
        assert backend.new() == 0


def test_two_models_one_compiled_and_one_not_and_two_routers_in_a_row():
    model, other, backend = small(), small(), Counting()
    places = (some_layers(model, "attn1"),) * 2
    ours, its = routed(model, places), routed(other, places, strengths=(0.1, 0.9))
    expected = acfg(its)
    assert distance(acfg(compiled(ours, backend)), acfg(ours)) <= LAW
    assert torch.equal(acfg(its), expected)
    twice = routed(ours, (some_layers(model, "attn2"),) * 2)
    assert distance(acfg(compiled(twice, backend)), acfg(twice)) <= LAW
    assert distance(acfg(twice), acfg(ours)) > 1e-3
    backend.new()
    acfg(compiled(twice, backend))
    assert backend.new() == 0


class Stop(BaseException):
    """As an interrupt."""


@pytest.mark.parametrize("error", [RuntimeError, Stop])
def test_settings_are_back_after_an_error(error):
    model, backend = small(), Counting()
    ours = compiled(routed(model, (some_layers(model, "attn1"),) * 2), backend)
    before, seen = mark(), []

    def stopping(executor, *args, **kwargs):
        seen.append(mark())
        if len(seen) == 2:
            raise error
        return executor(*args, **kwargs)

    kind = comfy.patcher_extension.WrappersMP.APPLY_MODEL
    ours.add_wrapper_with_key(kind, "stopping", stopping)  # inside the engine's own
    with pytest.raises(error):
        acfg(ours)
    assert seen == [(not before[0], False)] * 2
    assert mark() == before
    assert not any(m._forward_hooks for m in model.model.diffusion_model.modules())
    assert torch.equal(acfg(compiled(model, backend)), acfg(model))


def by_node(model, backend):
    (made,) = TorchCompileModel.execute(model, backend).args
    return made


class Loaded:
    """A MODEL as the host's loaders make it, which counts how often it is loaded once more."""

    def __init__(self):
        self.again, self.model = 0, small()
        self.model.cached_patcher_init = (self._load, ())

    def _load(self, disable_dynamic=False):
        self.again += 1
        with pytest.MonkeyPatch.context() as patch:
            if disable_dynamic:
                kind = comfy.model_patcher.ModelPatcher
                patch.setattr(comfy.model_patcher, "CoreModelPatcher", kind)
            return small()


@pytest.fixture
def on_a_card():
    """Under dynamic VRAM, without which the host's node takes a MODEL."""
    if pretend_device.is_asked_for():
        pytest.skip("a label of the processor stands for the card")
    with dynamic_vram.dynamic_vram():
        yield


def test_under_dynamic_vram_an_edit_loads_and_compiles_nothing_anew(on_a_card):
    loaded, backend = Loaded(), Counting()
    model, places = loaded.model, (some_layers(loaded.model, "attn1"),) * 2
    assert model.is_dynamic()

    def made(strengths):
        return by_node(routed(model, places, strengths=strengths), backend)

    ours = made(STRENGTHS)
    assert not ours.is_dynamic() and loaded.again == 1
    first = acfg(ours)
    assert distance(first, acfg(routed(small(), places))) <= LAW
    assert backend.new() == 1
    network = weakref.ref(ours.model)
    del ours  # the host forgets what it made before it makes it anew
    gc.collect()
    (entry,) = (
        one for one in comfy.model_management.current_loaded_models
        if one.real_model() is network()
    )  # fmt: skip
    assert entry.model is not None and not entry.model.is_dynamic()
    edited = made((0.2, -0.9))
    assert edited.model is network()
    assert distance(acfg(edited), first) > 1e-3
    assert torch.equal(acfg(made(STRENGTHS)), first)
    assert (loaded.again, backend.new()) == (1, 0)
    comfy.model_management.unload_all_models()
    assert edited.loaded_size() == 0
    without = routed(model, places, strengths=(0.0, 0.0))
    assert by_node(without, backend).model is network()
    del entry, edited, without
    acfg(routed(model, places))  # the node was taken out
    gc.collect()
    assert network() is None


def test_under_dynamic_vram_a_model_loaded_otherwise_or_not_again_is_not_shared(on_a_card):
    loaded, other = Loaded(), Loaded()
    ours = routed(loaded.model, (some_layers(loaded.model, "attn1"),) * 2)
    first = ours.clone(disable_dynamic=True)
    assert ours.get_non_dynamic_delegate().model is first.model
    assert ours.clone(disable_dynamic=True, model_override=first.get_clone_model_override()).model
    assert loaded.again == 1
    ours.cached_patcher_init = other.model.cached_patcher_init
    assert ours.clone(disable_dynamic=True).model is not first.model
    assert (loaded.again, other.again) == (1, 1)
    ours.cached_patcher_init = None
    with pytest.raises(RuntimeError, match="cached_patcher_init"):
        ours.clone(disable_dynamic=True)
    assert ours.clone().model is ours.model


def test_clones_that_share_a_network_may_have_other_devices(on_a_card):
    model = Loaded().model
    ours = routed(model, (some_layers(model, "attn1"),) * 2)
    first, second = (ours.clone(disable_dynamic=True) for _ in range(2))
    second.load_device = tiny.CPU  # as Select Model Device does
    assert first.model is second.model
    for one in (first, second, first):
        comfy.model_management.load_models_gpu([one])
        assert one.current_loaded_device() == one.load_device
        assert one.loaded_size() == one.model_size()


@pytest.mark.parametrize("dynamic", [False, True])
def test_a_router_after_the_hosts_node_is_compiled(dynamic, request):
    if dynamic:
        request.getfixturevalue("on_a_card")
    loaded, backend = Loaded(), Counting()
    plain = by_node(loaded.model, backend)
    places = (some_layers(plain, "attn1"),) * 2
    expected, graphs = acfg(routed(small(), places)), 1
    for strengths in (STRENGTHS, (0.2, -0.9), STRENGTHS):
        made = acfg(routed(plain, places, strengths=strengths))
        assert backend.new() == graphs
        graphs = 0
    assert distance(made, expected) <= LAW
    assert loaded.again == dynamic


def in_place(network, **how):
    network.compile(**how)


def block_in_place(network, **how):
    network.middle_block[1].compile(**how)


def block_wrapped(network, **how):
    blocks = network.middle_block[1].transformer_blocks
    blocks[0] = torch.compile(blocks[0], **how)


@pytest.mark.parametrize("compile_in", [in_place, block_in_place, block_wrapped])
def test_a_model_compiled_in_place_stays_so(compile_in):
    model, twin, backend = small(), small(), Counting()
    places = (some_layers(model, "attn1"),) * 2
    ours, expected = routed(model, places), acfg(routed(twin, places))
    options = {"guard_filter_fn": skip_torch_compile_dict}
    compile_in(model.model.diffusion_model, backend=backend, options=options)
    plain = acfg(model)
    assert backend.new() == 1
    assert distance(acfg(ours), expected) <= LAW
    assert backend.new() == 1
    acfg(ours)
    assert torch.equal(acfg(model), plain)
    assert backend.new() == 0


def dora(places, seed):
    state = tiny.random_lora(places, 2, seed)
    for path, shape in places.items():
        stem = "lora_unet_" + path.replace(".", "_")
        state[f"{stem}.dora_scale"] = torch.rand(shape[0], 1) + 0.5
    return state


def test_kinds_taken_from_the_weight_run_uncompiled():
    model, backend = small(), Counting()
    own = some_layers(model, "attn1.to_q")
    ours = routed(model, (own, own), kind=dora)
    assert torch.equal(acfg(compiled(ours, backend)), acfg(ours))
    assert backend.new() == 0


def test_a_router_before_one_of_such_kinds_runs_uncompiled_with_it():
    """Its hooks would else come after those of the other, which ask what the first have made."""
    model, backend = small(), Counting()
    own = some_layers(model, "attn1.to_q")
    ours = routed(routed(model, (own, own)), (own, own), kind=dora)
    assert torch.equal(acfg(compiled(ours, backend)), acfg(ours))
    assert backend.new() == 0


KINDS = {
    kind: [name for name in variants(kind, (16, 16)) if name != "magnitude"]
    for kind in ("LoRA", "LoHa", "LoKr", "weight difference")
}
CASES = [(kind, name) for kind, names in KINDS.items() for name in names]


@pytest.mark.parametrize(("kind", "name"), CASES)
@pytest.mark.parametrize("layer", ["linear", "convolution"])
def test_every_kind_is_one_graph_that_gates_do_not_change(kind, name, layer):
    """A layer alone, its conditional rows, at gates that change from call to call."""
    shape = (16, 16) if layer == "linear" else (16, 16, 3, 3)
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(16, 16) if layer == "linear" else nn.Conv2d(16, 16, 3, 1, 1))
    x = torch.randn(2, 5, 16) if layer == "linear" else torch.randn(2, 16, 6, 6)
    state = SAMPLES[kind][name](shape, 3).sized(0.3).named("lora_unet_0")
    updates = parse_lora(state, {}, {"0": shape}).layers
    assert updates and why_uncompiled(updates["0"]) is None
    call, backend = ModelCall(), Counting()
    parts = {"0": layer_parts("0", [updates], [BranchModule(updates, torch.float32)])}
    hooks = layer_hooks(network, parts, call)
    running = torch.compile(network, backend=backend, fullgraph=True)
    graphs = Graphs(hooks, call)
    with torch.inference_mode():
        plain = running(x)
        assert backend.new() == 1
        for count, gate in enumerate((0.5, -1.5, 0.0)):
            call.set(2, [GatedChunks(1, 2, [[gate]])])
            with graphs.with_branches(x.device):
                made = running(x)
            graphs.without()
            assert backend.new() == (count == 0)
            with attached(hooks):
                expected = network(x)
            assert distance(made, expected) <= 1e-6
            assert torch.equal(made[:1], plain[:1])
        assert torch.equal(running(x), plain)
        assert backend.new() == 0


@pytest.mark.skipif(not pretend_device.is_asked_for(), reason="the host has one device")
def test_gates_are_not_copied_from_memory_that_may_be_gone(monkeypatch):
    """A copy that is not waited for needs memory that stays: pinned, as CUDA alone has it."""
    model, copies = small(), []
    ours = compiled(routed(model, (some_layers(model, "attn1"),) * 2, COSINE), Counting())
    to = torch.Tensor.to

    def noting(tensor, *given, **how):
        if "non_blocking" in how and tensor.device.type == "cpu" and tensor.ndim == 2:
            copies.append(how["non_blocking"])
        return to(tensor, *given, **how)

    monkeypatch.setattr(torch.Tensor, "to", noting)
    acfg(ours)
    assert copies and not any(copies)


@pytest.mark.sweep
@pytest.mark.skipif(
    pretend_device.is_asked_for(), reason="inductor has no code for the pretend device"
)
def test_inductor_keeps_within_its_own_error():
    model = small()
    ours = routed(model, (some_layers(model, "attn1"),) * 2)
    error = distance(acfg(compiled(model, "inductor")), acfg(model))
    assert distance(acfg(compiled(ours, "inductor")), acfg(ours)) <= max(LAW, 4 * error)
