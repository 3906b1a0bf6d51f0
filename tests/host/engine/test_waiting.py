"""What a step of a routed MODEL reads from its device: each read would wait for a GPU."""

from __future__ import annotations

from contextlib import contextmanager

import comfy.patcher_extension
import comfy.samplers
import oracle
import pytest
import tiny
import torch
from craft_lora_pack.comfy_adapter.engine import engine
from craft_lora_pack.comfy_adapter.engine.modules import model_layers
from craft_lora_pack.craft_core.schedule.schedule import Schedule
from craft_lora_pack.craft_core.time import model_table
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from two_loras import NEGATIVE, POSITIVE, loras, routed

STEPS = 3
READS = {"item", "_local_scalar_dense", "nonzero", "equal", "masked_select", "is_nonzero"}


class Reads(TorchDispatchMode):
    """Counts, while counting, how often numbers are read of what the device holds: the model's
    parameters, the inputs of a prediction, and all that is computed from them."""

    def __init__(self, network):
        super().__init__()
        self.held = {p.untyped_storage()._cdata for p in network.parameters()}
        self.count, self.counting, self.kept = 0, False, []

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


def reads(model, monkeypatch, scale=4.0):
    """How often a prediction of the model reads, beyond those of the host without branches."""
    counter, watched = Reads(model.model.diffusion_model), model.clone()
    kind = comfy.patcher_extension.WrappersMP.PREDICT_NOISE
    outside = {kind: {"counting": [counter.predict]}}
    options = watched.model_options["transformer_options"]
    options["wrappers"] = comfy.patcher_extension.merge_nested_dicts(
        outside, options.get("wrappers", {})
    )
    guider = oracle.guider(watched, POSITIVE, NEGATIVE, scale)
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


@pytest.mark.parametrize("clock", ["steps", "model"])
@pytest.mark.parametrize("steady", [{"shape": "constant"}, {"content_floor": 1, "style_floor": 1}])
def test_a_schedule_that_changes_nothing_is_none_on_either_clock(world, clock, steady, monkeypatch):
    model, states = world
    schedule = Schedule(**{"shape": "cosine", **steady}, clock=clock)
    ours, plain = (asymmetric(routed(model, states, one)) for one in (schedule, None))
    results = [
        oracle.sample(oracle.guider(one, POSITIVE, NEGATIVE, 4.0), tiny.latent(size=8), steps=STEPS)
        for one in (ours, plain)
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
