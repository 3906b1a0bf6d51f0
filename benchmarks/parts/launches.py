"""What a step gives to a device, counted on one that needs no card (tests/host/parts)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pretend_device
from comfy import model_management as management

FEW, MORE = 2, 5  # steps of the two runs whose difference is a step's


def print_launches(world: Any, ways: Mapping[str, Any], without: str) -> None:
    """For each way, of a step: operations launched, those beyond the row `without`, and how often
    the program waits for the device."""
    found = {name: _of_a_step(world, guider) for name, guider in ways.items()}
    plain = found[without]
    print(f"{'':28}{'launches':>10}{'more':>8}{'waits':>8}")
    for name, one in found.items():
        more = one["launches"] - plain["launches"]
        print(f"{name:28}{one['launches']:10.0f}{more:8.0f}{one['waits']:8.1f}")


def _of_a_step(world: Any, guider: Any) -> dict[str, float]:
    management.unload_all_models()
    world.load(guider)
    world.sample(guider, FEW)  # what only a first run does
    few, more = (_counted(lambda n=steps: world.sample(guider, n)) for steps in (FEW, MORE))
    return {what: (more[what] - few[what]) / (MORE - FEW) for what in ("launches", "waits")}


def _counted(work: Callable[[], Any]) -> dict[str, int]:
    with pretend_device.counting() as found:
        work()
    return found
