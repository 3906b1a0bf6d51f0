"""The model that a LoRA was trained on, from what trainers write and from its names."""

import pytest

from craft_core.lora.header.base_model import base_model

SDXL = ["lora_unet_input_blocks_4_1_transformer_blocks_1_attn1_to_q.lora_down.weight"]
CASES = {
    "nothing": ({}, [], ("", ())),
    "its names": ({}, SDXL, ("SDXL", ())),
    "kohya": (
        {"ss_sd_model_name": "pony.safetensors", "ss_base_model_version": "sdxl_base_v1-0"}, SDXL,
        ("SDXL", ("pony.safetensors", "sdxl_base_v1-0")),
    ),
    "a trainer's word for nothing": ({"ss_sd_model_name": "None"}, [], ("", ())),
    "the same twice": (
        {"ss_sd_model_name": "a", "ss_base_model_version": "a", "modelspec.architecture": " "}, [],
        ("", ("a",)),
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_the_base_model_is_what_the_file_states_and_what_its_names_look_like(case):
    metadata, names, expected = CASES[case]
    assert base_model(metadata, names) == expected
