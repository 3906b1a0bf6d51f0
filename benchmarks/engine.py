"""Seconds per sampling step of seven ways to run two LoRAs, interleaved in one process.

    python run.py bench engine [--size small|short|wide|sdxl] [--rank 64] [--latent 32] [--rounds 7]
                               [--device cuda] [--dtype bf16] [--batch 4] [--ways PATTERN] [--peaks]
                               [--kinds | --rules | --compiled | --profile | --launches]
                               [--dynamic-vram]

Every way samples the same random model of the host's SDXL class with the host's own euler; one
round runs each once, in turn, so that a change of the machine's speed affects all of them. Ratios
are to the host's LoraLoader (LoRAs merged into the weights) in the same round. With --dynamic-vram,
under the host's dynamic VRAM where the card's host has it, and without the two models, whose
weights the script itself merges; the first line says whether it runs. --ways runs only
those whose names match the pattern, beside the LoraLoader. With --peaks, the most memory of a card
that each way holds while it samples, all other models unloaded before. Where the host would split
the rows of a step for want of memory, nothing is timed and a line says so. With --kinds, what
each adapter kind costs on one layer instead. With --rules, what each guidance rule costs: the
evaluations of the model that a step took, counted in the runs, and the time of a step as a multiple
of a step at cfg 1 without weights, which is one evaluation. With --compiled, ways under the host's
Torch Compile Model with inductor. The warm-up round compiles a graph for each way, which takes a
CPU minutes for each transformer block, a quarter of that once torch has them on disk; so the model
is short unless --size says otherwise. With --profile, what one step of merged and of routed LoRAs
runs on the device, counted and timed by torch's profiler. With --launches, how many operations a
step of each way gives to the device, and how often it waits for one, counted without a card.
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import sys
from collections.abc import Callable
from functools import partial

from _sdxl_class import (
    DEVICE,
    IS_DYNAMIC,
    SCALE,
    STRENGTHS,
    World,
    add_flags,
    oracle,
    print_table,
    torch,
)

import comfy.hooks  # isort: skip
import comfy.model_management  # isort: skip
import comfy.sd  # isort: skip
from comfy_extras.nodes_torch_compile import TorchCompileModel  # isort: skip
from benchmarks.parts.kinds import print_kinds  # isort: skip
from benchmarks.parts.one_step import print_profiles  # isort: skip
from craft_lora_pack.comfy_adapter.engine import engine
from craft_lora_pack.comfy_adapter.guide.acfg import acfg_guider
from craft_lora_pack.craft_core.fusion.compose import compose
from craft_lora_pack.craft_core.schedule.schedule import Schedule
from craft_lora_pack.craft_core.types import constant_gates

NO_LORA = "no LoRA"
MERGED = "host LoraLoader (merged)"
PROFILED = "^ours"
TIMED = 0.65  # of the seconds, where peaks are measured after it
Ways = dict[str, Callable[[], object]]  # what makes the guider of each


def main() -> None:
    # No abbreviations: some flags are looked for before the host is entered.
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0], allow_abbrev=False)
    add_flags(parser)
    parser.add_argument("--ways", default="", help="pattern of the names of those that run")
    parser.add_argument("--peaks", action="store_true", help="the most memory that each way holds")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--kinds", action="store_true", help="each adapter kind on one layer")
    what.add_argument("--rules", action="store_true", help="each guidance rule")
    what.add_argument("--compiled", action="store_true", help="under torch.compile")
    what.add_argument("--profile", action="store_true", help="what one step runs on the device")
    what.add_argument("--launches", action="store_true", help="operations and waits of a step")
    if "--compiled" in sys.argv:
        parser.set_defaults(size="short")
    if "--launches" in sys.argv:
        parser.set_defaults(size="deep", latent=8)
    if "--profile" in sys.argv:
        parser.set_defaults(ways=PROFILED)
    options = parser.parse_args()
    if options.kinds:
        print_kinds(options)
        return
    world = World(options)
    print(world.title)
    if options.rules:
        print_rules(world)
        return
    makers = compiled_guiders(world) if options.compiled else guiders(world)
    ways = {
        name: make() for name, make in makers.items()
        if name == MERGED or re.search(options.ways, name) or (options.launches and name == NO_LORA)
    }  # fmt: skip
    short = short_of_memory(world)
    if short:
        print(f"skipped: {short}")
        return
    if options.profile:
        print_profiles(world, ways)
        return
    if options.launches:
        from benchmarks.parts.launches import print_launches

        print_launches(world, ways, NO_LORA)
        return
    seconds = world.interleaved(ways, TIMED if options.peaks else 1.0)
    if options.peaks:
        world.measure_peaks(ways)
    print_table(seconds, MERGED, "merged", world.peaks)


def short_of_memory(world: World) -> str | None:
    """Why the host would evaluate the rows of a step in several calls; None where it does not."""
    rows, side = 2 * world.options.batch, world.options.latent
    needed = 1.5 * world.model.model.memory_required([rows, 4, side, side])  # as the host asks
    free = comfy.model_management.get_free_memory(DEVICE)
    if needed < free:
        return None
    return (
        f"{rows} rows need {needed / 1e9:.1f} GB beside the models, and {free / 1e9:.1f} are free"
    )


def guiders(world: World) -> Ways:
    """The seven ways on one backbone (and a second model for the two-model way)."""
    ways: Ways = {
        NO_LORA: lambda: world.cfg(world.model),
        MERGED: lambda: world.cfg(merged(world, world.model)),
        "ours, direct": lambda: world.cfg(routed(world, None)),
        "ours, ACFG cosine": lambda: acfg(world, routed(world, Schedule("cosine"))),
        "host bypass": lambda: world.cfg(bypassed(world)),
        "host hooks with keyframes": partial(hooked, world),
    }
    if not IS_DYNAMIC:
        ways["two separate models"] = partial(two_models, world)
    return ways


def acfg(world: World, model):
    return acfg_guider(model, world.positive, world.negative, SCALE, True)


def compiled_guiders(world: World) -> Ways:
    """LoRAs merged and routed, all compiled; each on a model of its own."""
    prepare_compiling()
    ways: Ways = {
        MERGED: lambda: world.cfg(compiled(merged(world, world.another_model()))),
        "ours, ACFG cosine": lambda: acfg(world, compiled(routed(world, Schedule("cosine")))),
    }
    if DEVICE.type != "cpu":
        other = world.another_model
        ways["ours, direct"] = lambda: world.cfg(compiled(routed(world, None, other())))
        ways["no LoRA"] = lambda: world.cfg(compiled(other()))
    print("a graph of each way is compiled first", flush=True)
    return ways


def prepare_compiling() -> None:
    """On a CPU the host's attention reads how much memory is free, and a graph would end there."""
    if DEVICE.type == "cpu":
        free = comfy.model_management.get_free_memory()
        comfy.model_management.get_free_memory = lambda device=None, torch_free_too=False: (
            (free, free) if torch_free_too else free
        )
        os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")


def compiled(model):
    (clone,) = TorchCompileModel.execute(model, "inductor").args
    return clone


BOTH, APART = {"weight": 2.0}, {"content_weight": 2.0, "style_weight": 2.0}
RULES = {  # (cfg, rule, settings)
    "cfg 1": (1.0, "acfg", {}),
    "cfg 1, role, weight": (1.0, "role", BOTH),
    "cfg 1, role, both apart": (1.0, "role", APART),
    "cfg 1, weak, weight": (1.0, "weak", BOTH),
    "cfg 5, standard": (SCALE, "cfg", {}),
    "cfg 5, ACFG": (SCALE, "acfg", {}),
    "cfg 5, role, weight = cfg": (SCALE, "role", {"weight": SCALE}),
    "cfg 5, role, weight": (SCALE, "role", BOTH),
    "cfg 5, role, both apart": (SCALE, "role", APART),
    "cfg 5, weak, weight": (SCALE, "weak", BOTH),
    "cfg 5, weak, both apart": (SCALE, "weak", APART),
}


def print_rules(world: World) -> None:
    """Evaluations a step, and the median multiple of a step that is one evaluation."""
    model, ways, recorders = routed(world, None), {}, {}
    for name, (scale, rule, settings) in RULES.items():
        watched, recorders[name] = engine.recorded(engine.set_guidance(model, rule, settings))
        ways[name] = oracle.guider(watched, world.positive, world.negative, scale)
    seconds = world.interleaved(ways)
    (one, *_) = seconds.values()
    steps = world.options.steps * (len(one) + 1)
    print(f"{'':28}{'evaluations':>13}{'x one':>8}{'x one / evaluations':>22}")
    for name, values in seconds.items():
        (record,) = recorders[name].records.values()
        count = record.evaluations.total() / steps
        times = statistics.median(a / b for a, b in zip(values, one, strict=True))
        print(f"{name:28}{count:13g}{times:8.2f}{times / count:22.2f}")


def merged(world: World, model):
    for state, strength in zip(world.states, STRENGTHS, strict=True):
        model, _ = comfy.sd.load_lora_for_models(model, None, state, strength, 0.0)
    return model


def bypassed(world: World):
    """The host's own way to run LoRAs beside the weights."""
    model = world.model
    for state, strength in zip(world.states, STRENGTHS, strict=True):
        model, _ = comfy.sd.load_bypass_lora_for_models(model, None, state, strength, 0.0)
    return model


def routed(world: World, schedule, model=None):
    bank = world.bank()
    ones = constant_gates(torch.ones(len(bank.layers), 2))
    return engine.attach(model or world.model, bank, compose(ones, bank, schedule))


def hooked(world: World):
    """The host's own way to give the positive prompt LoRAs whose strengths change with time."""
    groups = []
    for state, strength, rising in zip(world.states, STRENGTHS, (False, True), strict=True):
        group = comfy.hooks.create_hook_lora(state, strength, 0.0)
        frames = comfy.hooks.HookKeyframeGroup()
        steps = world.options.steps
        for step in range(steps):
            value = (step if rising else steps - 1 - step) / max(1, steps - 1)
            frames.add(comfy.hooks.HookKeyframe(value, step / steps))
        group.set_keyframes_on_hooks(frames)
        groups.append(group)
    both = comfy.hooks.HookGroup.combine_all_hooks(groups)
    positive = comfy.hooks.set_hooks_for_conditioning(world.positive, both)
    plain = world.model.clone()
    plain.register_all_hook_patches(
        both, comfy.hooks.create_target_dict(comfy.hooks.EnumWeightTarget.Model)
    )
    return oracle.guider(plain, positive, world.negative, SCALE)


def two_models(world: World):
    twin = merged(world, world.another_model())
    reference = oracle.TwoModels(world.model, twin, [], lambda progress: ())
    reference.set_conds(world.positive, world.negative)
    reference.set_cfg(SCALE)
    return reference


if __name__ == "__main__":
    main()
