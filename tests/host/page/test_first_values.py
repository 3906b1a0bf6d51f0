"""What new nodes start with: the same prompt form and guidance scale in each."""

import pytest
from craft_lora_pack.craft_core.starting import GUIDED_CFG
from craft_lora_pack.nodes import NODES

INPUTS = [
    pytest.param(one, id=f"{node.GET_SCHEMA().node_id}.{one.id}")
    for node in NODES
    for one in node.GET_SCHEMA().inputs
    if not getattr(one, "force_input", None)  # a socket alone, which starts with nothing
]


def of(name):
    return [one for one in INPUTS if one.id.endswith(f".{name}")]


@pytest.mark.parametrize("prompt", of("prompt"))
def test_a_prompt_marks_with_pairs(prompt):
    for role in "cs":
        assert prompt.default.count(f"<{role}>") == prompt.default.count(f"</{role}>") == 1


@pytest.mark.parametrize("cfg", of("cfg"))
def test_guidance_starts_at_one_scale(cfg):
    assert cfg.default == GUIDED_CFG
