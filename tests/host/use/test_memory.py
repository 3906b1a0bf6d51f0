"""What a Router keeps in memory: no more than the host's LoRA loader does, whatever the cache."""

from __future__ import annotations

import gc
from types import SimpleNamespace
from weakref import ref

import comfy.lora
import comfy.utils
import execution
import folder_paths
import nodes
import pytest
import safetensors.torch
import small_world_models as small
import torch
from craft_lora_pack.comfy_adapter import living
from craft_lora_pack.nodes.router import Router

TEXT = "with_text.safetensors"
CACHES = {  # that the host can be started with
    "by memory": ("RAM_PRESSURE", {"lru": 0, "ram": 2.0, "ram_inactive": 1 << 20}),
    "--cache-classic": ("CLASSIC", {"lru": 0, "ram": 0.0, "ram_inactive": 0.0}),
    "--cache-lru 1": ("LRU", {"lru": 1, "ram": 0.0, "ram_inactive": 0.0}),
    "--cache-none": ("NONE", {"lru": 0, "ram": 0.0, "ram_inactive": 0.0}),
}
ROUTERS = {
    "plain": {},
    "with a stack": {"lora_stack": ["stack", 0]},
    "with a text-encoder part": {"content_lora": TEXT},
    "with both": {"content_lora": TEXT, "lora_stack": ["stack", 0]},
    "off": {"content_strength": 0.0, "style_strength": 0.0},
    "off, with a stack": {
        "content_strength": 0.0, "style_strength": 0.0, "lora_stack": ["stack", 0],
    },
}  # fmt: skip


class Watch(list):
    """(when, names of the networks that live then), in order."""

    def __init__(self):
        self.networks = {}

    def note(self, when):
        gc.collect()
        self.append((when, {name for name, one in self.networks.items() if one() is not None}))


@pytest.fixture(scope="module", autouse=True)
def text_part(tmp_path_factory):
    """A LoRA of backbone and text encoder in the folders of the host."""
    folder = tmp_path_factory.mktemp("loras")
    clip = small.load().clip
    lora = comfy.utils.load_torch_file(folder_paths.get_full_path("loras", small.CONTENT))
    names = comfy.lora.model_lora_keys_clip(clip.cond_stage_model, {})
    stem = next(n for n in names if n.startswith("lora_te") and n.endswith("q_proj"))
    width = comfy.utils.get_attr(clip.cond_stage_model, names[stem]).shape[0]
    lora[f"{stem}.lora_down.weight"] = torch.randn(2, width)
    lora[f"{stem}.lora_up.weight"] = torch.randn(width, 2)
    safetensors.torch.save_file(lora, folder / TEXT)
    folder_paths.add_model_folder_path("loras", str(folder))
    yield
    folder_paths.folder_names_and_paths["loras"][0].remove(str(folder))
    folder_paths.filename_list_cache.clear()


@pytest.fixture
def watch(monkeypatch):
    watch = Watch()

    class Load:
        RETURN_TYPES, FUNCTION, CATEGORY = ("MODEL", "CLIP"), "load", "test"

        @classmethod
        def INPUT_TYPES(cls):
            return {"required": {"number": ("INT",)}}

        def load(self, number):
            watch.note(f"load {number}")
            model, clip, _ = nodes.CheckpointLoaderSimple().load_checkpoint(small.CHECKPOINT)
            watch.networks[f"model {number}"] = ref(model.model)
            watch.networks[f"text encoder {number}"] = ref(clip.cond_stage_model)
            return model, clip

    class Stack:
        RETURN_TYPES, FUNCTION, CATEGORY = ("LORA_STACK",), "stack", "test"

        @classmethod
        def INPUT_TYPES(cls):
            return {"required": {}}

        def stack(self):
            return ([(TEXT, 0.5, 0.5)],)

    class Sample:
        RETURN_TYPES, FUNCTION, CATEGORY, OUTPUT_NODE = (), "sample", "test", True

        @classmethod
        def INPUT_TYPES(cls):
            return {"required": {"model": ("MODEL",), "positive": ("CONDITIONING",)}}

        def sample(self, model, positive):
            watch.note("sample")
            nodes.common_ksampler(
                model, 1, 1, 1.0, "euler", "normal", positive, positive,
                nodes.EmptyLatentImage().generate(64, 64)[0],
            )  # fmt: skip
            watch.note("sampled")
            return ()

    for name, node in {
        "TestLoad": Load, "TestStack": Stack, "TestSample": Sample, "CRAFTRouter": Router,
    }.items():  # fmt: skip
        monkeypatch.setitem(nodes.NODE_CLASS_MAPPINGS, name, node)
    living.let_go()
    gc.collect()
    yield watch
    living.let_go()


def routed(number, **changes):
    """Of a checkpoint loaded under a number: a Router and a sampler."""
    inputs = {
        "model": ["load", 0], "clip": ["load", 1], "prompt": "<c>a cat</c> in <s>ink</s>",
        "content_lora": small.CONTENT, "style_lora": small.STYLE, "content_strength": 0.5,
        "style_strength": 0.5, "layer_sets": "all", "method": "direct", **changes,
    }  # fmt: skip
    return {
        "load": {"class_type": "TestLoad", "inputs": {"number": number}},
        "stack": {"class_type": "TestStack", "inputs": {}},
        "router": {"class_type": "CRAFTRouter", "inputs": inputs},
        "end": {"class_type": "TestSample",
                "inputs": {"model": ["router", 0], "positive": ["router", 1]}},
    }  # fmt: skip


def loaded(number):
    """The same with the host's own nodes."""
    lora = {"model": ["load", 0], "clip": ["load", 1], "lora_name": TEXT, "strength_model": 0.5,
            "strength_clip": 0.5}  # fmt: skip
    return {
        "load": {"class_type": "TestLoad", "inputs": {"number": number}},
        "lora": {"class_type": "LoraLoader", "inputs": lora},
        "text": {"class_type": "CLIPTextEncode", "inputs": {"clip": ["lora", 1], "text": "a cat"}},
        "end": {"class_type": "TestSample",
                "inputs": {"model": ["lora", 0], "positive": ["text", 0]}},
    }  # fmt: skip


def run(cache, watch, *prompts):
    """What lives when, while the prompts run one after another."""
    server = SimpleNamespace(client_id=None, last_node_id=None, send_sync=lambda *sent: None)
    kind, limits = CACHES[cache]
    executor = execution.PromptExecutor(
        server, cache_type=getattr(execution.CacheType, kind), cache_args=limits
    )
    watch.clear()
    watch.networks.clear()
    for number, prompt in enumerate(prompts):
        executor.execute(prompt, f"prompt {number}", execute_outputs=["end"])
        assert executor.success, executor.status_messages
    return list(watch)


@pytest.mark.parametrize("cache", CACHES)
def test_another_checkpoint_meets_no_more_in_memory_than_without_a_router(watch, cache):
    expected = run(cache, watch, loaded(1), loaded(2))
    for router in ("plain", "with both", "off, with a stack"):
        found = run(cache, watch, *(routed(number, **ROUTERS[router]) for number in (1, 2)))
        assert [when for when, _ in found] == [
            "load 1", "sample", "sampled", "load 2", "sample", "sampled",
        ]  # fmt: skip
        for (when, ours), (_, theirs) in zip(found, expected, strict=True):
            assert ours <= theirs, (router, when)


def test_a_model_that_is_sampled_keeps_no_text_encoder(watch):
    """As --cache-none, which frees a text encoder of gigabytes before the sampler runs."""
    for router in ROUTERS.values():
        (_, before), (_, during), _ = run("--cache-none", watch, routed(1, **router))
        assert before == set() and during == {"model 1"}
