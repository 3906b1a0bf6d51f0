"""A routed MODEL under the host's MultiGPU CFG Split: each device computes some of the rows.

Two labels of the CPU stand for two devices. The host's node, its copies for each device, its
threads and its division of the rows run as they are; only the list of devices is replaced.
"""

from __future__ import annotations

import gc
import threading

import comfy.model_management
import comfy.patcher_extension
import comfy.samplers
import oracle
import pytest
import tiny
import torch
import torch._dynamo
from comfy_api.torch_helpers import set_torch_compile_wrapper
from craft_lora_pack.comfy_adapter.engine import engine
from craft_lora_pack.comfy_adapter.engine.bank import branch_patcher
from craft_lora_pack.comfy_adapter.engine.modules import model_layers
from craft_lora_pack.comfy_adapter.guide.acfg import acfg_guider
from craft_lora_pack.craft_core.errors import CraftError
from craft_lora_pack.craft_core.fusion.compose import compose
from craft_lora_pack.craft_core.schedule.schedule import Schedule
from craft_lora_pack.craft_core.types import constant_gates
from older_hosts import later_module
from oracle import LAW, distance
from two_loras import NEGATIVE, POSITIVE, bank_of, loras, routed

MultiGPUCFGSplitNode = later_module("comfy_extras.nodes_multigpu").MultiGPUCFGSplitNode

DEVICES = (torch.device("cpu"), torch.device("cpu", 1))


@pytest.fixture(autouse=True)
def _two_devices(monkeypatch):
    # The host's node trips over models that Python has collected since they were loaded, and takes
    # no copy of theirs again; so none is, while a test runs.
    comfy.model_management.unload_all_models()
    gc.collect()
    comfy.model_management.current_loaded_models.clear()
    monkeypatch.setattr(
        comfy.model_management, "get_all_torch_devices", lambda exclude_current=False: DEVICES
    )
    gc.disable()
    yield
    gc.enable()


def split(model):
    (made,) = MultiGPUCFGSplitNode.execute(model, 2).args
    assert len(made.get_additional_models_with_key("multigpu")) == 1
    return made


def loadable(model):
    """As a loader of the host makes it: it can be loaded once more, for another device."""
    model.cached_patcher_init = (tiny.sdxl, ())
    return model


def run(model, asymmetric=True, positive=POSITIVE, **how):
    return oracle.sample(
        acfg_guider(model, positive, NEGATIVE, 4.0, asymmetric), tiny.latent(), **how
    )


class Calls:
    """What each call of a model computed: its network, its thread and its conditionings."""

    def __init__(self):
        self.seen = []

    def watch(self, model):
        clone = model.clone()
        kind = comfy.patcher_extension.WrappersMP.APPLY_MODEL
        clone.add_wrapper_with_key(kind, "watching", self._note)
        return clone

    def _note(self, executor, *args, **kwargs):
        network = executor.class_obj.diffusion_model
        hooks = sum(len(module._forward_hooks) for module in network.modules())
        self.seen.append((id(network), threading.get_ident(), hooks))
        return executor(*args, **kwargs)


@pytest.mark.parametrize("asymmetric", [True, False])
@pytest.mark.parametrize("order", ["router, split", "split, router"])
def test_rows_on_two_devices_get_the_gates_of_their_conditionings(order, asymmetric):
    model = loadable(tiny.sdxl())
    states = loras(model_layers(model))
    calls = Calls()
    if order == "router, split":
        ours = split(routed(model, states, Schedule("cosine")))
    else:
        ours = routed(split(model), states, Schedule("cosine"))
    made = run(calls.watch(ours), asymmetric)
    alone = run(routed(tiny.sdxl(), states, Schedule("cosine")), asymmetric)
    assert distance(made, alone) <= LAW
    networks, threads, hooks = (set(of) for of in zip(*calls.seen, strict=True))
    assert len(networks) == len(threads) == 2
    assert min(hooks) == len(model_layers(model))


def attached(model, states, patchers, strengths=(0.7, 0.4)):
    """A routed MODEL whose branches are held by the patchers, as MODELs of one graph share them."""
    bank = bank_of(model, states, strengths)
    ones = constant_gates(torch.ones(len(bank.layers), 2))
    return engine.attach(model, bank, compose(ones, bank, Schedule("cosine")), patchers=patchers)


def patchers_of(model, states):
    return [branch_patcher(branch.layers, model) for branch in bank_of(model, states).branches]


def test_each_branch_is_found_on_a_copy_whose_other_file_was_changed():
    """The host takes the copy of the last run, drops the old file's and adds the new one's last."""
    model = loadable(tiny.sdxl())
    layers = model_layers(model)
    states = loras(layers)
    first, second = patchers_of(model, states)
    before = split(attached(model, states, (first, second)))
    run(before)
    changed = (tiny.random_lora(layers, 4, seed=21), states[1])
    (new, _) = patchers_of(model, changed)
    after = split(attached(model, changed, (new, second)))
    clone = after.get_additional_models_with_key("multigpu")[0]
    mine = before.get_additional_models_with_key("multigpu")[0]
    assert clone.model is mine.model, "the copy of the last run is used again"
    assert distance(run(after), run(attached(tiny.sdxl(), changed, None))) <= LAW


def test_a_copy_for_another_device_takes_tensors_alone():
    model = tiny.sdxl()
    for patcher in patchers_of(model, loras(model_layers(model))):
        patcher.model.dynamic_pins = {0: tiny.OnTheCard()}
        make, given = patcher.cached_patcher_init
        copied = make(*given).model
        assert copied.shapes == patcher.model.shapes and copied.dtype == patcher.model.dtype
        pairs = list(zip(copied.parameters(), patcher.model.parameters(), strict=True))
        assert pairs and all(torch.equal(a, b) and a is not b for a, b in pairs)
        assert not {a.data_ptr() for a, _ in pairs} & {b.data_ptr() for _, b in pairs}


def test_two_routers_in_a_row_with_one_file_in_common():
    model = loadable(tiny.sdxl())
    layers = model_layers(model)
    states = loras(layers)
    other = (tiny.random_lora(layers, 2, seed=41), states[1])
    (first, second), (third, _) = patchers_of(model, states), patchers_of(model, other)

    def both(start, *pairs):
        for given, patchers, strengths in pairs:
            start = attached(start, given, patchers, strengths)
        return start

    strengths = ((0.7, 0.4), (-0.3, 0.5))
    ours = both(
        split(model),
        (states, (first, second), strengths[0]),
        (other, (third, second), strengths[1]),
    )
    alone = both(tiny.sdxl(), (states, None, strengths[0]), (other, None, strengths[1]))
    assert distance(run(ours), run(alone)) <= LAW


def test_several_prompts_and_a_rule_with_more_evaluations():
    model = loadable(tiny.sdxl())
    states = loras(model_layers(model))
    results = []
    for start in (split(model), tiny.sdxl()):
        ours = engine.set_guidance(
            routed(start, states, Schedule("linear")), "role",
            {"content_weight": 2.0, "style_weight": 3.0},
        )  # fmt: skip
        guider = comfy.samplers.CFGGuider(ours)
        guider.set_conds([*POSITIVE, *tiny.conditioning(7)], NEGATIVE)
        guider.set_cfg(4.0)
        results.append(oracle.sample(guider, tiny.latent(2)))
    assert distance(*results) <= LAW


def test_both_devices_write_one_record():
    states = loras(model_layers(tiny.sdxl()))
    records = []
    for start in (split(loadable(tiny.sdxl())), tiny.sdxl()):
        watched, recorder = engine.recorded(routed(start, states, Schedule("cosine")))
        run(watched)
        records += recorder.records.values()
    split_run, alone = records
    assert split_run.sigmas == alone.sigmas
    assert split_run.evaluations == alone.evaluations
    assert all(map(torch.equal, split_run.tables, alone.tables))


@pytest.mark.parametrize(
    "error", [RuntimeError, comfy.model_management.InterruptProcessingException]
)
def test_an_error_on_one_device_leaves_no_hook_on_either(error):
    model = loadable(tiny.sdxl())
    ours = routed(split(model), loras(model_layers(model)))
    clone, networks = ours.clone(), []

    def failing(executor, *args, **kwargs):
        networks.append(executor.class_obj.diffusion_model)
        if threading.current_thread() is not threading.main_thread() and len(networks) > 2:
            raise error
        return executor(*args, **kwargs)

    clone.add_wrapper_with_key(comfy.patcher_extension.WrappersMP.APPLY_MODEL, "failing", failing)
    with pytest.raises(error):
        run(clone)
    assert len({id(network) for network in networks}) == 2
    assert not any(m._forward_hooks for network in networks for m in network.modules())


def test_kinds_that_run_uncompiled_are_so_on_both_devices():
    """For the whole run: no thread switches compiling for another.

    Graphs are left out: the host's Torch Compile Model has both devices run the first one's
    network, and torch that has compiled in two threads crashes in the tests after.
    """
    model, twin = loadable(tiny.sdxl()), tiny.sdxl()
    layers = {p: s for p, s in model_layers(model).items() if "attn1.to_q" in p}
    states = loras(layers)
    for state in states:
        for path, shape in layers.items():
            stem = "lora_unet_" + path.replace(".", "_")
            state[f"{stem}.dora_scale"] = torch.rand(shape[0], 1) + 0.5
    ours = routed(split(model), states)
    graphs = []

    def counting(graph, inputs, **options):
        graphs.append(graph)
        return graph

    for one in (ours, *ours.get_additional_models_with_key("multigpu")):
        one.model.diffusion_model.middle_block[1].compile(backend=counting)
    made = run(ours)
    assert graphs == []
    assert torch._dynamo.eval_frame._stance.stance == "default"
    assert distance(made, run(routed(twin, states))) <= LAW


def test_the_hosts_torch_compile_model_is_refused_there():
    """It would have both devices run the first one's network."""
    model = loadable(tiny.sdxl())
    ours = routed(split(model), loras(model_layers(model)))
    set_torch_compile_wrapper(model=ours, backend="eager")
    with pytest.raises(CraftError, match="split among devices"):
        run(ours)
