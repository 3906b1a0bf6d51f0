"""Scales that diffusers stores only in a file's metadata."""

import json
import random

import pytest

from craft_core.errors import CraftError
from craft_core.lora.peft_config import Stated, read_peft_configs, stated_for

TO_Q = "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"


def metadata(**entries):
    return {
        "lora_adapter_metadata": json.dumps({k.replace("__", "."): v for k, v in entries.items()})
    }


def test_each_component_has_its_own_configuration():
    configs = read_peft_configs(
        metadata(unet__lora_alpha=8, unet__r=4, text_encoder__lora_alpha=2, text_encoder__r=2)
    )
    assert stated_for(configs, TO_Q) == Stated(8.0, 4)
    assert stated_for(configs, "text_encoder.text_model.a") == Stated(2.0, 2)


def test_a_single_models_configuration_has_no_component():
    configs = read_peft_configs(metadata(lora_alpha=8, r=4, use_rslora=True))
    assert stated_for(configs, "down_blocks.1.to_q") == Stated(8.0, 4, rslora=True)


@pytest.mark.parametrize("prefix", ["", "base_model.model.", "diffusion_model."])
@pytest.mark.parametrize("component", ["unet", "transformer"])
def test_a_stem_without_a_component_belongs_to_the_denoiser(prefix, component):
    entries = {f"{component}__lora_alpha": 8, f"{component}__r": 4, "text_encoder__lora_alpha": 1}
    assert stated_for(read_peft_configs(metadata(**entries)), f"{prefix}a.to_q") == Stated(8.0, 4)


def test_a_pattern_matches_the_end_of_a_module_name_by_component():
    configs = read_peft_configs(
        metadata(
            unet__lora_alpha=8,
            unet__r=4,
            unet__alpha_pattern={"attn1.to_q": 2},
            unet__rank_pattern={"to_q": 16, "attentions.0.proj_in": 32},
        )
    )
    assert stated_for(configs, TO_Q) == Stated(2.0, 16)
    assert stated_for(configs, TO_Q.replace("attn1", "xattn1")) == Stated(8.0, 16)
    assert stated_for(configs, "unet.mid_block.attentions.0.proj_in") == Stated(8.0, 32)
    assert stated_for(configs, "unet.mid_block.attentions.10.proj_in") == Stated(8.0, 4)


def test_flat_kohya_names_are_not_what_the_metadata_speaks_of():
    configs = read_peft_configs(metadata(lora_alpha=8, r=4))
    assert stated_for(configs, "lora_unet_a_to_q") == Stated()
    assert stated_for(configs, "lycoris_a_to_q") == Stated()


def test_nothing_is_stated_without_the_entry():
    assert read_peft_configs({"ss_network_alpha": "16", "format": "pt"}) == {}
    assert stated_for({}, TO_Q) == Stated()


def test_null_entries_state_nothing():
    configs = read_peft_configs(metadata(unet__lora_alpha=None, unet__rank_pattern=None, unet__r=4))
    assert stated_for(configs, TO_Q) == Stated(rank=4)


@pytest.mark.parametrize(
    "text",
    ["{", "[]", "3", '{"unet.lora_alpha": "x"}', '{"unet.lora_alpha": NaN}', '{"unet.r": []}']
    + ['{"unet.alpha_pattern": {"(": 1}}', '{"unet.rank_pattern": [1]}', '{"unet.r": 0}']
    + [r'{"alpha_pattern": {"(\\w+\\.?)+!": 1}}', '{"r": 1e300}', '{"r": 1e999}', '{"r": 9e9}']
    + ["[" * 100_000, '{"lora_alpha": 1' + "0" * 400 + "}", '{"r": ' + "9" * 5000 + "}"]
    + [json.dumps({f"m{number}.r": 4 for number in range(9)})],
)
def test_broken_metadata_is_refused(text):
    with pytest.raises(CraftError, match="lora_adapter_metadata"):
        read_peft_configs({"lora_adapter_metadata": text})


def test_patterns_that_lead_everywhere_are_refused_when_they_are_matched():
    pattern = "|".join(f".*a.{{{number}}}b" for number in range(50))
    configs = read_peft_configs(metadata(alpha_pattern={pattern: 1}, r=4))
    chance = random.Random(0)
    with pytest.raises(CraftError, match="lora_adapter_metadata"):
        for _ in range(5000):
            stated_for(configs, "".join(chance.choices("abc.", k=300)))
