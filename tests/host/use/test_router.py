"""The Router on the trained small world gives what the host's own nodes give, or an error."""

from __future__ import annotations

import re

import comfy.lora
import comfy.utils
import folder_paths
import nodes
import oracle
import pytest
import safetensors.torch
import small_world_models as small
import torch
from craft_lora_pack.craft_core.errors import CraftError
from craft_lora_pack.craft_core.fusion import FUSION
from craft_lora_pack.craft_core.lora.statistics import entries
from craft_lora_pack.nodes.acfg import ACFGGuider, ACFGKSampler
from craft_lora_pack.nodes.lora_branch import LoadLoRABranch
from craft_lora_pack.nodes.router import Router
from oracle import LAW, distance

PROMPT = "<c>a sks animal</c> in <s>zwx style</s>"
CLEAN = "a sks animal in zwx style"
CRAFT_ALL = {"layer_sets": {"layer_sets": "all"}, "method": {"method": "craft"}}


@pytest.fixture(scope="module")
def world():
    return small.load()


def route(world, prompt=PROMPT, content=small.CONTENT, style=small.STYLE, **changes):
    settings = {"content_strength": 0.9, "style_strength": 0.6} | CRAFT_ALL | changes
    return Router.execute(world.model, world.clip, prompt, content, style, **settings).result


def sample(model, positive, negative, steps=3):
    with torch.inference_mode():
        return nodes.common_ksampler(
            model, 1, steps, 3.0, "euler", "normal", positive, negative,
            nodes.EmptyLatentImage().generate(64, 64)[0],
        )[0]["samples"]  # fmt: skip


def test_symmetric_all_layers_is_the_hosts_two_lora_loader_nodes(world):
    model, positive, clean, *_ = route(world)
    negative = world.encode("")
    files = [(small.CONTENT, 0.9), (small.STYLE, 0.6)]
    both = []  # in either order: the same sum with other rounding
    for order in (files, files[::-1]):
        expected = world.with_loras(*order)
        for loaded in (expected.model, oracle.row_by_row(expected.model)):
            both.append(sample(loaded, expected.encode(CLEAN), negative))
    a = sample(model, positive, negative)
    plain = sample(world.model, world.encode(CLEAN), negative)
    assert clean == CLEAN
    assert distance(both[0], plain) > 0.05
    assert distance(a, both[0]) <= oracle.law(*both)


def test_a_prompt_without_markers_is_bitwise_the_unrouted_model(world):
    model, positive, *_ = route(world, prompt=CLEAN)
    negative = world.encode("")
    assert torch.equal(
        sample(model, positive, negative), sample(world.model, world.encode(CLEAN), negative)
    )


def test_a_role_without_its_marker_is_off(world):
    both = "<c>a sks animal</c> in zwx style"
    model, positive, *_ = route(world, prompt=both)
    alone, _, *_ = route(world, prompt=both, style="none")
    negative = world.encode("")
    a, b = sample(model, positive, negative), sample(alone, positive, negative)
    assert distance(a, b) <= LAW


def test_direct_listens_to_neither_markers_nor_layer_sets(world):
    one, *_ = route(world, method={"method": "direct"}, layer_sets={"layer_sets": "b-lora"})
    other, *_ = route(world, prompt=CLEAN, method={"method": "direct"})
    craft, *_ = route(world)
    positive, negative = world.encode(CLEAN), world.encode("")
    results = [sample(m, positive, negative) for m in (one, other, craft)]
    assert torch.equal(results[0], results[1])
    assert distance(results[0], results[2]) <= LAW  # all layers, both markers: the same


def test_b_lora_is_craft_on_its_two_blocks(world):
    method, *_ = route(world, method={"method": "b_lora"})
    by_hand = "content: output_blocks.0.1\nstyle: output_blocks.1.1"
    custom, *_ = route(world, layer_sets={"layer_sets": "custom", "patterns": by_hand})
    positive, negative = world.encode(CLEAN), world.encode("")
    assert torch.equal(sample(method, positive, negative), sample(custom, positive, negative))


def test_an_extra_branch_is_the_router_slot_it_stands_for(world):
    own, positive, *_ = route(world)
    negative = world.encode("")
    expected = sample(own, positive, negative)
    for strength, dial in ((0.6, 1.0), (1.0, 0.6)):
        (extra,) = LoadLoRABranch.execute(small.STYLE, "style", strength).result
        other, *_ = route(world, style="none", extra_branches=extra, style_strength=dial)
        assert torch.equal(expected, sample(other, positive, negative))


def test_an_extra_branch_may_have_its_own_layers(world):
    (extra,) = LoadLoRABranch.execute(small.STYLE, "style", 0.6, "output_blocks.1.1").result
    *_, report, _, _ = route(world, style="none", extra_branches=extra)
    active, adapted = acts_on(report, "style")
    assert 0 < active < adapted


def acts_on(report, role):
    """(layers it acts on, layers it adapts) of the first LoRA of a role."""
    line = next(line for line in report.splitlines() if line.startswith(role))
    return tuple(map(int, re.search(r"acts on (\d+) of (\d+)", line).groups()))


@pytest.mark.parametrize("method", ["direct", "k_lora"])
def test_own_layers_are_as_a_file_that_has_no_others(world, lora_folder, method):
    lora = comfy.utils.load_torch_file(folder_paths.get_full_path("loras", small.STYLE))
    cut = {key: t for key, t in lora.items() if "output_blocks_1_1" in key}
    assert 0 < len(cut) < len(lora)
    safetensors.torch.save_file(cut, lora_folder / "cut.safetensors")
    chosen = {"style": "none", "method": {"method": method}}
    (extra,) = LoadLoRABranch.execute(small.STYLE, "style", 0.6, "output_blocks.1.1").result
    own, positive, _, report, *_ = route(world, extra_branches=extra, **chosen)
    (extra,) = LoadLoRABranch.execute("cut.safetensors", "style", 0.6).result
    other, *_ = route(world, extra_branches=extra, **chosen)
    active, adapted = acts_on(report, "style")
    assert 0 < active < adapted and "own layers output_blocks.1.1, in place of all" in report
    negative = world.encode("")
    assert torch.equal(sample(own, positive, negative), sample(other, positive, negative))


def test_a_lora_stack_goes_to_the_backbone_and_comes_out_with_the_routers_own(world):
    stack = [(small.STYLE, 0.6, 0.6)]
    model, positive, _, _, out, _ = route(world, style="none", lora_stack=stack)
    patched, _ = nodes.LoraLoader().load_lora(world.model, world.clip, small.STYLE, 0.6, 0.6)
    expected, *_ = Router.execute(
        patched, world.clip, PROMPT, small.CONTENT, "none", 0.9, 0.0, **CRAFT_ALL
    ).result
    negative = world.encode("")
    assert out == [*stack, (small.CONTENT, 0.9, 0.9)]
    assert torch.equal(sample(model, positive, negative), sample(expected, positive, negative))


def test_the_acfg_sampler_is_the_hosts_where_nothing_is_routed(world):
    positive, negative = world.encode(CLEAN), world.encode("")
    latent = nodes.EmptyLatentImage().generate(64, 64)[0]
    with torch.inference_mode():
        (ours,) = ACFGKSampler.execute(
            world.model, 1, 3, 3.0, "euler", "normal", positive, negative, latent, 1.0, True
        ).result
    assert torch.equal(ours["samples"], sample(world.model, positive, negative))


def test_the_text_encoder_part_of_a_file_is_applied_as_the_host_does(world, lora_folder):
    lora = comfy.utils.load_torch_file(folder_paths.get_full_path("loras", small.CONTENT))
    names = comfy.lora.model_lora_keys_clip(world.clip.cond_stage_model, {})
    stem = next(n for n in names if n.startswith("lora_te") and n.endswith("q_proj"))
    width = comfy.utils.get_attr(world.clip.cond_stage_model, names[stem]).shape[0]
    generator = torch.Generator().manual_seed(0)
    lora[f"{stem}.lora_down.weight"] = torch.randn(2, width, generator=generator)
    lora[f"{stem}.lora_up.weight"] = torch.randn(width, 2, generator=generator)
    safetensors.torch.save_file(lora, lora_folder / "with_text.safetensors")
    _, positive, *_ = route(world, content="with_text.safetensors", style="none")
    _, clip = nodes.LoraLoader().load_lora(
        world.model, world.clip, "with_text.safetensors", 0.9, 0.9
    )
    expected = nodes.CLIPTextEncode().encode(clip, CLEAN)[0]
    assert torch.equal(positive[0][0], expected[0][0])
    assert not torch.equal(positive[0][0], world.encode(CLEAN)[0][0])


@pytest.fixture
def lora_folder(tmp_path):
    folder_paths.add_model_folder_path("loras", str(tmp_path))
    yield tmp_path
    folder_paths.folder_names_and_paths["loras"][0].remove(str(tmp_path))
    folder_paths.filename_list_cache.clear()


def test_keys_that_match_nothing_are_an_error_unless_allowed(world, lora_folder):
    lora = comfy.utils.load_torch_file(folder_paths.get_full_path("loras", small.CONTENT))
    lora["lora_unet_output_blocks_99_1_proj_in.lora_down.weight"] = torch.zeros(1, 8)
    lora["lora_unet_output_blocks_99_1_proj_in.lora_up.weight"] = torch.zeros(8, 1)
    safetensors.torch.save_file(lora, lora_folder / "odd.safetensors")
    with pytest.raises(CraftError, match="output_blocks_99"):
        route(world, content="odd.safetensors")
    *_, report, _, _ = route(world, content="odd.safetensors", allow_unmatched=True)
    assert "output_blocks_99" in report


def with_unknown_text_keys(folder, name):
    """The content LoRA with a part for a text encoder that the small world does not have."""
    lora = comfy.utils.load_torch_file(folder_paths.get_full_path("loras", small.CONTENT))
    stem = "lora_te2_text_model_encoder_layers_99_mlp_fc1"
    lora |= {f"{stem}.lora_{end}.weight": torch.zeros(2, 2) for end in ("down", "up")}
    safetensors.torch.save_file(lora, folder / name)


def test_text_encoder_keys_that_match_nothing_are_an_error_whatever_the_prompt_says(
    world, lora_folder
):
    with_unknown_text_keys(lora_folder, "text.safetensors")
    for prompt in (PROMPT, CLEAN):
        with pytest.raises(CraftError, match="text.safetensors: 2 keys .*encoder_layers_99"):
            route(world, prompt=prompt, content="text.safetensors")
    *_, report, _, _ = route(world, content="text.safetensors", allow_unmatched=True)
    assert "encoder_layers_99" in report


def test_a_file_for_another_model_is_refused(world, lora_folder):
    stem = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
    lora = {f"{stem}.lora_{end}.weight": torch.zeros(4, 4) for end in ("down", "up")}
    safetensors.torch.save_file(lora, lora_folder / "other.safetensors")
    with pytest.raises(CraftError, match="other.safetensors"):
        route(world, content="other.safetensors")


def test_custom_patterns_that_match_nothing_are_an_error_and_a_presets_are_reported(world):
    custom = "content: middle_block\ncontent: input_blocks.77\nstyle: output_blocks.1.1"
    with pytest.raises(CraftError, match="input_blocks.77"):
        route(world, layer_sets={"layer_sets": "custom", "patterns": custom})
    *_, report, _, _ = route(world, layer_sets={"layer_sets": "craft-paper"})
    assert "down_blocks.0.attentions.0" in report


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"prompt": "a </c> dog"}, "</c>"),
        ({"method": None}, "b_lora"),
        ({"layer_sets": None}, "auto"),
    ],
)
def test_static_mistakes_are_answered_before_queueing(changes, part):
    answer = Router.validate_inputs(**{"prompt": PROMPT} | CRAFT_ALL | changes)
    assert isinstance(answer, str) and part in answer


def test_good_inputs_pass_validation():
    assert Router.validate_inputs(PROMPT, **CRAFT_ALL) is True


def test_auto_gives_every_layer_to_one_role_and_asks_only_once(world, monkeypatch):
    auto = {"layer_sets": {"layer_sets": "auto"}}
    *_, report, _, _ = route(world, **auto)
    counts = [int(n) for n in re.findall(r"acts on (\d+) of \d+", report)]
    adapted = [int(n) for n in re.findall(r"acts on \d+ of (\d+)", report)]
    assert sum(counts) == max(adapted) and min(counts) > 0
    monkeypatch.setattr(entries, "magnitude", None)
    *_, again, _, _ = route(world, content_strength=0.1, prompt=PROMPT + " photo", **auto)
    assert [int(n) for n in re.findall(r"acts on (\d+) of \d+", again)] == counts


def test_k_lora_measures_a_pair_once_and_its_report_tells_the_switch_points(world, monkeypatch):
    *_, report, _, _ = route(world, method={"method": "k_lora"})
    assert re.search(r"K-LoRA: content keeps \d+ layers, style \d+; \d+ switch after", report)
    monkeypatch.setattr(entries, "magnitude", None)
    changed = {"content_strength": 0.1, "prompt": PROMPT + " photo"}
    *_, later, _, _ = route(world, method={"method": "k_lora", "beta": 0.6}, **changed)
    assert "K-LoRA: content keeps" in later
    monkeypatch.undo()
    by_the_paper = {"method": "k_lora", "gamma": "paper"}  # asks for the layers of one LoRA too
    *_, report, _, _ = route(world, method=by_the_paper)
    monkeypatch.setattr(entries, "magnitude", None)
    assert route(world, method=by_the_paper)[3] == report


@pytest.mark.parametrize("method", FUSION.keys())
def test_a_dial_at_zero_is_the_other_lora_alone_by_every_method(world, method):
    chosen = {"method": {"method": method}}
    negative = world.encode("")
    for dial, names in (("content_strength", ("none", small.STYLE)),
                        ("style_strength", (small.CONTENT, "none"))):  # fmt: skip
        dialled, positive, *_ = route(world, **chosen, **{dial: 0.0})
        alone, *_ = route(world, content=names[0], style=names[1], **chosen)
        assert torch.equal(
            sample(dialled, positive, negative, 2), sample(alone, positive, negative, 2)
        )


def test_own_layers_that_match_nothing_are_an_error(world):
    layers = "output_blocks.1.1  # mine\n# a comment\noutput_blocks.77"
    (extra,) = LoadLoRABranch.execute(small.STYLE, "style", 0.6, layers).result
    with pytest.raises(CraftError, match="output_blocks.77"):
        route(world, style="none", extra_branches=extra)


def test_a_lora_that_is_off_is_not_loaded(world):
    off, *_ = route(world, prompt=CLEAN)
    assert not off.additional_models
    content_only, *_ = route(world, prompt="<c>a sks animal</c>")
    both, *_ = route(world)
    first, (of_content, of_style) = (
        [one.model for one in m.get_nested_additional_models()] for m in (content_only, both)
    )
    assert first == [of_content] and of_style is not of_content


def test_a_checkpoint_without_a_text_encoder_is_told(world):
    with pytest.raises(CraftError, match="no text encoder"):
        Router.execute(world.model, None, PROMPT, small.CONTENT, "none", 1.0, 1.0, **CRAFT_ALL)


def test_a_stack_file_that_matches_nothing_is_an_error(world, lora_folder):
    stem = "lora_unet_down_blocks_9_attentions_0_proj_in"
    lora = {f"{stem}.lora_{end}.weight": torch.zeros(4, 4) for end in ("down", "up")}
    safetensors.torch.save_file(lora, lora_folder / "stack.safetensors")
    with pytest.raises(CraftError, match="stack.safetensors"):
        route(world, lora_stack=[("stack.safetensors", 1.0, 1.0)])


def test_a_role_that_is_off_is_not_in_the_stack_that_comes_out(world):
    *_, stack, _ = route(world, prompt="<c>a sks animal</c> in zwx style")
    assert stack == [(small.CONTENT, 0.9, 0.9)]


@pytest.mark.parametrize("node", [Router, ACFGKSampler, ACFGGuider])
def test_a_node_that_warns_knows_its_place_in_the_page(node):
    assert "unique_id" in node.INPUT_TYPES()["hidden"]
