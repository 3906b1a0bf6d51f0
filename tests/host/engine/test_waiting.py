"""What a step of a routed MODEL reads from its device: each read would wait for a GPU."""

from __future__ import annotations

from contextlib import contextmanager

import comfy.model_management
import comfy.patcher_extension
import comfy.samplers
import oracle
import pytest
import tiny
import torch
import torch._dynamo
from adapter_samples import SAMPLES, whole_file
from comfy_api.torch_helpers import set_torch_compile_wrapper
from comfy_extras.nodes_torch_compile import skip_torch_compile_dict
from craft_lora_pack.comfy_adapter.engine import engine
from craft_lora_pack.comfy_adapter.engine.compiled import why_uncompiled
from craft_lora_pack.comfy_adapter.engine.modules import model_layers
from craft_lora_pack.craft_core.fusion import FUSION
from craft_lora_pack.craft_core.fusion.compose import compose
from craft_lora_pack.craft_core.lora import pair_statistics
from craft_lora_pack.craft_core.schedule.schedule import Schedule
from craft_lora_pack.craft_core.time import model_table
from craft_lora_pack.craft_core.types import Routing
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from two_loras import NEGATIVE, POSITIVE, bank_of, loras, routed

STEPS = 3
SMALL = {  # for a compiler
    "num_res_blocks": [1, 1], "channel_mult": [1, 2], "transformer_depth": [0, 1],
    "transformer_depth_output": [1, 1, 0, 0],
}  # fmt: skip
READS = {"item", "_local_scalar_dense", "nonzero", "equal", "masked_select", "is_nonzero"}


class Reads(TorchDispatchMode):
    """Counts, while counting, how often numbers are read of what the device holds: the model's
    parameters, the inputs of a prediction, and all that is computed from them."""

    def __init__(self, network):
        super().__init__()
        self.held = {p.untyped_storage()._cdata for p in network.parameters()}
        self.count, self.counting, self.kept = 0, False, []

    @classmethod
    def ignore_compile_internals(cls):
        """Compiled graphs run while it looks on."""
        return True

    def add(self, *tensors):
        self.kept += tensors  # so that no other tensor takes the place of one
        self.held |= {tensor.untyped_storage()._cdata for tensor in tensors}

    def has(self, tree):
        leaves = (leaf for leaf in tree_leaves(tree) if torch.is_tensor(leaf))
        return any(leaf.untyped_storage()._cdata in self.held for leaf in leaves)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        out, touched = func(*args, **kwargs), self.has((args, kwargs))
        if touched:
            self.add(*(leaf for leaf in tree_leaves(out) if torch.is_tensor(leaf)))
            self.count += self.counting and func._overloadpacket.__name__ in READS
        return out

    def predict(self, executor, x, timestep, *args, **kwargs):
        """PREDICT_NOISE, outside of the engine: what a sampler's step asks of the model."""
        self.add(x, timestep)
        self.counting = True
        try:
            return executor(x, timestep, *args, **kwargs)
        finally:
            self.counting = False

    @contextmanager
    def of_copies(self, monkeypatch):
        """Counts what leaves a tensor otherwise, too."""
        with monkeypatch.context() as patch:
            for name in ("tolist", "numpy", "cpu"):
                original = getattr(torch.Tensor, name)

                def counted(tensor, *args, original=original, **kwargs):
                    self.count += self.counting and self.has(tensor)
                    return original(tensor, *args, **kwargs)

                patch.setattr(torch.Tensor, name, counted)
            yield


def guider_of(model, scale=4.0):
    return oracle.guider(model, POSITIVE, NEGATIVE, scale)


def reads(model, monkeypatch, scale=4.0):
    """How often a prediction of the model reads, beyond those of the host without branches."""
    counter, watched = Reads(model.model.diffusion_model), model.clone()
    kind = comfy.patcher_extension.WrappersMP.PREDICT_NOISE
    outside = {kind: {"counting": [counter.predict]}}
    options = watched.model_options["transformer_options"]
    options["wrappers"] = comfy.patcher_extension.merge_nested_dicts(
        outside, options.get("wrappers", {})
    )
    guider = guider_of(watched, scale)
    with counter.of_copies(monkeypatch), counter:
        oracle.sample(guider, tiny.latent(size=8), steps=STEPS)
    return counter.count


@pytest.fixture(scope="module")
def world():
    model = tiny.sdxl()
    return model, loras(model_layers(model))


def asymmetric(model):
    return engine.set_asymmetric(model, True)


def with_weights(model):
    return engine.set_guidance(model, "role", {"content_weight": 2.0, "style_weight": 3.0})


@pytest.mark.parametrize("guided", [lambda model: model, asymmetric, with_weights])
@pytest.mark.parametrize("schedule", [None, Schedule("cosine")])
def test_a_step_reads_the_noise_level_once_where_gates_change_and_nothing_else(
    world, schedule, guided, monkeypatch
):
    model, states = world
    plain = reads(model, monkeypatch)
    found = reads(guided(routed(model, states, schedule)), monkeypatch)
    changes = schedule is not None or guided is with_weights  # weights may follow a schedule
    assert found - plain == STEPS * changes


SCHEDULES = pytest.mark.parametrize("schedule", [None, Schedule("cosine")])


@SCHEDULES
@pytest.mark.parametrize("kind", SAMPLES)
def test_no_kind_of_adapter_reads_more(world, kind, schedule, monkeypatch):
    """Those that are taken from the weights neither, where gates change and they are taken anew."""
    model, _ = world
    attention = {p: shape for p, shape in model_layers(model).items() if ".attn" in p}
    places = {f"lora_unet_{p.replace('.', '_')}": shape for p, shape in attention.items()}
    states = [whole_file(kind, places, seed)[0] for seed in (3, 5)]
    ours = asymmetric(routed(model, states, schedule))
    changes = schedule is not None
    assert reads(ours, monkeypatch) - reads(model, monkeypatch) == STEPS * changes


METHODS = {
    method: (method, {})
    for method in FUSION.keys()
    if method != "b_lora"  # needs SDXL's blocks
} | {"np_lora, falling": ("np_lora", {"course": "falling"})}


@SCHEDULES
@pytest.mark.parametrize("name", METHODS)
def test_no_method_reads_more(world, name, schedule, monkeypatch):
    (model, states), (method, settings) = world, METHODS[name]
    bank = bank_of(model, states)
    everywhere = (frozenset(bank.layers),) * 2
    routing = Routing((1.0, 1.0), everywhere, pair_statistics(bank.branches, bank.layers))
    chosen = FUSION[method]
    own = chosen.function(bank, routing, **chosen.knobs(settings))
    ours = asymmetric(engine.attach(model, bank, compose(own, bank, schedule)))
    changes = schedule is not None or own.constant is None
    assert reads(ours, monkeypatch) - reads(model, monkeypatch) == STEPS * changes


@SCHEDULES
@pytest.mark.skipif(why_uncompiled([]) is not None, reason="this torch runs it uncompiled")
def test_a_compiled_run_reads_no_more(schedule, monkeypatch):
    model, ran = tiny.sdxl(**SMALL), []
    states = loras({p: s for p, s in model_layers(model).items() if ".attn1" in p})
    free = 1 << 34  # on a CPU the host's attention reads how much there is, where a graph ends
    monkeypatch.setattr(
        comfy.model_management, "get_free_memory",
        lambda device=None, torch_free_too=False: (free, free) if torch_free_too else free,
    )  # fmt: skip

    def backend(graph, inputs, **options):
        def run(*args):
            ran.append(graph)
            return graph(*args)

        return run

    def compiled(one):
        clone = one.clone()
        options = {"guard_filter_fn": skip_torch_compile_dict}
        set_torch_compile_wrapper(model=clone, backend=backend, options=options)
        return clone

    torch._dynamo.reset()
    found = []
    for one in (compiled(model), compiled(asymmetric(routed(model, states, schedule)))):
        oracle.sample(guider_of(one), tiny.latent(size=8), steps=STEPS)  # compiles
        ran.clear()
        found.append(reads(one, monkeypatch))
        assert len(ran) >= STEPS
    torch._dynamo.reset()
    assert found[1] - found[0] == STEPS * (schedule is not None)


@pytest.mark.parametrize("clock", ["steps", "model"])
@pytest.mark.parametrize("steady", [{"shape": "constant"}, {"content_floor": 1, "style_floor": 1}])
def test_a_schedule_that_changes_nothing_is_none_on_either_clock(world, clock, steady, monkeypatch):
    model, states = world
    schedule = Schedule(**{"shape": "cosine", **steady}, clock=clock)
    ours, plain = (asymmetric(routed(model, states, one)) for one in (schedule, None))
    results = [
        oracle.sample(guider_of(one), tiny.latent(size=8), steps=STEPS) for one in (ours, plain)
    ]
    assert torch.equal(*results)
    assert reads(ours, monkeypatch) == reads(plain, monkeypatch)


def test_the_counter_sees_what_a_step_reads(world, monkeypatch):
    model, _ = world
    watched = model.clone()

    def reading(args):
        float(args["denoised"].sum())
        args["denoised"].mean().tolist()
        return args["denoised"]

    watched.set_model_sampler_post_cfg_function(reading)
    assert reads(watched, monkeypatch) - reads(model, monkeypatch) == 2 * STEPS


def test_rows_in_calls_of_their_own_read_no_more(world, monkeypatch):
    model, states = world
    ours = asymmetric(routed(model, states, Schedule("cosine")))
    together = reads(ours, monkeypatch)
    monkeypatch.setattr(model.model, "memory_required", lambda *args, **kwargs: 1e30)
    assert reads(ours, monkeypatch) == together


@pytest.mark.parametrize("make", [tiny.sd15, tiny.sdxl, tiny.sd3, tiny.flux])
def test_a_runs_noise_levels_are_the_hosts_and_are_read_at_once(make, monkeypatch):
    model = make()
    sampling = model.get_model_object("model_sampling")
    inner = [float(sampling.percent_to_sigma(i / 1000)) for i in range(1, 1000)]
    expected = model_table([float(sampling.sigma_max), *inner, float(sampling.sigma_min)])
    assert engine.noise_levels(model) == pytest.approx(expected, rel=1e-6)
    counter = Reads(sampling)
    counter.add(*sampling.buffers())
    counter.counting = True
    with counter.of_copies(monkeypatch), counter:
        engine.noise_levels(model)
    assert counter.count <= 3  # the first, the last and all between
