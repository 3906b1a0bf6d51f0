"""Run-time fusion methods: which settings each uses; direct, CRAFT routing and B-LoRA."""

from dataclasses import replace

import pytest
import torch
from unet_layers import sdxl_layers

from craft_core.fusion import FUSION
from craft_core.routing import PRESETS, gammas, parse, resolve
from craft_core.types import Bank, Branch, Factors, Moment, Routing, Statistics

LAYERS = sdxl_layers()
ATTENTION = [path for path in LAYERS if ".attn" in path]
MOMENTS = [Moment(i / 4, 5) for i in range(5)]


def branch(name, role, paths=ATTENTION):
    factors = (Factors(torch.zeros(1, 1), torch.zeros(1, 1)),)
    return Branch(name, role, dict.fromkeys(paths, factors))


BANK = Bank.of([branch("dog", "content"), branch("ink", "style"), branch("cat", "content")], LAYERS)
ROLES = [b.role for b in BANK.branches]
STATISTICS = Statistics(lambda name: dict.fromkeys(ATTENTION, (1.0, 1.0)))


def routing(prompt, layer_sets="b-lora"):
    sets = resolve(layer_sets, LAYERS)
    return Routing(gammas(parse(prompt), ROLES), sets.of(ROLES))


def table(method, routed):
    gates = FUSION[method].function(BANK, routed)
    assert gates.views == 1
    first = gates.at(MOMENTS[0])
    assert all(torch.equal(gates.at(moment), first) for moment in MOMENTS)
    assert first.shape == (1, len(BANK.layers), 3) and first.dtype == torch.float32
    return first[0]


@pytest.mark.parametrize("prompt", ["a dog", "a dog <c>", "a dog <c> in ink <s>"])
def test_direct_is_one_everywhere_whatever_the_prompt_says(prompt):
    assert torch.equal(table("direct", routing(prompt)), torch.ones(len(ATTENTION), 3))


@pytest.mark.parametrize("layer_sets", ["b-lora", "craft-paper", "craft-release", "duolora-prior"])
def test_craft_acts_on_the_layer_set_of_the_role_only(layer_sets):
    sets = resolve(layer_sets, LAYERS)
    gates = table("craft", routing("a dog <c> in ink <s>", layer_sets))
    for row, path in zip(gates, BANK.layers, strict=True):
        on = [float(path in sets.content), float(path in sets.style)]
        assert row.tolist() == [on[0], on[1], on[0]]
        assert row[0] * row[1] == 0.0  # disjoint: never both
    assert gates.any(dim=0).all()


def test_craft_without_restriction_and_with_both_markers_is_the_direct_merge_bitwise():
    everywhere = routing("a dog <c> in ink <s>", "all")
    assert torch.equal(table("craft", everywhere), table("direct", everywhere))


@pytest.mark.parametrize("method", ["craft", "b_lora"])
def test_a_branch_whose_marker_is_absent_is_off(method):
    assert not table(method, routing("a dog")).any()
    assert table(method, routing("a dog <c>")).any(dim=0).tolist() == [True, False, True]
    assert table(method, routing("ink <s>")).any(dim=0).tolist() == [False, True, False]


@pytest.mark.parametrize("method", ["craft", "b_lora"])
def test_gamma_multiplies_once(method):
    routed = routing("a dog <c> in ink <s>")
    full, dialled = table(method, routed), table(method, replace(routed, gammas=(0.5, 0.25, 0.5)))
    assert torch.equal(dialled, full * torch.tensor([0.5, 0.25, 0.5]))


def test_b_lora_pins_its_preset_and_gates_just_its_two_blocks():
    traits = FUSION["b_lora"].traits
    assert traits.pinned_layer_set in PRESETS and not traits.layer_sets
    gates = table("b_lora", routing("a dog <c> in ink <s>", traits.pinned_layer_set))
    on = {path for row, path in zip(gates, BANK.layers, strict=True) if row.any()}
    assert {path.rsplit(".transformer_blocks", 1)[0] for path in on} == {
        "output_blocks.0.1",
        "output_blocks.1.1",
    }


def everything(method, routed):
    """A method's gates at every moment, (moments, views, layers, branches)."""
    gates = method.function(BANK, replace(routed, statistics=STATISTICS))
    return torch.stack([gates.at(moment) for moment in MOMENTS])


def test_every_method_declares_what_it_listens_to_and_holds_to_it():
    """Changing a setting that a method ignores changes nothing; changing one that it uses does."""
    for method in FUSION:
        base = everything(method, routing("a dog <c> in ink <s>"))
        unmarked = everything(method, routing("a dog in ink"))
        assert torch.equal(base, unmarked) is not method.traits.markers
        assert not (method.traits.layer_sets and method.traits.pinned_layer_set)
        other = everything(method, routing("a dog <c> in ink <s>", "craft-release"))
        hears_sets = method.traits.layer_sets or bool(method.traits.pinned_layer_set)
        assert torch.equal(base, other) is not hears_sets


def test_no_branches_and_no_layers_make_empty_gates():
    for method in FUSION:
        gates = method.function(Bank.of([], LAYERS), Routing((), ()))
        assert gates.at(MOMENTS[0]).shape == (1, 0, 0)


def test_a_routing_of_another_number_of_branches_is_a_broken_invariant():
    with pytest.raises(AssertionError, match="one routing per branch"):
        FUSION["craft"].function(BANK, Routing((1.0,), (frozenset(),)))
