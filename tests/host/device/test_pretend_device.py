"""The pretend device itself: it refuses, computes and counts as a card does."""

from __future__ import annotations

import numpy as np
import pretend_device
import pytest
import torch

pytestmark = pytest.mark.skipif(
    not pretend_device.is_asked_for(), reason="the host runs in the processor's memory"
)


def test_the_host_loads_models_there():
    assert pretend_device.is_the_hosts_device()


def test_the_device_refuses_what_a_card_refuses():
    here, there = torch.ones(2, 3), torch.ones(2, 3, device=pretend_device.device())
    other = torch.ones(2, 3, device=pretend_device.device(1))
    one = torch.tensor(1.0)
    for mixed in (lambda: here + there, lambda: there + other, lambda: there @ here.T,
                  lambda: torch.cat([here, there]), lambda: there.add_(here),
                  lambda: here.add_(there), lambda: one.masked_fill_(there[0, 0] > 0, 2.0),
                  lambda: torch.nn.functional.conv1d(there, here[None])):  # fmt: skip
        with pytest.raises(RuntimeError, match="same device|should be the same"):
            mixed()
    for read in (there.numpy, lambda: np.asarray(there)):
        with pytest.raises(TypeError, match="can't convert"):
            read()
    for drawn in (lambda: torch.randn(2, generator=torch.Generator(), device=there.device),
                  lambda: torch.randn(2, generator=torch.Generator(there.device))):  # fmt: skip
        with pytest.raises(RuntimeError, match="generator"):
            drawn()


def test_the_device_lets_in_what_a_card_lets_in():
    there = torch.arange(6.0, device=pretend_device.device()).view(2, 3)
    places = torch.tensor([2, 0])
    assert (there + torch.tensor(1.0)).device == there.device  # one number
    assert there[:, places].tolist() == [[2, 0], [5, 3]]
    there[:, places] = 7.0
    assert there.tolist() == [[7, 1, 7], [7, 4, 7]]


def test_the_device_has_random_numbers_of_its_own():
    def drawn(device, seed):
        return torch.randn(4, generator=torch.Generator(device).manual_seed(seed), device=device)

    there = pretend_device.device()
    assert torch.equal(drawn(there, 1), drawn(there, 1))
    assert not torch.equal(drawn(there, 1).cpu(), drawn("cpu", 1))
    torch.manual_seed(1)
    found = torch.randn(4, device=there)
    torch.manual_seed(1)
    assert torch.equal(torch.randn(4, device=there), found)
    assert not torch.equal(found.cpu(), torch.randn(4, generator=torch.manual_seed(1)))


def test_the_device_computes_as_the_processor_does_and_counts_what_waits():
    x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.GroupNorm(2, 4))
    expected = network(x)
    network.to(pretend_device.device())
    there = x.to(pretend_device.device())
    with pretend_device.counting() as found:
        made = network(there)
    assert found["waits"] == 0
    assert found["launches"] == 2  # a convolution and a normalisation
    torch.testing.assert_close(made.cpu(), expected)


WAITING = {
    "a number": lambda x: x.sum().item(),
    "numbers": lambda x: x.tolist(),
    "a copy from it": lambda x: x.cpu(),
    "a copy to it": lambda x: torch.ones(3).to(x.device),
    "reading by a mask": lambda x: x[x > 0],
    "places": lambda x: x.nonzero(),
    "equality": lambda x: torch.equal(x, x + 1),
    "repeats": lambda x: x.repeat_interleave((x > 0).long()),
}


@pytest.mark.parametrize("what", WAITING)
def test_what_waits_is_counted(what):
    x = torch.tensor([1.0, -1.0, 2.0]).to(pretend_device.device())
    with pretend_device.counting() as found:
        WAITING[what](x)
    assert found["waits"] == 1
    with pretend_device.counting() as found:
        x.cpu().to(x.device, non_blocking=True).mul_(2).add_(x)
    assert found["waits"] == 1  # the first copy


def test_a_card_can_lack_double_precision():
    with pretend_device.without_float64():
        there, double = pretend_device.device(), torch.float64
        for make in (lambda: torch.ones(2, dtype=double).to(there),
                     lambda: torch.ones(2, device=there).double(),
                     lambda: torch.zeros(2, dtype=double, device=there)):  # fmt: skip
            with pytest.raises(TypeError, match="float64"):
                make()
    assert torch.ones(2, device=pretend_device.device()).double().dtype == torch.float64


FACTORED = {
    "solve": lambda one: torch.linalg.solve(one, one),
    "qr": torch.linalg.qr,
    "eigh": torch.linalg.eigh,
    "svd": torch.linalg.svd,
    "svdvals": torch.linalg.svdvals,
    "inv": torch.linalg.inv,
    "cholesky": torch.linalg.cholesky,
}


@pytest.mark.parametrize("name", FACTORED)
def test_a_card_can_lack_decompositions(name):
    one = torch.eye(3).to(pretend_device.device())
    with pretend_device.without_decompositions():
        with pytest.raises(NotImplementedError, match="decompositions"):
            FACTORED[name](one)
        FACTORED[name](one.cpu())
    FACTORED[name](one)
