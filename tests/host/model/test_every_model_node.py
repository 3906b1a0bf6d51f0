"""Every node of the host that takes a MODEL and plain values and gives a MODEL: before and after
the Router it does what it does before and after the host's own LoRA loaders, or is refused."""

from __future__ import annotations

import asyncio
import inspect
import random
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import folder_paths
import nodes
import oracle
import pytest
import tiny
import torch
from craft_lora_pack.comfy_adapter.engine.bank import branch_patcher
from craft_lora_pack.comfy_adapter.engine.engine import attach, set_asymmetric
from craft_lora_pack.comfy_adapter.engine.modules import model_layers
from craft_lora_pack.craft_core.errors import CraftError
from craft_lora_pack.craft_core.fusion.compose import compose
from craft_lora_pack.craft_core.schedule.schedule import Schedule
from craft_lora_pack.craft_core.types import constant_gates
from older_hosts import IS_PINNED, needs
from oracle import LAW, distance
from two_loras import (
    FAMILIES,
    NEGATIVE,
    POSITIVE,
    asymmetric_pair,
    bank_of,
    cosine,
    loras,
    routed,
    two_loaders,
)

WIDGETS = {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO"}
# What the host cannot do with the tiny models, or what another test does.
LEFT_OUT: dict[str, str] = {
    "FluxKVCache": "it is for Flux's blocks",
    "HiDreamO1PatchSeamSmoothing": "it is for a flow's noise levels",
    "ModelNoiseScale": "it is for a flow's noise levels",
    "TorchCompileModel": "it compiles for minutes; test_compiled.py has it",
}
REFUSED: dict[str, set[str]] = {}  # node -> where it is refused in a sentence: before, after
# Where the values that a node starts with leave everything as it is.
MOVED: dict[str, dict[str, Any]] = {
    "UNetSelfAttentionMultiply": {"q": 1.2, "k": 0.9, "v": 1.1, "out": 0.8},
    "UNetCrossAttentionMultiply": {"q": 1.2, "k": 0.9, "v": 1.1, "out": 0.8},
    "UNetTemporalAttentionMultiply": {"self_structural": 1.2, "cross_structural": 0.8},
    "FreSca": {"scale_low": 0.8, "scale_high": 1.4, "freq_cutoff": 4},
    "CFGOverride": {"cfg": 2.5, "start_percent": 0.2, "end_percent": 0.8},
    "Epsilon Scaling": {"scaling_factor": 1.03},
    "RescaleCFG": {"multiplier": 0.9},
    "RenormCFG": {"cfg_trunc": 2.0, "renorm_cfg": 1.5},
}  # fmt: skip


@pytest.fixture(scope="module")
def classes() -> Iterator[dict[str, type]]:
    """The host's nodes, also those that it loads as extras, by their ids. There are no files to
    choose, whatever other tests have left: a node that takes one takes no plain value."""
    before = dict(nodes.NODE_CLASS_MAPPINGS)
    asyncio.run(nodes.init_builtin_extra_nodes())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(folder_paths, "get_filename_list", lambda *_: [])
        yield dict(nodes.NODE_CLASS_MAPPINGS)
    nodes.NODE_CLASS_MAPPINGS.clear()
    nodes.NODE_CLASS_MAPPINGS.update(before)


def start_of(kind: Any, settings: dict[str, Any]) -> Any:
    """What a widget starts with; KeyError for a list of which there is nothing to choose."""
    options = kind if isinstance(kind, list) else settings.get("options", [])
    if isinstance(kind, list) or kind == "COMBO":
        return settings.get("default", next(iter(options), None))
    plain = {"INT": 0, "FLOAT": 0.0, "STRING": "", "BOOLEAN": False}
    return settings.get("default", plain[kind])


def values_of(node: type) -> dict[str, Any] | None:
    """The node's own values where it needs a MODEL and plain ones alone; None of others."""
    wanted = node.INPUT_TYPES().get("required", {})
    kinds = {name: entry[0] for name, entry in wanted.items()}
    models = [name for name, kind in kinds.items() if kind == "MODEL"]
    rest = {name: kind for name, kind in kinds.items() if kind != "MODEL"}
    takes = all(isinstance(kind, list) or kind in WIDGETS for kind in rest.values())
    if models != ["model"] or not takes or list(node.RETURN_TYPES) != ["MODEL"]:
        return None
    found = {name: start_of(kind, (*wanted[name], {})[1]) for name, kind in rest.items()}
    return None if None in found.values() else found  # a list of files, of which there are none


def patched(node: type, model: Any, values: dict[str, Any]) -> Any:
    """The MODEL that the node gives, called as the host calls it."""
    if hasattr(node, "GET_SCHEMA"):
        node.GET_SCHEMA()
        result = node.PREPARE_CLASS_CLONE(None).execute(model=model, **values)
    else:
        result = getattr(node(), node.FUNCTION)(model=model, **values)
    assert not inspect.isawaitable(result)
    return result[0]


def latents(model: Any) -> torch.Tensor:
    torch.manual_seed(1)  # some nodes draw
    random.seed(1)
    return oracle.sample(oracle.guider(model, POSITIVE, NEGATIVE), tiny.latent(seed=5), steps=3)


class Loaded:
    """A model with two LoRAs by the Router and by the host's own loaders, each file read once."""

    def __init__(self, family: str) -> None:
        self.model = FAMILIES[family]()
        self.states = loras(model_layers(self.model))
        self.bank = bank_of(self.model, self.states)
        self.gates = constant_gates(torch.ones(len(self.bank.layers), len(self.bank.branches)))
        self.gates = compose(self.gates, self.bank, None)
        self.patchers = [branch_patcher(one.layers, self.model) for one in self.bank.branches]

    def ours(self, model: Any) -> Any:
        return attach(model, self.bank, self.gates, patchers=self.patchers)

    def expected(self, model: Any) -> Any:
        return two_loaders(model, self.states)


def fault(loaded: Loaded, patch: Callable, refused: set[str]) -> str:
    """How a node before or after the Router differs from the node and the host's loaders; "" if it
    does not. Orders in which it is refused are added to `refused`."""
    after = latents(patch(loaded.expected(loaded.model)))
    orders = {
        "after": (lambda made: patch(made(loaded.model)), after),
        "before": (lambda made: made(patch(loaded.model)), after),  # mostly no other latents
    }
    for order, (graph, wanted) in orders.items():
        try:
            found = latents(graph(loaded.ours))
        except CraftError:
            refused.add(order)
            continue
        if distance(found, wanted) <= LAW:
            continue
        wanted = latents(graph(loaded.expected))
        off = distance(found, wanted)
        rows = latents(oracle.row_by_row(graph(loaded.expected)))
        if off > oracle.law(wanted, rows):
            return f"{order} the Router: {off:.2g} away"
    return ""


@pytest.mark.parametrize("family", ["sdxl", pytest.param("sd15", marks=pytest.mark.sweep)])
def test_a_node_acts_with_the_router_as_with_the_hosts_loaders(classes, family):
    faults, refusals, tried, loaded = {}, {}, 0, Loaded(family)
    plain = latents(loaded.model)
    for name, node in sorted(classes.items()):
        values = values_of(node)
        if values is None or name in LEFT_OUT:
            continue
        for own in [values, {**values, **MOVED[name]}] if name in MOVED else [values]:
            tried += 1
            try:
                found = fault(
                    loaded, partial(patched, node, values=own), refusals.setdefault(name, set())
                )
            except Exception as error:  # the host's own, on the tiny model
                found = f"the host: {type(error).__name__}: {str(error)[:200]}"
            if found:
                faults[name] = found
    assert tried >= 40
    assert faults == {}
    assert {name: orders for name, orders in refusals.items() if orders} == REFUSED
    assert torch.equal(latents(loaded.model), plain)


def test_what_is_left_out_is_there(classes):
    named = {*LEFT_OUT, *MOVED}
    assert named <= classes.keys() or not IS_PINNED
    assert all(values_of(classes[name]) is not None for name in named & classes.keys())


# Guidance that asks for more than one prediction


@pytest.mark.parametrize("multiplier", [0.7, 1.0])
def test_rescaled_guidance_is_asymmetric_as_two_models_are(classes, multiplier):
    rescale = classes["RescaleCFG"]
    results = []
    for guider in asymmetric_pair("sdxl", Schedule("cosine"), cosine):
        guider.model_patcher = patched(rescale, guider.model_patcher, {"multiplier": multiplier})
        guider.model_options = guider.model_patcher.model_options
        results.append(oracle.sample(guider, tiny.latent()))
    plain = oracle.sample(asymmetric_pair("sdxl", Schedule("cosine"), cosine)[0], tiny.latent())
    assert distance(*results) <= LAW
    assert distance(results[0], plain) > 1e-3


@pytest.mark.parametrize("asymmetric", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_negative_of_two_models_is_its_own_models_or_refused(classes, family, asymmetric):
    """Or it is refused: the routed MODEL and the one that it was made of share one network."""
    needs("DualModelGuider" in classes, "DualModelGuider")
    guide = classes["DualModelGuider"]

    def run(positive: Any, negative: Any) -> torch.Tensor:
        guider = guide.execute(positive, POSITIVE, 4.0, negative, NEGATIVE)[0]
        return oracle.sample(guider, tiny.latent(seed=5))

    model, plain = FAMILIES[family](), FAMILIES[family]()
    states = loras(model_layers(model))
    expected = run(two_loaders(FAMILIES[family](), states), plain)
    both = run(two_loaders(FAMILIES[family](), states), two_loaders(FAMILIES[family](), states))
    assert distance(both, expected) > 0.01
    ours = set_asymmetric(routed(model, states), asymmetric)
    for negative in (model, model.clone()):
        if asymmetric:
            assert distance(run(ours, negative), expected) <= LAW
        else:  # with the host's own loaders the LoRAs act in the negative prompt too
            with pytest.raises(CraftError, match="a MODEL of its own.*ACFG Guider"):
                run(ours, negative)
    with pytest.raises(CraftError, match="a MODEL of its own"):
        run(ours, routed(model, states))  # other LoRAs, as far as anyone can tell
    with pytest.raises(CraftError, match="has further ones"):
        run(ours, routed(ours, states))  # a second Router behind the first
    for positive in (model, FAMILIES[family]()):  # ComfyUI calls no wrapper of the negative's MODEL
        with pytest.raises(CraftError, match="did not act.*for the positive prompt"):
            run(positive, ours)
    assert distance(run(ours, FAMILIES[family]()), expected) <= LAW  # a network of its own
    if not asymmetric:
        assert distance(run(ours, ours), both) <= LAW
        assert distance(run(ours, ours.clone()), both) <= LAW
    assert torch.equal(latents(model), latents(FAMILIES[family]()))
