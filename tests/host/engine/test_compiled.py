"""Models under torch.compile: they stay compiled while branches act, in graphs of their own."""

from __future__ import annotations

import comfy.model_management
import comfy.patcher_extension
import oracle
import pretend_device
import pytest
import tiny
import torch
import torch._dynamo
from adapter_samples import SAMPLES, variants
from comfy_api.torch_helpers import set_torch_compile_wrapper
from comfy_extras.nodes_torch_compile import skip_torch_compile_dict
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


def test_kinds_taken_from_the_weight_run_uncompiled():
    model, backend = small(), Counting()
    own = some_layers(model, "attn1.to_q")

    def dora(places, seed):
        state = tiny.random_lora(places, 2, seed)
        for path, shape in places.items():
            stem = "lora_unet_" + path.replace(".", "_")
            state[f"{stem}.dora_scale"] = torch.rand(shape[0], 1) + 0.5
        return state

    ours = routed(model, (own, own), kind=dora)
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
