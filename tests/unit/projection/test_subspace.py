import pytest
import torch
from rounding import allowed, units

from craft_core.errors import CraftError
from craft_core.projection import (
    SIDES,
    dimension,
    low_rank_patch,
    merge,
    orthonormal,
    project_out,
    refined,
    require_orthonormal,
)

LINEAR, CONV = (12, 20), (12, 5, 3, 3)


def random(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def basis(rows, rank, seed=1):
    return orthonormal(random(rows, rank, seed=seed))


def layer(shape, side, rank=3, dtype=torch.float32):
    return random(*shape, dtype=dtype), basis(dimension(shape, side), rank)


def in_q(weight, q, side):
    """Size of the weight's part inside the subspace."""
    flat = weight.float().flatten(1)
    return (q.T @ flat if side == "output" else flat @ q).abs().max()


def test_qr_keeps_the_span_and_makes_the_columns_orthonormal():
    m = random(16, 4)
    q = orthonormal(m)
    own = torch.linalg.qr(m).Q  # as far from orthonormal as the machine's own
    assert units(q.T @ q, torch.eye(4)) <= allowed(own.T @ own, torch.eye(4))
    torch.testing.assert_close(q @ (q.T @ m), m, atol=1e-5, rtol=0)


def test_a_basis_learns_through_the_orthonormalisation():
    m = random(6, 2).double().requires_grad_()
    weight = random(6, 5).double()

    def projected(m):
        q = orthonormal(m)
        return weight - q @ (q.T @ weight)

    assert torch.autograd.gradcheck(projected, m)


@pytest.mark.parametrize("shape", [LINEAR, CONV])
@pytest.mark.parametrize("side", SIDES)
def test_nothing_of_the_subspace_is_left(shape, side):
    weight, q = layer(shape, side)
    assert in_q(weight, q, side) > 0.1
    assert in_q(project_out(weight, q, side), q, side) < 1e-5


@pytest.mark.parametrize("shape", [LINEAR, CONV])
@pytest.mark.parametrize("side", SIDES)
def test_what_is_orthogonal_to_the_subspace_stays(shape, side):
    weight, q = layer(shape, side)
    once = project_out(weight, q, side)
    torch.testing.assert_close(project_out(once, q, side), once, atol=1e-5, rtol=0)
    removed = (weight - once).flatten(1)
    assert torch.linalg.matrix_rank(removed) == q.shape[1]


def test_projection_of_a_hand_worked_layer():
    weight = torch.tensor([[3.0, 1.0], [4.0, 2.0]])
    q = torch.tensor([[0.6], [0.8]])  # Q^T W = [5, 2.2], Q Q^T W = [[3, 1.32], [4, 1.76]]
    expected = torch.tensor([[0.0, -0.32], [0.0, 0.24]])
    torch.testing.assert_close(project_out(weight, q), expected, atol=1e-6, rtol=0)
    first_input = torch.tensor([[1.0], [0.0]])
    expected = torch.tensor([[0.0, 1.0], [0.0, 2.0]])
    assert torch.equal(project_out(weight, first_input, "input"), expected)


def test_output_side_is_the_projection_of_the_layers_outputs():
    weight, q = layer(LINEAR, "output")
    x, bias = random(4, 20, seed=5), random(12, seed=6)
    y = torch.nn.functional.linear(x, weight, bias)
    expected = y - (y - bias) @ q @ q.T
    actual = torch.nn.functional.linear(x, project_out(weight, q), bias)
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("strength", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("shape", [LINEAR, CONV])
@pytest.mark.parametrize("side", SIDES)
def test_the_low_rank_patch_is_the_projection(shape, side, strength):
    weight, q = layer(shape, side)
    factors = low_rank_patch(weight, q, side, strength)
    assert factors.down.shape == (3, *shape[1:]) and factors.up.shape == (12, 3)
    patched = weight + factors.delta()
    torch.testing.assert_close(patched, project_out(weight, q, side, strength), atol=1e-6, rtol=0)
    if strength == 0.0:
        assert torch.equal(patched, weight)


def test_strength_scales_the_removed_component_once():
    weight, q = layer(LINEAR, "output")
    full, half = (weight - project_out(weight, q, strength=s) for s in (1.0, 0.5))
    torch.testing.assert_close(half, full / 2, atol=1e-6, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float8_e4m3fn])
def test_the_weights_dtype_is_kept_and_rounded_once(dtype):
    weight, q = layer(CONV, "output", dtype=dtype)
    exact = project_out(weight.float(), q)
    assert torch.equal(project_out(weight, q).float(), exact.to(dtype).float())


def test_inputs_are_not_written_to():
    weight, q = layer(CONV, "input")
    before = weight.clone(), q.clone()
    project_out(weight, q, "input")
    low_rank_patch(weight, q, "input")
    assert torch.equal(weight, before[0]) and torch.equal(q, before[1])


def test_a_full_basis_removes_the_whole_weight():
    weight, q = random(*LINEAR), basis(12, 12)
    assert project_out(weight, q).abs().max() < 1e-5


def test_merged_projection_removes_both_subspaces():
    content, style = basis(16, 4, seed=1), basis(16, 3, seed=2)
    q = merge(content, style)
    assert q.shape == (16, 7) and torch.equal(q[:, :4], content)
    require_orthonormal(q, tolerance=1e-6)
    weight = project_out(random(16, 9), q)
    assert in_q(weight, content, "output") < 1e-5 and in_q(weight, style, "output") < 1e-5


def test_merging_drops_directions_both_have():
    content = basis(16, 4)
    rotation = torch.linalg.qr(random(5, 5, seed=3))[0]
    new = project_out(random(16, 1, seed=4), content)
    style = torch.cat([content, new / new.norm()], dim=1) @ rotation  # shares all of content
    assert merge(content, style).shape == (16, 5)
    assert torch.equal(merge(content, content), content)
    assert merge(basis(6, 6), basis(6, 4, seed=2)).shape == (6, 6)


def test_merging_is_revealing_down_to_its_tolerance():
    content = torch.eye(8)[:, :1]

    def style(sine):
        return torch.tensor([[(1 - sine**2) ** 0.5, sine, 0, 0, 0, 0, 0, 0]]).T

    assert merge(content, style(2e-4)).shape == (8, 2)
    assert merge(content, style(0.5e-4)).shape == (8, 1)
    assert merge(content, style(0.1), tolerance=0.2).shape == (8, 1)
    require_orthonormal(merge(content, style(2e-4)), tolerance=1e-6)


def rotated(q, seed=3):
    """The same span by other columns."""
    return q @ torch.linalg.qr(random(q.shape[1], q.shape[1], seed=seed, dtype=q.dtype))[0]


def as_read(q, dtype):
    """As a file of that type holds it, read as float32."""
    return q.to(dtype).float()


SIZES = [(6, 3), (64, 16), (64, 64), (320, 16), (1280, 64), (5760, 8)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("rows", "rank"), SIZES)
def test_equal_spans_merge_to_one_whatever_they_were_stored_in(rows, rank, dtype):
    content = orthonormal(random(rows, rank).double())
    stored = as_read(content, dtype), as_read(rotated(content), dtype)
    for first, second in (stored, stored[::-1], [q.to(dtype) for q in stored]):
        q = merge(first, second)
        assert q.shape == (rows, rank)
        require_orthonormal(q, tolerance=2e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_directions_that_the_stored_digits_tell_apart_stay(dtype):
    """Style shares 3 of content's 16 directions; a fourth is off by 0.05, the rest are new."""
    both = orthonormal(random(640, 30).double())
    near = 0.05 * both[:, 29:] + (1 - 0.05**2) ** 0.5 * both[:, 3:4]
    content, style = both[:, :16], torch.cat([both[:, :3], near, both[:, 16:20]], dim=1)
    q = merge(as_read(content, dtype), as_read(rotated(style), dtype))
    assert q.shape == (640, 16 + 5)
    require_orthonormal(q, tolerance=2e-6)
    span = both[:, [*range(20), 29]]
    assert (q.double() - span @ (span.T @ q.double())).norm(dim=0).max() < 0.1


def test_one_basis_in_half_precision_sets_the_tolerance_for_both():
    exact = orthonormal(random(320, 16).double())
    halved = as_read(rotated(exact), torch.float16)
    for first, second in ((exact.float(), halved), (halved, exact.float())):
        assert merge(first, second).shape == (320, 16)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("side", SIDES)
def test_a_basis_in_half_precision_leaves_nothing_of_its_subspace(side, dtype):
    weight, exact = layer((64, 96), side, rank=16)
    q = as_read(exact, dtype)
    within = orthonormal(q.double()).float()
    assert in_q(project_out(weight, q, side), within, side) < 1e-5
    patched = weight + low_rank_patch(weight, q, side).delta()
    torch.testing.assert_close(patched, project_out(weight, q, side), atol=1e-5, rtol=0)


def test_refining_leaves_an_exact_basis_as_it_is_and_turns_no_column_of_a_rounded_one():
    q = basis(64, 16)
    assert torch.equal(refined(q), q) and torch.equal(refined(torch.eye(8)), torch.eye(8))
    for dtype in (torch.float16, torch.bfloat16):
        again = refined(as_read(q, dtype))
        require_orthonormal(again, tolerance=2e-6)
        torch.testing.assert_close(again, q, atol=torch.finfo(dtype).eps, rtol=0)


def test_few_digits_excuse_no_basis_that_is_not_orthonormal():
    for wrong in (torch.ones(4, 2), as_read(1.02 * basis(64, 16), torch.bfloat16),
                  as_read(basis(64, 16), torch.float8_e4m3fn)):  # fmt: skip
        with pytest.raises(CraftError, match="not orthonormal"):
            require_orthonormal(wrong)


def test_merging_order_does_not_change_the_projection():
    content, style = basis(16, 4, seed=1), basis(16, 5, seed=2)
    weight = random(16, 9)
    one, other = merge(content, style), merge(style, content)
    torch.testing.assert_close(
        project_out(weight, one), project_out(weight, other), atol=1e-5, rtol=0
    )


@pytest.mark.parametrize("use", [project_out, low_rank_patch])
@pytest.mark.parametrize(
    ("weight", "q", "settings", "message"),
    [
        (random(12, 20), basis(20, 3), {}, "first size must be 12"),
        (random(12, 20), basis(12, 3), {"side": "input"}, "first size must be 20"),
        (random(*CONV), basis(5, 3), {"side": "input"}, "first size must be 45"),
        (random(12, 20), 2 * basis(12, 3), {}, "not orthonormal"),
        (random(12, 20), random(12, 13), {}, "rank <= out"),
        (random(12, 20), random(12), {}, "rank <= out"),
        (random(12, 20), basis(12, 3) * float("nan"), {}, "not finite"),
        (random(12, 20) * float("inf"), basis(12, 3), {}, "not finite"),
        (random(12, 20), basis(12, 3), {"side": "both"}, "'output'"),
        (random(12, 20), basis(12, 3), {"strength": 1.5}, "from 0"),
        (random(12, 20), basis(12, 3), {"strength": float("nan")}, "from 0"),
    ],
)
def test_wrong_input_is_refused_with_a_reason(use, weight, q, settings, message):
    with pytest.raises(CraftError, match=message):
        use(weight, q, **settings)


@pytest.mark.parametrize(
    "m",
    [
        torch.zeros(8, 2),
        torch.ones(8, 2),
        torch.cat([random(8, 2), random(8, 2) @ random(2, 1, seed=3)], dim=1),
    ],
)
def test_dependent_columns_are_refused(m):
    with pytest.raises(CraftError, match="fewer dimensions"):
        orthonormal(m)


def test_columns_of_very_different_size_are_not_dependent():
    m = random(8, 3) * torch.tensor([1e-6, 1.0, 1e6])
    require_orthonormal(orthonormal(m))


def test_bases_of_different_spaces_do_not_merge():
    with pytest.raises(CraftError, match="same space"):
        merge(basis(8, 2), basis(9, 2))
