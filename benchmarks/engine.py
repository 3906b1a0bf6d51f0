"""Seconds per sampling step of six ways to run two LoRAs, interleaved in one process.

    python run.py bench engine [--size wide|small] [--rank 64] [--latent 32] [--rounds 7] [--kinds]

Every way samples the same random model of the host's SDXL class with the host's own euler; one
round runs each once, in turn, so that a change of the machine's speed affects all of them. Ratios
are to the host's LoraLoader (LoRAs merged into the weights) in the same round. With --kinds, what
each adapter kind costs on one layer instead.
"""

from __future__ import annotations

import argparse

from _kinds import print_kinds
from _sdxl_class import SCALE, STRENGTHS, World, add_flags, oracle, print_table, torch

import comfy.hooks  # isort: skip
import comfy.sd  # isort: skip
from craft_lora_pack.comfy_adapter.engine import engine
from craft_lora_pack.comfy_adapter.guide.acfg import acfg_guider
from craft_lora_pack.craft_core.fusion.compose import compose
from craft_lora_pack.craft_core.schedule.schedule import Schedule
from craft_lora_pack.craft_core.types import constant_gates

MERGED = "host LoraLoader (merged)"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    add_flags(parser)
    parser.add_argument("--kinds", action="store_true", help="each adapter kind on one layer")
    options = parser.parse_args()
    if options.kinds:
        print_kinds(options)
        return
    world = World(options)
    print(world.title)
    print_table(world.interleaved(guiders(world)), MERGED, "merged")


def guiders(world: World) -> dict[str, object]:
    """The six ways on one backbone (and a second model for the two-model way)."""
    scheduled = routed(world, Schedule("cosine"))
    return {
        "no LoRA": world.cfg(world.model),
        MERGED: world.cfg(merged(world, world.model)),
        "ours, direct": world.cfg(routed(world, None)),
        "ours, ACFG cosine": acfg_guider(scheduled, world.positive, world.negative, SCALE, True),
        "host hooks with keyframes": hooked(world),
        "two separate models": two_models(world),
    }


def merged(world: World, model):
    for state, strength in zip(world.states, STRENGTHS, strict=True):
        model, _ = comfy.sd.load_lora_for_models(model, None, state, strength, 0.0)
    return model


def routed(world: World, schedule):
    bank = world.bank()
    ones = constant_gates(torch.ones(len(bank.layers), 2))
    return engine.attach(world.model, bank, compose(ones, bank, schedule))


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
