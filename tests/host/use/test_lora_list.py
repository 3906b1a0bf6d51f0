"""A LoRA List is the chain of Load LoRA Branch that has its rows, bit by bit."""

from __future__ import annotations

import json

import folder_paths
import nodes
import pytest
import small_world_models as small
import torch
from craft_lora_pack.nodes.lora_branch import LoadLoRABranch, LoRAList
from craft_lora_pack.nodes.router import Router

PROMPT = "<c>a sks animal</c> in <s>zwx style</s>"
ROWS = [
    {"lora": small.CONTENT, "role": "content", "strength": 0.7, "layers": "output_blocks.0.1"},
    {"lora": small.STYLE, "role": "style", "strength": 0.4},
    {"lora": small.STYLE, "role": "content", "strength": -0.2, "second_lora": small.CONTENT},
]
ORDERS = {"in order": (0, 1, 2), "reversed": (2, 1, 0), "the first alone": (0,)}


@pytest.fixture(scope="module")
def world():
    return small.load()


def listed(rows, branches=()):
    (made,) = LoRAList.execute(json.dumps(rows), branches=branches).result
    return made


def chained(rows, branches=()):
    for row in rows:
        (branches,) = LoadLoRABranch.execute(**row, branches=branches).result
    return branches


def sample(world, branches, method):
    settings = {"layer_sets": {"layer_sets": "all"}, "method": {"method": method}}
    model, positive, _, report, *_ = Router.execute(
        world.model, world.clip, PROMPT, "none", "none", 0.9, 0.8, **settings,
        extra_branches=branches,
    ).result  # fmt: skip
    with torch.inference_mode():
        latent = nodes.EmptyLatentImage().generate(64, 64)[0]
        made = nodes.common_ksampler(
            model, 1, 2, 3.0, "euler", "normal", positive, world.encode(""), latent
        )
    return made[0]["samples"], report


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("method", ["craft", "switch"])
def test_a_list_samples_as_its_chain_does_bit_by_bit(world, order, method):
    rows = [ROWS[at] for at in ORDERS[order]]
    (one, said), (other, said_of_chain) = (
        sample(world, make(rows), method) for make in (listed, chained)
    )
    assert torch.equal(one, other) and said == said_of_chain
    plain, _ = sample(world, (), method)
    assert not torch.equal(one, plain)


def test_lists_and_chains_mix_in_any_order():
    for cut in range(len(ROWS) + 1):
        before, after = ROWS[:cut], ROWS[cut:]
        whole = chained(ROWS)
        assert listed(after, listed(before)) == whole
        assert listed(after, chained(before)) == whole
        assert chained(after, listed(before)) == whole


def test_a_row_that_is_off_is_as_one_that_is_not_there():
    off = [dict(row, on=False) for row in ROWS]
    assert listed([off[0], ROWS[1], off[2]]) == chained(ROWS[1:2])
    assert listed(off) == listed([]) == ()


def test_what_a_user_can_mistake_is_told_before_queueing():
    assert LoRAList.validate_inputs(json.dumps(ROWS)) is True
    assert LoRAList.validate_inputs("") is True
    absent = dict(ROWS[0], lora="absent.safetensors")
    for wrong in (absent, dict(ROWS[0], second_lora="absent.safetensors")):
        assert "absent.safetensors" in LoRAList.validate_inputs(json.dumps([wrong]))
    assert LoRAList.validate_inputs(json.dumps([dict(absent, on=False)])) is True
    for word in ("same", "none"):  # of the second file alone
        assert word in LoRAList.validate_inputs(json.dumps([dict(ROWS[0], lora=word)]))
    assert "no role" in LoRAList.validate_inputs('[{"lora": "a"}]')
    assert LoRAList.validate_inputs(None) is True  # linked: the text is known in the run


def test_a_replaced_file_is_noticed_in_every_row_that_is_on(tmp_path):
    folder_paths.add_model_folder_path("loras", str(tmp_path))
    try:
        for key, others in (("lora", {}), ("second_lora", {"lora": small.STYLE})):
            file = tmp_path / f"{key}.safetensors"
            file.write_bytes(b"before")
            row = {"role": "style", **others, key: file.name}
            first = LoRAList.fingerprint_inputs(json.dumps([ROWS[0], row]))
            file.write_bytes(b"after it")
            assert LoRAList.fingerprint_inputs(json.dumps([ROWS[0], row])) != first
    finally:
        folder_paths.folder_names_and_paths["loras"][0].remove(str(tmp_path))
        folder_paths.filename_list_cache.clear()
