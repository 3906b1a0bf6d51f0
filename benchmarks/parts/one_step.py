"""What one step of sampling runs on its device, as torch's profiler sees it.

The step goes from one question of the sampler to the next, the second of three. On a card are
counted: launches of kernels, waits of the processor for the card, and copies to the card and back.
On a CPU there are only operators.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping
from typing import Any

from _sdxl_class import DEVICE, World, synchronise
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

STEPS, PROFILED = 3, 2
TOP = 6  # operators that are shown
LAUNCH = r"Launch\w*Kernel|GraphLaunch"
# The profiler itself ends with a cudaDeviceSynchronize.
WAIT = r"(Stream|Event)Synchronize$|^(cuda|hip)Memcpy$|MemcpyWithStream$"
ON_CARD = DEVICE.type != "cpu"


def print_profiles(world: World, ways: Mapping[str, Any]) -> None:
    """Counts of a step of each way, and the operators that take the device most time."""
    first = next(iter(ways.values()))
    profiled_step(world, first)  # the first of a process sets the profiler up
    found = {name: profiled_step(world, guider) for name, guider in ways.items()}
    if not all(map(whole_time, found.values())):
        sys.exit("the profiler saw nothing of the device")
    counted = ("launches", "waits", "to card", "back") if ON_CARD else ("operators",)
    print(f"{'one step, profiled':28}" + "".join(f"{name:>10}" for name in (*counted, "ms")))
    for name, events in found.items():
        counts = [COUNTS[one](events) for one in counted]
        row = "".join(f"{count:10}" for count in counts)
        print(f"{name:28}{row}{whole_time(events) / 1000:10.2f}")
    for name, events in found.items():
        total = whole_time(events)
        print(f"most time in {name}, ms, share, calls:")
        for one in sorted(events, key=own_time, reverse=True)[:TOP]:
            share = own_time(one) / total
            print(f"  {one.key[:44]:46}{own_time(one) / 1000:9.2f}{share:7.0%}{one.count:7}")


def profiled_step(world: World, guider: Any) -> list[Any]:
    """The profiler's events of one step, those of a kind together."""
    world.load(guider)
    world.sample(guider, STEPS)
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * ON_CARD
    profiler, asked, original = profile(activities=activities), 0, guider.outer_predict_noise

    def ask(*args: Any, **kwargs: Any) -> Any:
        nonlocal asked
        asked += 1
        if asked == PROFILED:
            synchronise()
            profiler.start()
        elif asked == PROFILED + 1:
            profiler.stop()  # once the device is done
        return original(*args, **kwargs)

    guider.outer_predict_noise = ask
    try:
        world.sample(guider, STEPS)
    finally:
        del guider.outer_predict_noise
    assert asked == STEPS, "a step of euler asks once"
    return list(profiler.key_averages())


def own_time(event: Any) -> float:
    """Microseconds of the device that an operator took without those that it called. A kernel is
    the operator's that launched it."""
    if event.device_type != DeviceType.CPU:
        return 0.0
    return event.self_device_time_total if ON_CARD else event.self_cpu_time_total


def whole_time(events: list[Any]) -> float:
    """Microseconds in which the device worked: of a card in its kernels and copies."""
    if not ON_CARD:
        return sum(map(own_time, events))
    on_device = [one for one in events if one.device_type != DeviceType.CPU]
    return sum(one.self_device_time_total for one in on_device if not one.is_user_annotation)


def matching(pattern: str) -> Callable[[list[Any]], int]:
    return lambda events: sum(one.count for one in events if re.search(pattern, one.key))


COUNTS = {
    "launches": matching(LAUNCH),
    "waits": matching(WAIT),
    "to card": matching("^Memcpy HtoD"),
    "back": matching("^Memcpy DtoH"),
    "operators": matching("^aten::"),
}
