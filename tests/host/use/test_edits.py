"""What an edit of a Router costs beside encoding the text: nothing. Counted, not timed."""

from __future__ import annotations

import gc
import json
import shutil
import sys
from collections import Counter
from types import SimpleNamespace

import comfy.lora
import comfy.model_management
import comfy.model_patcher
import comfy.utils
import dynamic_vram
import execution
import folder_paths
import nodes
import pretend_device
import pytest
import safetensors
import small_world_models as small
import torch
from comfy_extras.nodes_preview_any import PreviewAny
from craft_lora_pack.comfy_adapter import living
from craft_lora_pack.comfy_adapter.engine.bank import BranchModule
from craft_lora_pack.comfy_adapter.model import expert_encoder, given, lora_files, stamps
from craft_lora_pack.comfy_adapter.model.encoded_text import encoded
from craft_lora_pack.comfy_adapter.model.lora_files import BranchFile, read_branch_file
from craft_lora_pack.comfy_adapter.model.weights import OnModel
from craft_lora_pack.comfy_adapter.use.fuse_file import FuseRequest, fuse_branches
from craft_lora_pack.comfy_adapter.use.router import with_own_loras
from craft_lora_pack.craft_core.encoder import ExpertEncoder, write_encoder
from craft_lora_pack.craft_core.fusion.np_lora import YieldedLayers
from craft_lora_pack.nodes.compare import MethodSweep
from craft_lora_pack.nodes.expert_encoder import LoadExpertEncoder
from craft_lora_pack.nodes.lora_branch import LoRAList
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
METHODS = {
    "k_lora": SETTINGS["method"],
    "np_lora": {"method": "np_lora"},
    "rising": {"method": "np_lora", "mu": 0.5, "course": "rising"},
}
CASES = [
    *(("k_lora", edit) for edit in EDITS),
    *(("np_lora", edit) for edit in ("prompt", "strength", "schedule")),
    *(("rising", edit) for edit in ("prompt", "strength", "schedule", "mu")),
]
EDITS["mu"] = {"method": METHODS["rising"] | {"mu": 2.0}}
NOTHING: dict[str, int] = {}
MADE = ("files read", "modules built", "modules loaded", "weights patched")
OURS = ("files read", "files opened", "layers measured", "modules built", "tensors moved")
DATA = (".safetensors", ".sft", ".json")  # of LoRAs, encoders, and numbers measured of them
_counting: list[Counter] = []  # of the test that runs


def _note_open(event, arguments):
    """Whoever opens a file by Python, to read its header, to hash it or to read it whole."""
    if event == "open" and _counting and str(arguments[0]).endswith(DATA):
        _counting[-1]["files opened"] += 1


sys.addaudithook(_note_open)


@pytest.fixture(scope="module")
def world():
    return small.load()


@pytest.fixture
def done(monkeypatch):
    """How often files were opened (by the library that reads tensors, and by Python), layers
    looked at to be measured, modules built and loaded, tensors of modules put to another device
    (under dynamic VRAM), and weights patched."""
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
    count(OnModel, "__getitem__", "layers measured")
    count(BranchModule, "__init__", "modules built")
    count(patcher, "load", "modules loaded", ours)
    count(comfy.utils, "set_attr_param", "tensors moved", lambda o, *_: isinstance(o, BranchModule))
    count(patcher, "patch_weight_to_device", "weights patched", lambda *args: not ours(*args))
    _counting.append(counter)
    yield counter
    _counting.remove(counter)


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


def since(done, of=()) -> dict[str, int]:
    """What was done since the last time. of: those of these names alone."""
    found = {name: count for name, count in done.items() if count and (not of or name in of)}
    done.clear()
    return found


def replaced(place, beside):
    """Another file in a file's place, of its time and size."""
    shutil.copystat(place, beside)
    assert place.stat().st_size == beside.stat().st_size
    beside.replace(place)


@pytest.mark.parametrize(("method", "edit"), CASES)
def test_an_edit_reads_builds_moves_and_patches_nothing(world, done, method, edit):
    used = {"method": METHODS[method]}
    route(world, **used | EDITS[edit])  # measures what it compares, once in a LoRA's life
    gc.collect()
    before = route(world, **used)
    sampled(world, before)
    since(done)
    after = route(world, **used | EDITS[edit])
    sampled(world, after)
    assert since(done) == NOTHING
    again = route(world, **used)  # the edited MODEL alone keeps what it does not use
    del before
    assert since(done) == NOTHING
    del after, again


@pytest.mark.skipif(pretend_device.is_asked_for(), reason="a label stands for the card")
@pytest.mark.parametrize("method", METHODS)
def test_under_dynamic_vram_an_edit_copies_nothing_to_the_card(done, method):
    used = {"method": METHODS[method]}
    with dynamic_vram.dynamic_vram():
        world = small.load()
        assert world.model.is_dynamic()
        before = route(world, **used)
        sampled(world, before)
        assert since(done, ("tensors moved",))["tensors moved"] > 100
        for edit in ("prompt", "strength", "schedule"):
            after = route(world, **used | EDITS[edit])
            sampled(world, after)
            assert since(done, OURS) == NOTHING
        sampled(world, before)
        assert since(done, OURS) == NOTHING
        comfy.model_management.unload_all_models()
        assert since(done, OURS)["tensors moved"] > 100
        edited = sampled(world, after)
    plain = small.load()
    assert torch.equal(sampled(plain, route(plain, **used | EDITS["schedule"])), edited)


TEXTS = "texts encoded"


def test_an_edit_encodes_a_text_only_where_the_text_is_another(world, done, monkeypatch):
    encode = type(world.clip).encode_from_tokens_scheduled

    def counted(*args, **kwargs):
        done[TEXTS] += 1
        return encode(*args, **kwargs)

    monkeypatch.setattr(type(world.clip), "encode_from_tokens_scheduled", counted)
    prompts = [f"<c>a sks animal</c> and a {other}" for other in ("cat", "dog", "car", "cup")]
    route(world, prompt=prompts[0])
    assert since(done, TEXTS) == {TEXTS: 1}
    for edit in EDITS.values():
        route(world, **edit | {"prompt": prompts[0]})
    assert since(done, TEXTS) == {}
    for prompt in (prompts[1], prompts[0], prompts[1]):
        route(world, prompt=prompt)
    assert since(done, TEXTS) == {TEXTS: 1}  # of two texts neither is encoded again
    for prompt in (prompts[2], prompts[3], prompts[0]):
        route(world, prompt=prompt)
    assert since(done, TEXTS) == {TEXTS: 3}  # no more are kept
    for _ in range(2):
        route(world, prompt="<c>a sks animal</c> and embedding:none")
    assert since(done, TEXTS) == {TEXTS: 2}  # its file may be another now
    (other,) = nodes.CLIPSetLastLayer().set_last_layer(world.clip, -2)
    with torch.inference_mode():
        Router.execute(world.model, other, **SETTINGS | {"prompt": prompts[0]})
    assert since(done, TEXTS) == {TEXTS: 1}


def test_a_clip_of_another_pack_that_cannot_be_held_is_encoded_each_time():
    class Slotted:
        __slots__ = ("texts",)

        def tokenize(self, text):
            return text

        def encode_from_tokens_scheduled(self, text):
            self.texts.append(text)
            return [[text, {}]]

    clip = Slotted()
    clip.texts = []
    assert encoded(clip, "a cat") == encoded(clip, "a cat") == [["a cat", {}]]
    assert clip.texts == ["a cat"] * 2


def test_what_is_done_to_a_conditioning_stays_there(world):
    first, second = (route(world)[1] for _ in range(2))
    first[0][1]["own"] = 1
    first.append(first[0])
    assert len(second) == 1 and "own" not in second[0][1] and "own" not in route(world)[1][0][1]
    assert torch.equal(first[0][0], second[0][0])


def test_the_first_method_that_compares_loras_measures_them_and_no_edit_after_it(
    world, done, tmp_path, monkeypatch
):
    monkeypatch.setattr(folder_paths, "user_directory", str(tmp_path))
    given._known.clear()
    stamps._hash.cache_clear()
    direct = {"method": {"method": "direct"}}
    before = route(world, **direct)
    since(done)
    after = route(world)
    found = since(done)
    assert found.pop("layers measured") > 100
    assert found == {"files opened": 4}  # each is hashed, and looked for among what was stored
    again = route(world, **direct), route(world, **EDITS["prompt"])
    assert since(done) == NOTHING
    given._known.clear()
    del before, after, again


def test_content_that_yields_is_made_anew_where_what_makes_it_changes(world, done):
    def yielding(mu, **changes):
        return route(world, method={"method": "np_lora", "mu": mu}, **changes)

    before = yielding(0.5)
    since(done)
    after = yielding(1.0)
    assert since(done) == {"modules built": 1}  # style's is its file's
    again = yielding(1.0, **EDITS["prompt"]), yielding(0.5, **EDITS["strength"])
    assert since(done) == NOTHING
    del before, after, again


@pytest.mark.parametrize("method", METHODS)
def test_what_is_shared_gives_what_was_read_for_one_model_alone(world, done, method):
    used = {"method": METHODS[method]}
    before = route(world, **used)
    sampled(world, before)
    shared = sampled(world, route(world, **used, **EDITS["strength"]))
    del before
    gc.collect()
    since(done)
    alone = sampled(world, route(world, **used, **EDITS["strength"]))
    assert since(done, MADE) == {"files read": 2, "modules built": 2, "modules loaded": 2}
    assert torch.equal(shared, alone)


def test_one_of_two_files_changed_is_that_one_read_alone(world, done, lora_folder):
    shutil.copy(folder_paths.get_full_path("loras", small.STYLE), lora_folder / "other.safetensors")
    before = route(world)
    sampled(world, before)
    since(done)
    sampled(world, route(world, style_lora="other.safetensors"))
    assert since(done, MADE) == {"files read": 1, "modules built": 1, "modules loaded": 1}
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
    replaced(place, beside)
    since(done)
    after = route(world, style_lora=place.name)
    assert since(done)["files read"] == 1
    assert not torch.equal(sampled(world, before), sampled(world, after))


def test_a_file_in_both_roles_is_read_and_loaded_once(world, done):
    sampled(world, (world.model, world.encode("")))
    since(done)
    sampled(world, route(world, style_lora=small.CONTENT))
    assert since(done, MADE) == {"files read": 1, "modules built": 1, "modules loaded": 1}


def with_text_part(world, folder) -> str:
    """The content LoRA with an update of the text encoder too, in the folder; its name."""
    lora = comfy.utils.load_torch_file(folder_paths.get_full_path("loras", small.CONTENT))
    names = comfy.lora.model_lora_keys_clip(world.clip.cond_stage_model, {})
    stem = next(n for n in names if n.startswith("lora_te") and n.endswith("q_proj"))
    width = comfy.utils.get_attr(world.clip.cond_stage_model, names[stem]).shape[0]
    lora[f"{stem}.lora_down.weight"] = torch.randn(2, width)
    lora[f"{stem}.lora_up.weight"] = torch.randn(width, 2)
    safetensors.torch.save_file(lora, folder / "with_text.safetensors")
    return "with_text.safetensors"


def test_a_text_encoder_and_a_backbone_that_are_patched_stay_so(world, done, lora_folder):
    used = {
        "content_lora": with_text_part(world, lora_folder),
        "lora_stack": [(small.STYLE, 0.5, 0.5)],
    }
    before = route(world, **used)
    since(done)
    after = route(world, **used, **EDITS["prompt"])
    assert since(done) == NOTHING
    assert before[0].patches_uuid == after[0].patches_uuid
    shared = sampled(world, after)
    del before, after
    living.let_go()
    gc.collect()
    since(done)
    alone = sampled(world, route(world, **used, **EDITS["prompt"]))
    assert since(done, ("files read",))["files read"] >= 2
    assert torch.equal(shared, alone)


def encoder_file(world, path, seed):
    """An expert encoder for the two LoRAs, of random weights."""
    files = [BranchFile(small.CONTENT, "content", 1.0), BranchFile(small.STYLE, "style", 1.0)]
    layers = {file.role: list(read_branch_file(file, world.model).layers) for file in files}
    width = len(expert_encoder.embedding(world.clip, "a cat"))
    made = ExpertEncoder(layers, width, [expert_encoder.concept(files)], seed)
    generator = torch.Generator().manual_seed(seed)
    torch.nn.init.normal_(made.head.weight, 0.0, 0.5, generator=generator)
    write_encoder(path, made)


FITTED = ("text encoders looked at", "patches made")


@pytest.fixture
def fitted(done, monkeypatch):
    """How often a text encoder's names were gathered and a file's patches for it made."""
    for name, label in zip(("model_lora_keys_clip", "load_lora"), FITTED, strict=True):
        original = getattr(comfy.lora, name)

        def counted(*args, original=original, label=label, **kwargs):
            done[label] += 1
            return original(*args, **kwargs)

        monkeypatch.setattr(comfy.lora, name, counted)
    return done


def test_a_file_meets_a_text_encoder_once_whatever_its_strength(world, fitted, lora_folder):
    used = {"content_lora": with_text_part(world, lora_folder)}
    alone = {
        strength: sampled(world, route(world, **used, content_strength=strength))
        for strength in (0.9, 0.3)
    }
    gc.collect()
    before = route(world, **used)
    since(fitted)
    for edit in ("prompt", "strength", "schedule", "strength"):
        after = route(world, **used, **EDITS[edit])
        assert since(fitted, FITTED) == NOTHING, edit
        before = after
    strong = route(world, **used, content_strength=0.9)
    weak = route(world, **used, content_strength=0.3)
    assert torch.equal(sampled(world, strong), alone[0.9])
    assert torch.equal(sampled(world, weak), alone[0.3])
    known = len(lora_files._text_fits)
    del before, after, strong, weak
    living.let_go()
    gc.collect()
    assert len(lora_files._text_fits) == known - 1  # it is kept no longer than its file


def test_phrases_are_described_once_and_never_shared(world, done, monkeypatch, encoder_folder):
    place = encoder_folder / "expert.safetensors"
    encoder_file(world, place, seed=1)
    encode = type(world.clip).encode_from_tokens

    def counted(*args, **kwargs):
        done[TEXTS] += 1
        return encode(*args, **kwargs)

    monkeypatch.setattr(type(world.clip), "encode_from_tokens", counted)
    used = {"expert_encoder": place.name, "prompt": "<c>a sks mole</c> in <s>zwx fog style</s>"}
    before = route(world, **used)
    assert since(done, TEXTS)[TEXTS] >= 2
    for edit in ("strength", "schedule", "setting of the method", "layer set"):
        after = route(world, **used | EDITS[edit])
        assert since(done, TEXTS) == NOTHING, edit
        before = after
    first, second = (expert_encoder.embedding(world.clip, "a sks mole") for _ in range(2))
    kept = first.clone()
    first += 1
    assert torch.equal(second, kept) and not second.is_inference()
    assert torch.equal(expert_encoder.embedding(world.clip, "a sks mole"), kept)
    del before, after


@pytest.fixture
def encoder_folder(tmp_path):
    expert_encoder.encoder_files()  # registers the kind
    folder_paths.add_model_folder_path(expert_encoder.FOLDER, str(tmp_path))
    yield tmp_path
    folder_paths.folder_names_and_paths[expert_encoder.FOLDER][0].remove(str(tmp_path))
    folder_paths.filename_list_cache.clear()


def test_an_expert_encoder_is_read_once_and_anew_where_it_is_replaced(world, done, encoder_folder):
    place = encoder_folder / "expert.safetensors"
    encoder_file(world, place, seed=1)
    used = {"expert_encoder": place.name}

    def loaded():
        """As the host asks the node beside the Router before each prompt."""
        assert LoadExpertEncoder.validate_inputs(place.name) is True
        return LoadExpertEncoder.fingerprint_inputs(place.name)

    fingerprint, before = loaded(), route(world, **used)
    since(done)
    for edit in ("prompt", "strength", "schedule", "method"):
        assert loaded() == fingerprint
        after = route(world, **used, **EDITS[edit])
        del before
        assert since(done) == NOTHING, edit
        before = after
    beside = place.with_name("other.safetensors")
    encoder_file(world, beside, seed=2)
    replaced(place, beside)
    before = route(world, **used)
    since(done)
    assert loaded() != fingerprint
    shown = route(world, **used)[3]
    assert since(done) == NOTHING
    del before, after
    living.let_go()  # as where a prompt is queued while none runs
    gc.collect()
    since(done)
    assert route(world, **used)[3] == shown
    assert since(done)["files read"] == 3  # nothing is kept that no MODEL uses


@pytest.mark.parametrize("compares", ["k_lora", "auto"])
def test_what_depends_on_the_weights_is_measured_once_for_a_model_and_its_patches(
    world, done, lora_folder, compares
):
    lora = safetensors.torch.load_file(folder_paths.get_full_path("loras", small.CONTENT))
    ups = [key for key in lora if key.endswith(".lora_up.weight")]
    scales = {key.replace("lora_up.weight", "dora_scale"): lora[key] for key in ups}
    lora |= {key: torch.ones(len(up), 1) for key, up in scales.items()}
    safetensors.torch.save_file(lora, lora_folder / "dora.safetensors")
    used = {"content_lora": "dora.safetensors"}
    if compares == "auto":
        used |= EDITS["layer set"]

    def numbers():
        """By the MODEL's patches and the file."""
        return [dict(one) for one in given._on_weights[world.model.model].values()]

    given._on_weights.clear()
    before = route(world, **used)
    assert since(done)["layers measured"] > 100
    first = numbers()
    after = [route(world, **used | EDITS[edit]) for edit in ("prompt", "strength", "schedule")]
    assert since(done) == NOTHING and len(first) == 1 and numbers() == first
    patched = world.with_loras((small.STYLE, 0.5))
    since(done)
    other = route(patched, **used)
    assert since(done)["layers measured"] > 100
    assert numbers()[0] == first[0] != numbers()[1]
    given._on_weights.clear()
    again = route(world, **used)
    assert numbers() == first
    del before, after, other, again


CACHES = {  # that the host can be started with
    "by memory, where much is free": ("RAM_PRESSURE", {"lru": 0, "ram": 0.0, "ram_inactive": 0.0}),
    "by memory": ("RAM_PRESSURE", {"lru": 0, "ram": 2.0, "ram_inactive": 1 << 20}),
    "--cache-classic": ("CLASSIC", {"lru": 0, "ram": 0.0, "ram_inactive": 0.0}),
    "--cache-lru 3": ("LRU", {"lru": 3, "ram": 0.0, "ram_inactive": 0.0}),
}


@pytest.fixture(params=CACHES)
def run(request, monkeypatch):
    """Run prompts in one executor of the host's, with one of its caches."""
    own = {
        "CRAFTRouter": Router, "CRAFTSchedule": TimestepSchedule, "CRAFTLoRAList": LoRAList,
        "CRAFTLoadExpertEncoder": LoadExpertEncoder, "PreviewAny": PreviewAny,
    }  # fmt: skip
    for name, node in own.items():
        monkeypatch.setitem(nodes.NODE_CLASS_MAPPINGS, name, node)
    server = SimpleNamespace(client_id=None, last_node_id=None, send_sync=lambda *sent: None)
    kind, limits = CACHES[request.param]
    executor = execution.PromptExecutor(
        server, cache_type=getattr(execution.CacheType, kind), cache_args=limits
    )

    def go(prompt, *shown):
        executor.execute(prompt, "a prompt", execute_outputs=list(shown))
        assert executor.success, executor.status_messages

    living.let_go()
    gc.collect()
    yield go
    living.let_go()


def graph(others=(), content_floor=0.0, rows=0.5, **changes):
    """A Router with a schedule and a LoRA List; `others` are nodes that end before it."""
    inputs = {name: value for name, value in SETTINGS.items() if not isinstance(value, dict)}
    row = {"lora": small.STYLE, "role": "style", "strength": rows}
    made = {
        "model": {"class_type": "CheckpointLoaderSimple",
                  "inputs": {"ckpt_name": small.CHECKPOINT}},
        "schedule": {"class_type": "CRAFTSchedule",
                     "inputs": {"shape": "cosine", "content_floor": content_floor,
                                "style_floor": 0.0, "clock": "steps"}},
        "list": {"class_type": "CRAFTLoRAList", "inputs": {"loras": json.dumps([row])}},
        "router": {"class_type": "CRAFTRouter",
                   "inputs": {**inputs, "model": ["model", 0], "clip": ["model", 1],
                              "layer_sets": "all", "method": "craft", "style_lora": "none",
                              "schedule": ["schedule", 0], "extra_branches": ["list", 0],
                              **changes}},
        "shown": {"class_type": "PreviewAny", "inputs": {"source": ["router", 3]}},
    }  # fmt: skip
    for name in others:
        made[name] = {"class_type": "PreviewAny", "inputs": {"source": name}}
    return made


GRAPH_EDITS = {
    "strength": {"content_strength": 0.3},
    "prompt": {"prompt": "<c>a sks animal</c> on a hill in <s>zwx style</s>"},
    "schedule, a node before it": {"content_floor": 0.5},
    "LoRA List, a node before it": {"rows": 0.25},
    "beside other outputs": {"content_strength": 0.3, "others": ["first", "second"]},
}


@pytest.mark.parametrize("edit", GRAPH_EDITS)
def test_the_host_keeps_what_the_next_prompt_uses(world, done, run, edit):
    """Whatever of its outputs the host drops before the Router runs again."""
    run(graph(["first"]), "first", "shown")
    assert since(done)["modules built"] == 2
    changed = GRAPH_EDITS[edit]
    run(graph(**{"others": ["first"]} | changed), *changed.get("others", ["first"]), "shown")
    assert since(done) == NOTHING


class GivenStack:
    """A node that gives a LORA_STACK, as those of other packs do."""

    RETURN_TYPES, FUNCTION, CATEGORY = ("LORA_STACK",), "stack", "test"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"name": ("STRING",)}}

    def stack(self, name):
        return ([(name, 0.5, 0.5)],)


def test_the_host_keeps_what_patches_both_networks(world, done, run, lora_folder, monkeypatch):
    """Their weights stay patched, though none of its outputs holds the patched text encoder."""
    monkeypatch.setitem(nodes.NODE_CLASS_MAPPINGS, "GivenStack", GivenStack)
    encode = type(world.clip).encode_from_tokens_scheduled

    def counted(*args, **kwargs):
        done[TEXTS] += 1
        return encode(*args, **kwargs)

    monkeypatch.setattr(type(world.clip), "encode_from_tokens_scheduled", counted)
    name = with_text_part(world, lora_folder)

    def stacked(**changes):
        made = graph(["first"], content_lora=name, lora_stack=["stack", 0], **changes)
        return made | {"stack": {"class_type": "GivenStack", "inputs": {"name": name}}}

    run(stacked(), "first", "shown")
    assert set(since(done, (TEXTS, "weights patched"))) == {TEXTS, "weights patched"}
    for rows in (0.25, 0.75):  # strengths of a LoRA without such a part
        run(stacked(rows=rows), "first", "shown")
        assert since(done) == NOTHING
    run(stacked(prompt="<c>a sks animal</c> on a hill in <s>zwx style</s>"), "first", "shown")
    assert since(done) == {TEXTS: 1}


def test_what_stayed_for_a_run_goes_where_a_model_samples_and_where_nothing_runs(world):
    def living_parts():
        gc.collect()
        return sum(type(one) is BranchModule for one in gc.get_objects())

    before, routed = living_parts(), route(world)
    Router.fingerprint_inputs(small.CONTENT, small.STYLE)
    del routed
    assert living_parts() == before + 2  # the host has dropped the MODEL; its files stay
    routed = route(world, style_lora="none")
    sampled(world, routed)
    assert living_parts() == before + 1
    Router.fingerprint_inputs(small.CONTENT, "none")
    del routed
    assert living_parts() == before + 1
    living.let_go()
    assert living_parts() == before
    routed = route(world)
    Router.fingerprint_inputs(small.CONTENT, small.STYLE)
    routed = route(world, content_strength=0.0, style_strength=0.0)
    sampled(world, routed)
    del routed
    assert living_parts() == before  # also where a MODEL samples in which all LoRAs are off


@pytest.mark.parametrize("method", METHODS)
def test_nothing_is_kept_that_no_model_uses(world, done, method):
    routed = route(world, method=METHODS[method])
    sampled(world, routed)
    del routed
    gc.collect()
    assert not any(type(one) is YieldedLayers for one in gc.get_objects())
    since(done)
    route(world, method=METHODS[method])
    assert since(done, MADE) == {"files read": 2, "modules built": 2}


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
