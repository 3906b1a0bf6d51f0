"""What a backward pass needs, in small networks that do what the host's blocks do."""

from __future__ import annotations

import gc
from functools import partial

import comfy.model_management
import pytest
import torch
from craft_lora_pack.comfy_adapter.train.gradients import saved
from craft_lora_pack.comfy_adapter.train.gradients.kernels import plain_kernels
from craft_lora_pack.comfy_adapter.train.gradients.saved import Gradients
from craft_lora_pack.craft_core.errors import CraftError
from torch import nn

CPU = torch.device("cpu")
both = pytest.mark.parametrize("checkpointing", [False, True])


class Block(nn.Module):
    """Writes into its input, which its norm and a product have saved, and into the shared list."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.linear = nn.LayerNorm(8), nn.Linear(8, 8)

    def forward(self, x, shared, options):
        options["seen"] = options.get("seen", 0) + 1
        x += self.linear(self.norm(x)) * shared["gates"][0]
        x *= torch.tanh(x)
        shared["gates"][0].add_(0.1)
        return x.mul_(options["seen"])


class Plain(Block):
    """The same without writing."""

    def forward(self, x, shared, options):
        options["seen"] = options.get("seen", 0) + 1
        x = x + self.linear(self.norm(x)) * shared["gates"][0]
        x = x * torch.tanh(x)
        shared["gates"][0] = shared["gates"][0] + 0.1
        return x * options["seen"]


class Network(nn.Module):
    def __init__(self, block: type[nn.Module], count: int = 3) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(block() for _ in range(count))

    def forward(self, x):
        shared, options = {"gates": [torch.ones(8)]}, {}
        x = x * 2
        for block in self.blocks:
            x = block(x, shared, options)
            x += 1  # what the next block is given is no longer what this one returned
        return x


def made(block: type[nn.Module]) -> Network:
    torch.manual_seed(0)
    return Network(block)


def gradient(network, checkpointing, times=1):
    x = torch.randn(4, 8, generator=torch.Generator().manual_seed(1)).requires_grad_(True)
    run = Gradients(network.blocks if checkpointing else [], CPU)
    for _ in range(times):
        network.zero_grad()
        x.grad = None
        run.run(lambda: network(x)).square().mean().backward()
    run.undo()
    return [x.grad, *(one.grad.clone() for one in network.parameters())]


@both
def test_blocks_that_write_have_the_gradient_of_those_that_do_not(checkpointing):
    expected = made(Plain)
    x = torch.randn(4, 8, generator=torch.Generator().manual_seed(1)).requires_grad_(True)
    expected(x).square().mean().backward()
    reference = [x.grad, *(one.grad for one in expected.parameters())]
    for times in (1, 2):
        found = gradient(made(Block), checkpointing, times)
        for one, other in zip(found, reference, strict=True):
            torch.testing.assert_close(one, other)


@both
def test_a_network_is_run_twice_only_where_it_was_found_to_write(checkpointing):
    calls, x = [], torch.ones(1, 8, requires_grad=True)

    def counted(network):
        calls.append(1)
        return network(x)

    for block, expected in ((Plain, [1, 1]), (Block, [2, 1])):
        network = made(block)
        run = Gradients(network.blocks if checkpointing else [], CPU)
        for count in expected:
            calls.clear()
            run.run(partial(counted, network)).sum().backward()
            assert len(calls) == count


@both
def test_without_gradients_it_is_the_plain_call(checkpointing):
    network, calls = made(Block), []
    run = Gradients(network.blocks if checkpointing else [], CPU)
    x = torch.ones(1, 8)
    with torch.no_grad():
        found = run.run(lambda: calls.append(1) or network(x))
    assert len(calls) == 1 and torch.equal(found, made(Block)(x))


class Random(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 8)

    def forward(self, x, *_):
        return nn.functional.dropout(self.linear(x), 0.5).sin()  # saves nothing that is written to


def test_random_numbers_and_autocast_are_the_same_the_second_time():
    found = []
    for checkpointing in (False, True):
        network = made(Random)
        torch.manual_seed(5)
        with torch.autocast("cpu", torch.bfloat16):
            run = Gradients(network.blocks if checkpointing else [], CPU)
            x = torch.ones(4, 8, requires_grad=True)
            out = run.run(lambda network=network, x=x: network(x))
        before = torch.get_rng_state()
        out.square().mean().backward()
        assert torch.equal(before, torch.get_rng_state())
        found.append([one.grad for one in network.parameters()])
    assert all(map(torch.equal, *found))


class Cached(nn.Module):
    """Computes something the first time it is called."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.kept = nn.Linear(8, 8), None

    def forward(self, x, *_):
        if self.kept is None:
            self.kept = self.linear(x).sin()
            return self.kept.exp()
        return x.exp()


def test_a_block_that_computes_something_else_the_second_time_is_an_error():
    network = made(Cached)
    run = Gradients(network.blocks, CPU)
    out = run.run(lambda: network(torch.ones(1, 8, requires_grad=True)))
    with pytest.raises(CraftError, match="Turn gradient_checkpointing off"):
        out.sum().backward()


class Waves(nn.Module):
    def forward(self, x, *_):
        return x.exp().sin().cos().exp()  # each saves a tensor


def kept() -> int:
    return sum(type(one) is saved._Kept for one in gc.get_objects())


@pytest.mark.parametrize(("checkpointing", "expected"), [(False, 12), (True, 6)])
def test_of_a_block_only_what_it_is_given_is_kept_and_nothing_outlives_the_gradient(
    checkpointing, expected
):
    network, x = made(Waves), torch.ones(1, 8, requires_grad=True)
    gc.collect()
    before = kept()  # by what an earlier test raised
    gc.disable()  # what a reference cycle holds would stay until the garbage collector runs
    try:
        run = Gradients(network.blocks if checkpointing else [], CPU)
        out = run.run(lambda: network(x))
        assert kept() == before + expected
        out.sum().backward()
        assert kept() == before
    finally:
        gc.enable()


def test_the_hosts_kernels_come_back_also_after_an_error():
    kernels = pytest.importorskip("comfy_kitchen")
    before = dict(vars(kernels))
    x, table = torch.randn(1, 4, 2, 8), torch.randn(1, 4, 1, 4, 2, 2)
    expected = kernels.apply_rope1(x, table)
    with pytest.raises(ZeroDivisionError), plain_kernels():
        x.requires_grad_(True)
        found = kernels.apply_rope1(x, table)
        assert torch.equal(found, expected) and found.grad_fn is not None
        _ = 1 / 0
    assert dict(vars(kernels)) == before
    assert comfy.model_management.in_training is False
