"""The pack's own socket types; every other socket is the host's."""

from __future__ import annotations

from comfy_api.latest import io

Branches = io.Custom("CRAFT_BRANCHES")  # tuple[lora_files.BranchFile, ...]
Encoder = io.Custom("CRAFT_ENCODER")  # str: the name of a file in a craft_encoders folder
Schedule = io.Custom("CRAFT_SCHEDULE")  # craft_core.schedule.Schedule
LoraModel = io.Custom("LORA_MODEL")  # the host's: a LoRA's tensors by their file names
LossMap = io.Custom("LOSS_MAP")  # the host's: {"loss": [a number a step]}
LoraStack = io.Custom("LORA_STACK")  # [(lora name, model strength, clip strength), ...]

CATEGORY = "CRAFT-LoRA"
