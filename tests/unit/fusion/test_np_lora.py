"""NP-LoRA against dense projections, by hand, and where it is the direct merge."""

import gc
import weakref
from dataclasses import replace

import pytest
import torch

from craft_core.fusion import FUSION, compose
from craft_core.lora.formats import BiasDifference
from craft_core.merging import Writing, bake_gates, moves
from craft_core.time import Moment
from craft_core.types import Bank, Branch, Factors, Routing

PATHS = ["blocks.0", "blocks.1", "blocks.2"]
STEPS = 5
MOMENTS = [Moment(i / (STEPS - 1), STEPS) for i in range(STEPS)]
METHOD = FUSION["np_lora"]


def factors(seed, rank, inputs=(12,), out=7, scale=0.5):
    random = torch.Generator().manual_seed(seed)
    down = torch.randn(rank, *inputs, generator=random)
    return Factors(down, torch.randn(out, rank, generator=random), scale)


def branch(role, seed, rank=3, paths=PATHS, inputs=(12,), strength=1.0):
    layers = {path: (factors(seed + 10 * i, rank, inputs),) for i, path in enumerate(paths)}
    return Branch(f"{role} {seed}", role, layers, strength)


def made(branches, gammas=None, **knobs):
    bank = Bank.of(branches, PATHS)
    routing = Routing(gammas or (1.0,) * len(branches), (frozenset(PATHS),) * len(branches))
    gates = METHOD.function(bank, routing, **METHOD.knobs(knobs))
    return gates.bank, gates


def dense(updates):
    """(out, n * kernel) in float64."""
    return sum(one.delta().double().flatten(1) for one in updates)


def acting(bank, gates, branch_index, path, moment):
    """What a branch adds to a layer at a moment, strength left out."""
    (row,) = gates.at(moment)[:, bank.layers.index(path), branch_index].tolist()
    updates = bank.branches[branch_index].layers[path]
    return row * dense([one.settled(gates.share(moment)) for one in updates])


def projected(content, style, mu, directions=None):
    """The paper's formula with a full singular value decomposition of dW_s."""
    _, values, rights = torch.linalg.svd(style, full_matrices=False)
    rights = rights[values > 1e-5 * values[0]][:directions]
    return content - mu / (1 + mu) * content @ rights.T @ rights


def test_a_hand_worked_case():
    """Style reads the first of two inputs; mu = 1 takes half of what content does with it."""
    content = Factors(torch.tensor([[2.0, 4.0]]), torch.tensor([[1.0], [3.0]]))
    style = Factors(torch.tensor([[5.0, 0.0]]), torch.tensor([[1.0], [-1.0]]))
    pair = [Branch(r, r, {PATHS[0]: (f,)}) for r, f in (("content", content), ("style", style))]
    bank, gates = made(pair, mu=1.0)
    found = acting(bank, gates, 0, PATHS[0], MOMENTS[2])
    assert torch.allclose(found, torch.tensor([[1.0, 4.0], [3.0, 12.0]], dtype=torch.float64))
    assert acting(bank, gates, 1, PATHS[0], MOMENTS[2]).equal(dense([style]))
    assert "20.0 % of content's energy" in gates.notes[0]  # 4 of 4 + 16


@pytest.mark.parametrize("mu", [0.0, 0.1, 0.5, 1.0, 10.0, 1000.0])
@pytest.mark.parametrize("inputs", [(12,), (4, 3, 3)], ids=["linear", "convolution"])
def test_content_is_projected_as_on_dense_matrices_and_style_stays(mu, inputs):
    content, style = branch("content", 1, inputs=inputs), branch("style", 2, 2, inputs=inputs)
    bank, gates = made([content, style], mu=mu)
    for path in PATHS:
        expected = projected(dense(content.layers[path]), dense(style.layers[path]), mu)
        found = acting(bank, gates, 0, path, MOMENTS[1])
        assert torch.allclose(found, expected, atol=1e-5)
        assert bank.branches[1].layers[path] is style.layers[path]
        (update,) = bank.branches[0].layers[path]
        assert update.rank == 3 and update.up is content.layers[path][0].up


def test_at_mu_0_it_is_the_direct_merge_bitwise():
    pair = [branch("content", 1), branch("style", 2)]
    for course in ("constant", "falling", "rising"):
        bank, gates = made(pair, mu=0.0, course=course)
        for moment in MOMENTS:
            for path in PATHS:
                found = acting(bank, gates, 0, path, moment)
                assert found.equal(dense(pair[0].layers[path]))


def test_a_large_mu_leaves_nothing_where_style_reads():
    content, style = branch("content", 1), branch("style", 2, 2)
    bank, gates = made([content, style], mu=1000.0)
    found = acting(bank, gates, 0, PATHS[0], MOMENTS[0])
    before = dense(content.layers[PATHS[0]]) @ style.layers[PATHS[0]][0].down.double().T
    after = found @ style.layers[PATHS[0]][0].down.double().T
    assert after.norm() < 2e-3 * before.norm()


def test_a_style_whose_factors_have_more_ranks_than_its_matrix_reads_no_more_than_that():
    """QR of its down rows alone would take two directions more."""
    style = factors(2, 4)
    style = replace(style, up=style.up.clone())
    style.up[:, 2:] = 0.0
    pair = [branch("content", 1, paths=PATHS[:1]), Branch("s", "style", {PATHS[0]: (style,)})]
    bank, gates = made(pair, mu=1.0)
    expected = projected(dense(pair[0].layers[PATHS[0]]), dense([style]), 1.0)
    assert torch.allclose(acting(bank, gates, 0, PATHS[0], MOMENTS[0]), expected, atol=1e-5)


def test_fewer_directions_are_the_strongest_ones():
    content, style = branch("content", 1), branch("style", 2, 3)
    bank, gates = made([content, style], mu=1.0, directions=1)
    for path in PATHS:
        expected = projected(dense(content.layers[path]), dense(style.layers[path]), 1.0, 1)
        assert torch.allclose(acting(bank, gates, 0, path, MOMENTS[0]), expected, atol=1e-5)


@pytest.mark.parametrize("course, at", [("falling", lambda p: 1 - p), ("rising", lambda p: p)])
def test_mu_follows_its_course_over_the_run(course, at):
    content, style = branch("content", 1), branch("style", 2, 2)
    bank, gates = made([content, style], mu=0.8, course=course)
    assert gates.constant is None and moves(gates, STEPS) and not moves(gates, 1)
    for moment in MOMENTS:
        mu = 0.8 * at(moment.progress)
        expected = projected(dense(content.layers[PATHS[0]]), dense(style.layers[PATHS[0]]), mu)
        found = acting(bank, gates, 0, PATHS[0], moment)
        assert torch.allclose(found, expected, atol=1e-5)


def test_strengths_do_not_enter_the_projection_and_survive_composing():
    pair = [branch("content", 1, strength=0.3), branch("style", 2, 2, strength=4.0)]
    bank, gates = made(pair, mu=1.0, course="rising")
    composed = compose(gates, bank)
    assert composed.bank is bank and composed.share(MOMENTS[-1]) == 0.5
    assert composed.at(MOMENTS[0])[0, 0].tolist() == pytest.approx([0.3, 4.0])


def test_slices_of_a_fused_layer_yield_to_the_whole_of_style():
    """Content holds q and k of a fused layer, style all of it: as with one matrix for the layer."""
    q, k = factors(5, 2, out=3), factors(6, 2, out=4)
    parts = (replace(q, rows=(0, 3)), replace(k, rows=(3, 4)))
    style = branch("style", 2, 2, paths=PATHS[:1])
    bank, gates = made([Branch("c", "content", {PATHS[0]: parts}), style], mu=1.0)
    whole = torch.cat([dense([q]), dense([k])])
    expected = projected(whole, dense(style.layers[PATHS[0]]), 1.0)
    updates = [one.settled(0.5) for one in bank.branches[0].layers[PATHS[0]]]
    assert [one.rows for one in updates] == [(0, 3), (3, 4)]
    assert torch.allclose(torch.cat([dense([one]) for one in updates]), expected, atol=1e-5)


@pytest.mark.parametrize("gammas", [(1.0, 0.0), (0.0, 1.0)])
def test_without_a_partner_that_is_on_nothing_yields(gammas):
    pair = [branch("content", 1), branch("style", 2)]
    bank, gates = made(pair, gammas)
    for path in PATHS:
        assert bank.branches[0].layers[path] is pair[0].layers[path]
    assert "nothing yields" in gates.notes[0]


def test_layers_that_content_alone_adapts_and_biases_stay_as_they_are():
    content = branch("content", 1)
    bias = BiasDifference(torch.randn(7))
    content.layers[PATHS[0]] = (*content.layers[PATHS[0]], bias)
    bank, _ = made([content, branch("style", 2, paths=PATHS[:1])])
    assert bank.branches[0].layers[PATHS[0]][1] is bias
    assert bank.branches[0].layers[PATHS[1]] is content.layers[PATHS[1]]


@pytest.mark.parametrize("course", ["constant", "rising"])
def test_a_file_holds_the_projected_sum_in_the_ranks_of_both(course):
    content, style = branch("content", 1, strength=0.7), branch("style", 2, 2, strength=0.4)
    bank, gates = made([content, style], mu=0.9, course=course)
    moment = Moment(0.5, STEPS)
    mu = 0.9 * (0.5 if course == "rising" else 1.0)
    shapes = dict.fromkeys(PATHS, (7, 12))
    baked = list(bake_gates(bank, compose(gates, bank), moment, shapes, Writing()))
    assert [one.factors.rank for one in baked] == [5, 5, 5]
    for one in baked:
        c, s = dense(content.layers[one.path]), dense(style.layers[one.path])
        expected = 0.7 * projected(c, s, mu) + 0.4 * s
        assert torch.allclose(dense([one.factors]), expected, atol=1e-5)


def test_what_yields_is_made_once_while_it_is_held():
    """By the updates read, the share and the directions; strengths and names do not enter."""
    content, style = branch("content", 1), branch("style", 2)

    def layers(*pair, **knobs):
        return made(pair or (content, style), **knobs)[0].branches[0].layers

    first, notes = layers(), made([content, style])[1].notes
    edited = replace(content, strength=0.3, name="other", layers=dict(content.layers))
    assert layers(edited, style) is first
    assert made([edited, style])[1].notes == notes
    others = [
        layers(mu=2.0), layers(directions=1), layers(course="rising"),
        layers(content, branch("style", 2)), layers(branch("content", 1), style),
    ]  # fmt: skip
    assert all(other is not first for other in others)
    assert layers(course="rising", mu=2.0) is others[2]
    kept = {path: one.down.clone() for path, (one,) in first.items()}
    gone = weakref.ref(first)
    del first
    gc.collect()
    assert gone() is None
    assert all(one.down.equal(kept[path]) for path, (one,) in layers().items())
