"""What tests of nodes that sample pictures themselves share."""

import comfy.model_management
import comfy.sample
import pytest


@pytest.fixture
def made(monkeypatch):
    """The seeds of the pictures that are sampled, in order; `stop` interrupts after so many."""

    class Made(list):
        stop = 10**9

    found, sample = Made(), comfy.sample.sample

    def counted(*arguments, seed, **others):
        if len(found) >= found.stop:
            raise comfy.model_management.InterruptProcessingException()
        found.append(seed)
        return sample(*arguments, seed=seed, **others)

    monkeypatch.setattr(comfy.sample, "sample", counted)
    return found
