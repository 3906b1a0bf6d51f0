"""What holds for every run-time fusion method, each knob swept over its declared range."""

import pytest
import torch

from craft_core.errors import CraftError
from craft_core.fusion import FUSION
from craft_core.lora import pair_statistics
from craft_core.types import Bank, Branch, Factors, Moment, Routing

PATHS = [f"blocks.{i}" for i in range(7)]
MOMENTS = [Moment(i / 8, 5) for i in range(9)]  # steps, and evaluations between two


def branch(name, role, seed, paths=PATHS):
    random = torch.Generator().manual_seed(seed)
    layers = {
        path: (Factors(torch.randn(2, 6, generator=random), torch.randn(5, 2, generator=random)),)
        for path in paths
    }
    return Branch(name, role, layers)


# A pair; two contents and a style; one that adapts half of the layers.
BANKS = {
    "pair": [branch("dog", "content", 0), branch("ink", "style", 1)],
    "three": [branch("dog", "content", 0), branch("ink", "style", 1), branch("cat", "content", 2)],
    "partial": [branch("dog", "content", 0, PATHS[:4]), branch("ink", "style", 1, PATHS[2:])],
}


def sweeps():
    for method in FUSION:
        yield pytest.param(method, {}, id=method.key)
        for parameter in method.parameters:
            knob = parameter.knob
            values = knob.choices or (knob.minimum, knob.maximum, (knob.minimum + knob.maximum) / 3)
            for value in values:
                settings = {parameter.name: parameter.type(value)}
                name = f"{method.key}-{parameter.name}-{settings[parameter.name]}"
                yield pytest.param(method, settings, id=name)


def gates_of(method, settings, branches, gammas=None):
    bank = Bank.of(branches, PATHS)
    routing = Routing(
        gammas or (1.0,) * len(branches),
        (frozenset(PATHS),) * len(branches),
        pair_statistics(branches, PATHS),
    )
    return bank, method.function(bank, routing, **method.knobs(settings))


@pytest.mark.parametrize("method, settings", list(sweeps()))
@pytest.mark.parametrize("branches", BANKS.values(), ids=BANKS)
def test_gates_are_finite_numbers_between_zero_and_the_branches_gamma(method, settings, branches):
    before = [f.up.clone() for b in branches for held in b.layers.values() for f in held]
    bank, gates = gates_of(method, settings, branches)
    views = {tuple(gates.at(moment).shape) for moment in MOMENTS}
    assert views == {(gates.views, len(bank.layers), len(branches))}
    for moment in MOMENTS:
        table = gates.at(moment)
        assert table.dtype == torch.float32 and bool(((table >= 0) & (table <= 1)).all())
        assert torch.equal(table, gates_of(method, settings, branches)[1].at(moment))
    after = [f.up for b in branches for held in b.layers.values() for f in held]
    assert all(map(torch.equal, before, after))


@pytest.mark.parametrize("method, settings", list(sweeps()))
@pytest.mark.parametrize("branches", BANKS.values(), ids=BANKS)
def test_some_branch_acts_in_every_layer_and_never_one_whose_marker_is_absent(
    method, settings, branches
):
    if method.traits.markers:
        _, gates = gates_of(method, settings, branches, (0.0,) * len(branches))
        assert not any(gates.at(moment).any() for moment in MOMENTS)
    for absent in ("content", "style"):
        gammas = tuple(0.0 if b.role == absent else 1.0 for b in branches)
        bank, gates = gates_of(method, settings, branches, gammas)
        for table in map(gates.at, MOMENTS):
            for j, one in enumerate(branches):
                acts = table[:, :, j].any(dim=0).tolist()
                if one.role == absent and method.traits.markers:
                    assert not any(acts)
                elif len(branches) == 2:  # the only one that is on: in full, in every layer it has
                    adapts = [path in one.layers for path in bank.layers]
                    assert [a for a, has in zip(acts, adapts, strict=True) if has] == [True] * sum(
                        adapts
                    )


@pytest.mark.parametrize("method", list(FUSION), ids=FUSION.keys())
def test_gamma_dials_a_branch_and_not_the_choice_between_them(method):
    if not method.traits.markers:
        return
    for branches in BANKS.values():
        _, whole = gates_of(method, {}, branches)
        dials = (0.5, 0.25, 0.125)[: len(branches)]
        _, dialled = gates_of(method, {}, branches, dials)
        for moment in MOMENTS:
            assert torch.equal(dialled.at(moment), whole.at(moment) * torch.tensor(dials))


@pytest.mark.parametrize("method", list(FUSION), ids=FUSION.keys())
def test_a_value_outside_a_knobs_range_is_refused_with_the_range(method):
    for parameter in method.parameters:
        outside = "x" if parameter.knob.choices else parameter.knob.maximum + 1
        with pytest.raises(CraftError, match=parameter.name):
            method.knobs({parameter.name: outside})


@pytest.mark.parametrize("method", list(FUSION), ids=FUSION.keys())
def test_the_order_of_two_contents_does_not_matter_but_for_turns(method):
    if method.key == "switch":
        return  # its turns are in the order of the branches
    first = BANKS["three"]
    second = [first[2], first[1], first[0]]
    _, one = gates_of(method, {}, first)
    _, other = gates_of(method, {}, second)
    for moment in MOMENTS:
        swapped = other.at(moment)[:, :, [2, 1, 0]]
        assert torch.equal(one.at(moment).sum(0), swapped.sum(0))


def test_every_method_names_its_paper_or_is_the_baseline():
    assert [m.key for m in FUSION if m.paper is None] == ["direct"]
    assert all(m.paper.title and m.paper.authors and m.paper.arxiv for m in FUSION if m.paper)
