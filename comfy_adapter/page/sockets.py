"""The pack's own socket types; every other socket is the host's."""

from __future__ import annotations

from comfy_api.latest import io

BranchesSocket = io.Custom("CRAFT_BRANCHES")  # tuple[lora_files.BranchFile, ...]
EncoderSocket = io.Custom("CRAFT_ENCODER")  # str: the name of a file in a craft_encoders folder
ScheduleSocket = io.Custom("CRAFT_SCHEDULE")  # craft_core.schedule.Schedule
PictureEncoderSocket = io.Custom("CRAFT_PICTURE_ENCODER")  # craft_core.evaluation.PictureEncoder
TextEncoderSocket = io.Custom("CRAFT_TEXT_ENCODER")  # craft_core.evaluation.TextEncoder
LoraModelSocket = io.Custom("LORA_MODEL")  # the host's: a LoRA's tensors by their file names
LossMapSocket = io.Custom("LOSS_MAP")  # the host's: {"loss": [a number a step]}
LoraStackSocket = io.Custom("LORA_STACK")  # [(lora name, model strength, clip strength), ...]

CATEGORY = "CRAFT-LoRA"
