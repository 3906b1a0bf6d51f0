"""What a soak calls a fault: other pictures for an equal prompt, growth, changed weights."""

import random

import pytest
from craft_lora_pack.client.errors import RemoteError

from launcher.lasting import soak as soaking
from launcher.lasting.prompts import SoakJob
from launcher.lasting.soak import Look, Soak, soak_server, thirds


def looks(**series):
    held = {"memory": [1e9] * 9, "objects": [5e5] * 9, "tensors": [3e3] * 9, "weights": [["a"]] * 9}
    held |= series
    return [Look(10 * k, {name: held[name][k] for name in held}) for k in range(9)]


def test_a_flat_soak_has_no_fault():
    soak = Soak(looks=looks())
    soak.judge()
    assert soak.faults == []


def test_what_fills_up_at_the_start_is_no_growth():
    soak = Soak(looks=looks(memory=[1e8, 5e8, 9e8, *[1e9] * 6]))
    soak.judge()
    assert soak.faults == []


@pytest.mark.parametrize("name", ["memory", "objects", "tensors"])
def test_steady_growth_is_a_fault(name):
    soak = Soak(looks=looks(**{name: [1e9 * (1 + k / 4) for k in range(9)]}))
    soak.judge()
    assert len(soak.faults) == 1 and soak.faults[0].startswith(f"{name} grew from")


def test_weights_that_changed_are_a_fault_at_each_look():
    soak = Soak(looks=looks(weights=[*[["a"]] * 7, ["b"], ["a"]]))
    soak.judge()
    assert soak.faults == ["after 70 prompts the loaded weights are others"]


def test_the_thirds_of_a_short_soak():
    assert thirds([1.0]) == (1.0, 1.0)
    assert thirds([1, 2, 3]) == (2, 3)


class Server:
    """Answers each prompt with files that depend on the prompt, and on the prompts before."""

    def __init__(self, leak=0, wrong_at=None, breaks=False):
        self.leak, self.wrong_at, self.breaks, self.count = leak, wrong_at, breaks, 0
        self.cleared = 0

    def run(self, prompt, limit):
        self.count += 1
        if self.breaks and prompt["name"] == "odd":
            raise RemoteError("it broke.")
        return self if self.count != self.wrong_at else Server()

    def files(self):
        return ["picture"] if self.count else ["another"]

    def fetch(self, item):
        return item.encode()

    def post_json(self, path, body):
        assert (path, body) == ("/history", {"clear": True})
        self.cleared += 1

    def ask(self, path):
        assert path == soaking.ROUTE
        held = 10**9 + self.leak * self.count
        return {"memory": held, "objects": held // 1000, "tensors": 10, "weights": ["m"]}

    def interrupt(self):
        pass


class Drawn:
    def reference(self):
        return SoakJob(("reference",), {"name": "reference"})

    def drawn(self):
        rng = random.Random(0)
        while True:
            name = rng.choice(["even", "odd"])
            yield SoakJob((name,), {"name": name})


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    monkeypatch.setattr(soaking, "SOON", 0.01)


def soaked(server, count=60):
    soak = soak_server(server, Drawn(), count, 0)
    soak.judge()
    return soak


def test_a_server_that_keeps_nothing_passes():
    server = Server()
    soak = soaked(server)
    assert soak.faults == [] and len(soak.looks) == server.cleared == 21
    assert set(soak.made) == {("reference",), ("even",), ("odd",)}


def test_a_leak_is_found():
    assert any(fault.startswith("memory grew") for fault in soaked(Server(leak=8 << 20)).faults)


def test_another_picture_for_an_equal_prompt_is_found():
    (fault,) = soaked(Server(wrong_at=30)).faults
    assert fault.endswith("other pictures than the first time")


def test_an_error_of_a_prompt_is_a_fault_and_the_soak_goes_on():
    faults = soaked(Server(breaks=True)).faults
    assert faults and set(faults) == {"odd: it broke."}
