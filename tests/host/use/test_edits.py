"""What an edit of a Router costs beside encoding the text: nothing. Counted, not timed."""

from __future__ import annotations

import gc
import shutil
from collections import Counter
from types import SimpleNamespace

import comfy.lora
import comfy.model_patcher
import comfy.utils
import execution
import folder_paths
import nodes
import pytest
import safetensors
import small_world_models as small
import torch
from comfy_extras.nodes_preview_any import PreviewAny
from craft_lora_pack.comfy_adapter.engine.bank import BranchModule
from craft_lora_pack.comfy_adapter.use.fuse_file import FuseRequest, fuse_branches
from craft_lora_pack.comfy_adapter.use.router import with_own_loras
from craft_lora_pack.nodes.compare import MethodSweep
from craft_lora_pack.nodes.router import Router
from craft_lora_pack.nodes.schedule import TimestepSchedule

SETTINGS = {
    "prompt": "<c>a sks animal</c> in <s>zwx style</s>",
    "content_lora": small.CONTENT,
    "style_lora": small.STYLE,
    "content_strength": 0.9,
    "style_strength": 0.6,
    "layer_sets": {"layer_sets": "all"},
    "method": {"method": "k_lora", "pattern": "s"},
}
SCHEDULE = TimestepSchedule.execute({"shape": "cosine"}, 0.0, 0.0, "steps").result[0]
EDITS = {
    "prompt": {"prompt": "<c>a sks animal</c> on a hill in <s>zwx style</s>"},
    "a marker taken out": {"prompt": "<c>a sks animal</c> on a hill"},
    "strength": {"content_strength": 0.4},
    "strength of 0": {"content_strength": 0.0},
    "schedule": {"schedule": SCHEDULE},
    "setting of the method": {"method": {"method": "k_lora", "pattern": "s*"}},
    "method": {"method": {"method": "composite"}},
    "layer set of the method": {"method": {"method": "b_lora"}},
    "layer set": {"layer_sets": {"layer_sets": "auto"}, "method": {"method": "craft"}},
}
NOTHING: dict[str, int] = {}


@pytest.fixture(scope="module")
def world():
    return small.load()


@pytest.fixture
def done(monkeypatch):
    """How often files were opened, modules built and loaded, and weights patched."""
    counter = Counter()

    def count(owner, name, label, counts=lambda *args: True):
        original = getattr(owner, name)

        def counted(*args, **kwargs):
            counter[label] += bool(counts(*args))
            return original(*args, **kwargs)

        monkeypatch.setattr(owner, name, counted)

    def ours(patcher, *_):
        return isinstance(patcher.model, BranchModule)

    patcher = comfy.model_patcher.ModelPatcher
    count(safetensors, "safe_open", "files read")
    count(BranchModule, "__init__", "modules built")
    count(patcher, "load", "modules loaded", ours)
    count(patcher, "patch_weight_to_device", "weights patched", lambda *args: not ours(*args))
    return counter


@pytest.fixture
def lora_folder(tmp_path):
    folder_paths.add_model_folder_path("loras", str(tmp_path))
    yield tmp_path
    folder_paths.folder_names_and_paths["loras"][0].remove(str(tmp_path))
    folder_paths.filename_list_cache.clear()


def route(world, **changes):
    with torch.inference_mode():
        return Router.execute(world.model, world.clip, **SETTINGS | changes).result


def sampled(world, routed):
    with torch.inference_mode():
        return nodes.common_ksampler(
            routed[0], 1, 2, 3.0, "euler", "normal", routed[1], world.encode(""),
            nodes.EmptyLatentImage().generate(64, 64)[0],
        )[0]["samples"]  # fmt: skip


def since(done) -> dict[str, int]:
    found = {name: count for name, count in done.items() if count}
    done.clear()
    return found


@pytest.mark.parametrize("edit", EDITS)
def test_an_edit_reads_builds_moves_and_patches_nothing(world, done, edit):
    before = route(world)
    sampled(world, before)
    since(done)
    after = route(world, **EDITS[edit])
    sampled(world, after)
    assert since(done) == NOTHING
    again = route(world)  # the edited MODEL alone keeps what it does not use
    del before
    assert since(done) == NOTHING
    del after, again


def test_what_is_shared_gives_what_was_read_for_one_model_alone(world, done):
    before = route(world)
    sampled(world, before)
    shared = sampled(world, route(world, **EDITS["strength"]))
    del before
    gc.collect()
    since(done)
    alone = sampled(world, route(world, **EDITS["strength"]))
    assert since(done)["files read"] == 2
    assert torch.equal(shared, alone)


def test_one_of_two_files_changed_is_that_one_read_alone(world, done, lora_folder):
    shutil.copy(folder_paths.get_full_path("loras", small.STYLE), lora_folder / "other.safetensors")
    before = route(world)
    sampled(world, before)
    since(done)
    sampled(world, route(world, style_lora="other.safetensors"))
    assert since(done) == {"files read": 1, "modules built": 1, "modules loaded": 1}
    del before


def test_a_file_replaced_on_disk_is_read_anew_whatever_its_time_and_size(world, done, lora_folder):
    place = lora_folder / "style.safetensors"
    shutil.copy2(folder_paths.get_full_path("loras", small.STYLE), place)
    before = route(world, style_lora=place.name)
    beside = place.with_suffix(".new")
    state = safetensors.torch.load_file(place)
    with safetensors.safe_open(place, "pt") as file:
        metadata = file.metadata()
    safetensors.torch.save_file({key: 2 * value for key, value in state.items()}, beside, metadata)
    shutil.copystat(place, beside)
    assert place.stat().st_size == beside.stat().st_size
    beside.replace(place)
    since(done)
    after = route(world, style_lora=place.name)
    assert since(done)["files read"] == 1
    assert not torch.equal(sampled(world, before), sampled(world, after))


def test_a_file_in_both_roles_is_read_and_loaded_once(world, done):
    sampled(world, (world.model, world.encode("")))
    since(done)
    sampled(world, route(world, style_lora=small.CONTENT))
    assert since(done) == {"files read": 1, "modules built": 1, "modules loaded": 1}


def test_a_text_encoder_and_a_backbone_that_are_patched_stay_so(world, done, lora_folder):
    lora = comfy.utils.load_torch_file(folder_paths.get_full_path("loras", small.CONTENT))
    names = comfy.lora.model_lora_keys_clip(world.clip.cond_stage_model, {})
    stem = next(n for n in names if n.startswith("lora_te") and n.endswith("q_proj"))
    width = comfy.utils.get_attr(world.clip.cond_stage_model, names[stem]).shape[0]
    lora[f"{stem}.lora_down.weight"] = torch.randn(2, width)
    lora[f"{stem}.lora_up.weight"] = torch.randn(width, 2)
    safetensors.torch.save_file(lora, lora_folder / "with_text.safetensors")
    used = {"content_lora": "with_text.safetensors", "lora_stack": [(small.STYLE, 0.5, 0.5)]}
    before = route(world, **used)
    since(done)
    after = route(world, **used, **EDITS["prompt"])
    assert since(done) == NOTHING
    assert before[0].patches_uuid == after[0].patches_uuid


def test_the_host_keeps_what_the_next_prompt_uses(world, done, monkeypatch):
    monkeypatch.setitem(nodes.NODE_CLASS_MAPPINGS, "CRAFTRouter", Router)
    monkeypatch.setitem(nodes.NODE_CLASS_MAPPINGS, "PreviewAny", PreviewAny)

    def queued(**changes):
        inputs = {name: value for name, value in SETTINGS.items() if not isinstance(value, dict)}
        given = {"layer_sets": "all", "method": "craft"} | changes
        return {
            "model": {"class_type": "CheckpointLoaderSimple",
                      "inputs": {"ckpt_name": small.CHECKPOINT}},
            "router": {"class_type": "CRAFTRouter",
                       "inputs": {**inputs, "model": ["model", 0], "clip": ["model", 1], **given}},
            "shown": {"class_type": "PreviewAny", "inputs": {"source": ["router", 3]}},
        }  # fmt: skip

    server = SimpleNamespace(client_id=None, last_node_id=None, send_sync=lambda *sent: None)
    limits = {"lru": 0, "ram": 0.0, "ram_inactive": 0.0}
    executor = execution.PromptExecutor(
        server, cache_type=execution.CacheType.RAM_PRESSURE, cache_args=limits
    )
    executor.execute(queued(), "1", execute_outputs=["shown"])
    assert since(done)["modules built"] == 2
    executor.execute(queued(content_strength=0.3), "2", execute_outputs=["shown"])
    assert executor.success
    assert since(done) == NOTHING


def test_nothing_is_kept_that_no_model_uses(world, done):
    routed = route(world)
    sampled(world, routed)
    del routed
    gc.collect()
    since(done)
    route(world)
    assert since(done) == {"files read": 2, "modules built": 2}


def test_a_sweep_and_a_fused_file_take_what_a_router_has_read(world, done):
    routed = route(world)
    since(done)
    own = {name: value for name, value in SETTINGS.items() if name not in ("method", "layer_sets")}
    with torch.inference_mode():
        swept = MethodSweep.execute(
            world.model, world.clip, **own, **{"layer_sets": SETTINGS["layer_sets"]},
            methods="craft\nk_lora", first_seed=0, seeds=1, steps=4, asymmetric=True,
        )  # fmt: skip
        branches = with_own_loras((small.CONTENT, small.STYLE), (0.9, 0.6), ())
        fuse_branches(
            world.model,
            FuseRequest(branches, "all", {"method": "direct"}),
            lambda done, total: None,
        )
    assert since(done) == NOTHING
    del routed, swept
