"""compose: method x strength x schedule, each once; and the interface fits the methods to come.

K-LoRA (layers switching at a precomputed step), LoRA Switch (one branch at a time) and LoRA
Composite (one view per branch) are here as toys of a few lines.
"""

import math

import pytest
import torch

from craft_core.fusion import FUSION, compose
from craft_core.schedule import Schedule
from craft_core.types import Bank, Branch, Factors, Gates, Moment, Routing, constant_gates

PATHS = ["a", "b", "c"]
STEPS = 9
MOMENTS = [Moment(i / (STEPS - 1), STEPS) for i in range(STEPS)]


def bank(*strengths, roles=("content", "style", "content")):
    layers = dict.fromkeys(PATHS, (Factors(torch.zeros(1, 1), torch.zeros(1, 1)),))
    made = [
        Branch(f"{role}{i}", role, layers, strength)
        for i, (role, strength) in enumerate(zip(roles, strengths, strict=False))
    ]
    return Bank.of(made, PATHS)


def random_gates(branches=3, views=1):
    value = torch.rand(views, len(PATHS), branches, generator=torch.Generator().manual_seed(0))
    return Gates(lambda moment: value * moment.noise, views, ("a note",))


def step_of(moment):
    return math.floor(moment.progress * (moment.steps - 1) + 1e-6)


def k_lora(switch_steps):
    """Content on each layer until its switch step, style from then on."""

    def at(moment):
        late = torch.tensor([step_of(moment) >= switch for switch in switch_steps])
        return torch.stack([~late, late], dim=-1).float()[None]

    return Gates(
        at, notes=tuple(f"{p}: step {s}" for p, s in zip(PATHS, switch_steps, strict=True))
    )


def lora_switch(branches, every):
    def at(moment):
        active = step_of(moment) // every % branches
        return torch.eye(branches)[active].expand(1, len(PATHS), branches)

    return Gates(at)


def composite(branches):
    value = torch.eye(branches)[:, None].expand(branches, len(PATHS), branches)
    return Gates(lambda moment: value, views=branches)


def test_neutral_strengths_and_no_schedule_return_the_gates_themselves():
    gates = random_gates()
    assert compose(gates, bank(1.0, 1.0, 1.0)) is gates


def test_a_constant_schedule_changes_no_bit():
    gates, neutral = random_gates(), Schedule("constant")
    for strengths in ((1.0, 1.0, 1.0), (0.3, -1.7, 2.0)):
        with_it = compose(gates, bank(*strengths), neutral)
        without = compose(gates, bank(*strengths))
        for moment in MOMENTS:
            assert torch.equal(with_it.at(moment), without.at(moment))
    for moment in MOMENTS:
        assert torch.equal(
            compose(gates, bank(1.0, 1.0, 1.0), neutral).at(moment), gates.at(moment)
        )


@pytest.mark.parametrize("strength", [-10.0, -1.0, 0.0, 0.05, 1.0, 10.0])
def test_a_strength_multiplies_its_own_branch_once(strength):
    gates = random_gates()
    found = compose(gates, bank(1.0, strength, 1.0)).at(MOMENTS[2])
    expected = gates.at(MOMENTS[2]).clone()
    expected[..., 1] *= strength
    assert torch.equal(found, expected)


def test_a_schedule_reaches_the_branches_of_its_role():
    schedule = Schedule("linear")
    gates = compose(constant_gates(torch.ones(3, 3)), bank(1.0, 1.0, 2.0), schedule)
    for moment in MOMENTS:
        u = torch.tensor(moment.noise)
        expected = torch.stack([u, 1 - u, 2 * u]).expand(1, 3, 3)
        torch.testing.assert_close(gates.at(moment), expected)


def test_zero_in_is_zero_out():
    off = Schedule("constant", {"content": 0.0, "style": 0.0})
    for moment in MOMENTS:
        assert not compose(random_gates(), bank(1.0, 1.0, 1.0), off).at(moment).any()
        assert not compose(random_gates(), bank(0.0, 0.0, 0.0)).at(moment).any()
        silent = constant_gates(torch.zeros(3, 3))
        assert not compose(silent, bank(5.0, 5.0, 5.0), Schedule("cosine")).at(moment).any()


def test_craft_with_the_papers_cosine_by_hand():
    """Eq. 9 at u = 1, 1/2, 0: gamma a(t) on the branch's own layers only."""
    routing = Routing((1.0, 0.5), (frozenset("ab"), frozenset("c")))
    two = bank(1.0, 1.0)
    gates = compose(FUSION["craft"].function(two, routing), two, Schedule("cosine"))
    for progress, content, style in ((0.0, 1.0, 0.0), (0.5, 0.5, 0.25), (1.0, 0.0, 0.5)):
        expected = torch.tensor([[[content, 0.0], [content, 0.0], [0.0, style]]])
        torch.testing.assert_close(gates.at(Moment(progress, 3)), expected)


def test_views_and_notes_are_kept_and_the_methods_table_is_not_written_to():
    gates = random_gates(views=2)
    before = gates.at(MOMENTS[1]).clone()
    composed = compose(gates, bank(0.5, 2.0, 0.0), Schedule("cosine"))
    assert composed.views == 2 and composed.notes == ("a note",)
    assert composed.at(MOMENTS[1]).shape == (2, 3, 3)
    assert composed.at(MOMENTS[1]).dtype == torch.float32
    assert torch.equal(gates.at(MOMENTS[1]), before)


def test_k_lora_fits_one_winner_a_layer_switching_once_at_its_step():
    method = k_lora([0, 4, STEPS])
    gates = compose(method, bank(1.0, 1.0), None)
    for step, moment in enumerate(MOMENTS):
        now = gates.at(moment)[0]
        assert torch.equal(now.sum(dim=1), torch.ones(3))
        assert now[:, 1].tolist() == [1.0, float(step >= 4), 0.0]
    between = Moment(3.5 / (STEPS - 1), STEPS)  # a second evaluation on the way to step 4
    assert torch.equal(gates.at(between), gates.at(MOMENTS[3]))
    scaled = compose(method, bank(0.5, 2.0), None).at(MOMENTS[8])[0]
    assert scaled.tolist() == [[0.0, 2.0], [0.0, 2.0], [0.5, 0.0]]
    assert "b: step 4" in gates.notes


def test_lora_switch_fits_one_branch_at_a_time_in_turn():
    gates = compose(lora_switch(3, every=2), bank(1.0, 2.0, 3.0), None)
    active = [gates.at(moment)[0, 0].nonzero().item() for moment in MOMENTS]
    assert active == [0, 0, 1, 1, 2, 2, 0, 0, 1]
    assert gates.at(MOMENTS[2])[0, 1].tolist() == [0.0, 2.0, 0.0]


def test_composite_fits_one_view_a_branch():
    gates = compose(composite(3), bank(1.0, 0.5, 1.0), Schedule("linear"))
    assert gates.views == 3
    now = gates.at(Moment(0.25, 5))  # (views, layers, branches)
    assert now.shape == (3, 3, 3)
    for view, strength in enumerate((0.75, 0.125, 0.75)):
        expected = torch.zeros(3, 3)
        expected[:, view] = strength
        assert torch.equal(now[view], expected)
