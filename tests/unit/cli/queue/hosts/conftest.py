"""What tests of several servers share."""

import pytest
from craft_lora_pack.cli.queue.hosts import batch
from craft_lora_pack.client import client, events
from fake_host import FakeHost


@pytest.fixture
def quick(monkeypatch):
    """The waits of a person, shortened for a test."""
    monkeypatch.setattr(client, "PATIENCE", 0.3)
    monkeypatch.setattr(client, "QUIET", 0.01)
    monkeypatch.setattr(client, "RECEIVE", 0.1)
    monkeypatch.setattr(events, "FIRST_PAUSE", 0.05)
    monkeypatch.setattr(batch, "TICK", 0.02)
    monkeypatch.setattr(batch, "RETURNS", 0.2)


@pytest.fixture
def hosts():
    """Start a host; all end with the test."""
    running = []

    def start(*given, **more):
        running.append(FakeHost(*given, **more).__enter__())
        return running[-1]

    yield start
    for one in running:
        one.__exit__()
