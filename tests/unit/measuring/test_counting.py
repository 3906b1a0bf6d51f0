"""The counting that benchmarks/training.py relies on, against sums done by hand."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.parts.counting import Counter, price, qr_flops

ROWS, WIDTH, FLOAT = 100, 50, 4
MAP = ROWS * WIDTH * FLOAT  # bytes of one map
PRODUCT = 2 * ROWS * WIDTH * WIDTH  # FLOPs of map @ weight


@pytest.fixture(params=[True, False], ids=["fake", "real"])
def chain(request):
    """loss = sum(tanh(tanh(x w) w)): each tanh keeps its result, w is frozen, x learns."""
    mode = FakeTensorMode() if request.param else torch.enable_grad()
    with mode:
        x = torch.zeros(ROWS, WIDTH, requires_grad=True)
        w = torch.zeros(WIDTH, WIDTH)
        yield lambda wrap=lambda f, h: f(h): wrap(lambda h: ((h @ w).tanh() @ w).tanh(), x).sum()


def test_flops_and_bytes_of_a_chain_are_those_worked_out_by_hand(chain):
    cost = price(chain)
    assert (cost.forward, cost.step) == (2 * PRODUCT, 4 * PRODUCT)  # no gradient of w
    assert cost.kept == 2 * MAP + FLOAT  # two results of tanh, and the loss
    assert cost.peak == 3 * MAP + 2 * FLOAT  # one gradient joins them, and that of the loss


def test_checkpointing_keeps_nothing_inside_and_runs_the_forward_pass_again(chain):
    cost = price(lambda: chain(lambda f, h: checkpoint(f, h, use_reentrant=False)))
    assert cost.kept < MAP
    assert cost.forward == 2 * PRODUCT
    assert cost.step == 3 * cost.forward


def test_everything_counted_is_gone_when_it_is_freed(chain):
    with Counter() as counter:
        loss = chain()
        loss.backward()
        assert counter.alive > 0
        del loss
        assert counter.alive == MAP  # the gradient of x


def test_a_view_is_not_counted_again():
    with Counter() as counter:
        base = torch.zeros(10, 10)
        views = base.T, base[0], base.view(-1), base.add_(1)
    assert len(views) == 4 and counter.alive == counter.peak == 10 * 10 * FLOAT


def test_flops_are_those_of_torchs_own_counter():
    layer = torch.nn.Conv2d(3, 8, 3)
    x = torch.zeros(2, 3, 9, 9, requires_grad=True)
    cost = price(lambda: layer(x).sum())
    with FlopCounterMode(display=False) as counter:
        layer(x).sum().backward()
    assert cost.step == counter.get_total_flops()
    assert cost.forward == 2 * 2 * 8 * 7 * 7 * 3 * 3 * 3


def test_qr_of_a_tall_matrix_costs_nine_products_of_its_columns():
    assert qr_flops(3, 3) == 4 * 9 * 2 + 5 * 27
    assert qr_flops(1_000_000, 10) == pytest.approx(9 * 1_000_000 * 100, rel=1e-4)
