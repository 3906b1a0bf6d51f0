"""How fast a training step is on this machine, and what it spends its time on."""

from dataclasses import replace

import torch

from ..base import HALF_BATCHES, BaseTraining

BATCHES = (64, 128, 256, 512)
ROWS = 30  # of the profile


def speed(training: BaseTraining, batches: tuple[int, ...] = BATCHES) -> None:
    """Print seconds a step for each batch, started kernel by kernel and as a whole; a profile."""
    training.pool.fill(training.farm, training.first)
    ways = (False, True) if training.device.type == "cuda" else (False,)
    for record in ways:
        training.settings = replace(training.settings, record=record)
        for batch in batches:
            training.batch = batch
            training.reset()
            half, full = training.speeds()
            halves = f", {HALF_BATCHES * batch / half:.0f} at half size" if half else ""
            print(
                f"speed: {'recorded' if record else 'eager'}, batch {batch}: "
                f"{batch / full:.0f} pictures a second at full size{halves}",
                flush=True,
            )
    _profile(training)
    training.farm.close()


def _profile(training: BaseTraining) -> None:
    """The operations of one step at full size by their time on the device."""
    training.settings = replace(training.settings, record=False)
    training.reset()
    training.half_steps = 0
    training.train_step()
    activities = [torch.profiler.ProfilerActivity.CPU]
    order = "self_cpu_time_total"
    if training.device.type == "cuda":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
        order = "self_cuda_time_total"
    with torch.profiler.profile(activities=activities) as profile:
        training.train_step()
    print(profile.key_averages().table(sort_by=order, row_limit=ROWS))
