"""Seconds per sampling step of seven ways to run two LoRAs, interleaved in one process.

    python run.py bench engine [--size small|short|wide|sdxl] [--rank 64] [--latent 32] [--rounds 7]
                               [--device cuda] [--dtype bf16] [--batch 4]
                               [--kinds | --rules | --compiled]

Every way samples the same random model of the host's SDXL class with the host's own euler; one
round runs each once, in turn, so that a change of the machine's speed affects all of them. Ratios
are to the host's LoraLoader (LoRAs merged into the weights) in the same round. With --kinds, what
each adapter kind costs on one layer instead. With --rules, what each guidance rule costs: the
evaluations of the model that a step took, counted in the runs, and the time of a step as a multiple
of a step at cfg 1 without weights, which is one evaluation. With --compiled, ways under the host's
Torch Compile Model with inductor. The warm-up round compiles a graph for each way, which takes a
CPU minutes for each transformer block, a quarter of that once torch has them on disk; so the model
is short unless --size says otherwise.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys

from _sdxl_class import DEVICE, SCALE, STRENGTHS, World, add_flags, oracle, print_table, torch

import comfy.hooks  # isort: skip
import comfy.model_management  # isort: skip
import comfy.sd  # isort: skip
from comfy_extras.nodes_torch_compile import TorchCompileModel  # isort: skip
from benchmarks.parts.kinds import print_kinds  # isort: skip
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
    parser.add_argument("--rules", action="store_true", help="each guidance rule")
    parser.add_argument("--compiled", action="store_true", help="under torch.compile")
    if "--compiled" in sys.argv:
        parser.set_defaults(size="short")
    options = parser.parse_args()
    if options.kinds:
        print_kinds(options)
        return
    world = World(options)
    print(world.title)
    if options.rules:
        print_rules(world)
        return
    ways = compiled_guiders(world) if options.compiled else guiders(world)
    print_table(world.interleaved(ways), MERGED, "merged", world.peaks)


def guiders(world: World) -> dict[str, object]:
    """The seven ways on one backbone (and a second model for the two-model way)."""
    scheduled = routed(world, Schedule("cosine"))
    return {
        "no LoRA": world.cfg(world.model),
        MERGED: world.cfg(merged(world, world.model)),
        "ours, direct": world.cfg(routed(world, None)),
        "ours, ACFG cosine": acfg_guider(scheduled, world.positive, world.negative, SCALE, True),
        "host bypass": world.cfg(bypassed(world)),
        "host hooks with keyframes": hooked(world),
        "two separate models": two_models(world),
    }


def compiled_guiders(world: World) -> dict[str, object]:
    """LoRAs merged and routed, all compiled; each on a model of its own."""
    if DEVICE.type == "cpu":
        # The host's attention reads how much memory is free, and a graph would end there.
        free = comfy.model_management.get_free_memory()
        comfy.model_management.get_free_memory = lambda device=None, torch_free_too=False: (
            (free, free) if torch_free_too else free
        )
        os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")
    scheduled = compiled(routed(world, Schedule("cosine")))
    ways = {
        MERGED: world.cfg(compiled(merged(world, world.another_model()))),
        "ours, ACFG cosine": acfg_guider(scheduled, world.positive, world.negative, SCALE, True),
    }
    if DEVICE.type != "cpu":
        other = routed(world, None, world.another_model())
        ways["ours, direct"] = world.cfg(compiled(other))
        ways["no LoRA"] = world.cfg(compiled(world.another_model()))
    print(f"{len(ways)} graphs are compiled first", flush=True)
    return ways


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
    steps = world.options.steps * (world.options.rounds + 1)
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
