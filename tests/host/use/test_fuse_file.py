"""A fused file in the host's loaders is what the Router samples with, within its stated error."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace

import comfy.lora
import comfy.model_management
import comfy.sample
import comfy.samplers
import comfy.sd
import comfy.utils
import folder_paths
import nodes
import oracle
import pytest
import safetensors.torch
import small_world_models as small
import tiny
import torch
from craft_lora_pack.cli.bake import bake_without_model
from craft_lora_pack.cli.inspect.measured import inspected
from craft_lora_pack.client.errors import RemoteError
from craft_lora_pack.comfy_adapter import headless
from craft_lora_pack.comfy_adapter.engine import engine
from craft_lora_pack.comfy_adapter.engine.modules import model_layers
from craft_lora_pack.comfy_adapter.model.lora_files import BranchFile, read_branch_file
from craft_lora_pack.comfy_adapter.use.fuse_file import (
    METHODS,
    FuseRequest,
    _make_room,
    fuse_branches,
)
from craft_lora_pack.comfy_adapter.use.router import RouterRequest, planned
from craft_lora_pack.craft_core.errors import CraftError
from craft_lora_pack.craft_core.fusion import FUSION
from craft_lora_pack.craft_core.fusion.compose import compose
from craft_lora_pack.craft_core.lora import kohya_stems
from craft_lora_pack.craft_core.merging import MERGES, Fused
from craft_lora_pack.craft_core.requests import Expert, FuseData, ModelFiles
from craft_lora_pack.craft_core.routing.markers import parse
from craft_lora_pack.nodes.fuse import FuseToFile
from craft_lora_pack.nodes.router import Router
from oracle import LAW, distance
from safetensors import safe_open
from trainings import NO_MEMORY

FAMILIES = {"sd15": tiny.sd15, "sdxl": tiny.sdxl, "flux": tiny.flux}
STRENGTHS = (0.7, -0.4)
BRANCHES = tuple(
    BranchFile(f"{role}.safetensors", role, strength)
    for role, strength in zip(("content", "style"), STRENGTHS, strict=True)
)
POSITIVE, NEGATIVE = tiny.conditioning(1), tiny.conditioning(2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("loras")
    folder_paths.add_model_folder_path("loras", str(path))
    yield path
    folder_paths.folder_names_and_paths["loras"][0].remove(str(path))
    folder_paths.filename_list_cache.clear()


@pytest.fixture(params=FAMILIES)
def family(request, folder):
    """(model, its layers, the two states), the files in place."""
    model = FAMILIES[request.param]()
    layers = model_layers(model)
    states = [tiny.random_lora(layers, rank, seed) for rank, seed in ((4, 11), (3, 12))]
    for chosen, state in zip(BRANCHES, states, strict=True):
        safetensors.torch.save_file(state, folder / chosen.name)
    return model, layers, states


def bake(model, method, path=None, watch=lambda done, total: None, **changes):
    settings = {"save_as": "fp32", "layer_sets": "all"} | changes
    result = fuse_branches(model, FuseRequest(BRANCHES, method=method, **settings), watch)
    if path is None:
        return result
    result.write(path)
    return comfy.utils.load_torch_file(str(path), safe_load=True)


def loaded(model, state):
    """The model as the host's own LoRA loader makes it."""
    return comfy.sd.load_lora_for_models(model, None, state, 1.0, 0.0)[0]


def routed(model, method):
    request = RouterRequest("<c>a</c> <s>b</s>", BRANCHES, "all", method)
    files = [read_branch_file(b.name, model) for b in BRANCHES]
    made = planned(model, request, parse(request.prompt), files)
    return engine.attach(model, made.bank, compose(made.gates, made.bank))


def latent_of(model):
    channels = model.model.latent_format.latent_channels
    generator = torch.Generator().manual_seed(5)
    return torch.randn(1, channels, 16, 16, generator=generator)


def denoised(model, x=None, sigmas=None, steps=4):
    """[(x before the step, denoised)] of a run; from x on without noise where it is given."""
    seen = []
    sampling = model.get_model_object("model_sampling")
    if sigmas is None:
        sigmas = comfy.samplers.calculate_sigmas(sampling, "normal", steps)
    latent = latent_of(model)
    noise = latent if x is None else torch.zeros_like(x)
    start = torch.zeros_like(latent) if x is None else model.model.process_latent_out(x)
    with torch.inference_mode():
        oracle.guider(model, POSITIVE, NEGATIVE).sample(
            noise, start, comfy.samplers.sampler_object("euler"), sigmas, disable_pbar=True,
            callback=lambda step, found, x, total: seen.append((x.clone(), found.clone())), seed=3,
        )  # fmt: skip
    return seen, sigmas


def test_a_direct_file_in_the_hosts_loader_is_the_routed_model(family, tmp_path):
    model, _, _ = family
    state = bake(model, {"method": "direct"}, tmp_path / "f.safetensors")
    ours, _ = denoised(routed(model, {"method": "direct"}))
    expected, _ = denoised(loaded(model, state))
    plain, _ = denoised(model)
    assert distance(plain[-1][1], ours[-1][1]) > 0.01, "the LoRAs must matter"
    for (_, a), (_, b) in zip(ours, expected, strict=True):
        assert distance(a, b) <= LAW


@pytest.mark.parametrize("step", [0, 2, 3])
def test_a_k_lora_file_is_the_run_time_method_at_its_step(folder, tmp_path, step):
    model, method = tiny.sdxl(), {"method": "k_lora", "alpha": 1.0, "beta": 0.7}
    layers = model_layers(model)
    for chosen, rank, seed in zip(BRANCHES, (4, 3), (11, 12), strict=True):
        safetensors.torch.save_file(tiny.random_lora(layers, rank, seed), folder / chosen.name)
    steps = 4
    run, sigmas = denoised(routed(model, method), steps=steps)
    path = tmp_path / "k.safetensors"
    state = bake(model, method, path, progress=step / (steps - 1), steps=steps)
    (found,), _ = denoised(loaded(model, state), run[step][0], sigmas[step : step + 2])
    assert distance(found[0], run[step][0]) <= 1e-6
    assert distance(found[1], run[step][1]) <= LAW
    other = bake(model, method, tmp_path / "o.safetensors", progress=(step < 2) / 1.0, steps=steps)
    (wrong,), _ = denoised(loaded(model, other), run[step][0], sigmas[step : step + 2])
    assert distance(wrong[1], run[step][1]) > 10 * LAW
    with safe_open(path, "pt") as file:
        assert file.metadata()["craft_fused_steps"] == "4"


@pytest.mark.parametrize("save_as", ["fp32", "fp16", "bf16"])
def test_the_stated_error_is_the_distance_to_the_two_files(family, tmp_path, save_as):
    model, layers, states = family
    for rank in (0, 2):
        path = tmp_path / f"{rank}.safetensors"
        state = bake(model, {"method": "svd"}, path, rank=rank, save_as=save_as)
        assert all(v.dtype == {"fp32": torch.float32, "fp16": torch.float16,
                               "bf16": torch.bfloat16}[save_as]
                   for k, v in state.items() if not k.endswith("alpha"))  # fmt: skip
        deltas = [oracle.dense_deltas(one, layers) for one in states]
        fused = oracle.dense_deltas(state, layers, kohya_stems(layers))
        target = {p: sum(s * d[p] for s, d in zip(STRENGTHS, deltas, strict=True)) for p in layers}
        lost = sum((target[p] - fused[p]).double().square().sum() for p in layers) ** 0.5
        whole = sum(one.double().square().sum() for one in target.values()) ** 0.5
        with safe_open(path, "pt") as file:
            stated = float(file.metadata()["craft_fused_error"])
        assert float(lost / whole) == pytest.approx(stated, rel=1e-2, abs=1e-6)
        assert (stated > 0.1) is (rank == 2)


@pytest.mark.parametrize("key", MERGES.keys())
def test_every_merge_loads_in_the_host_and_matters(family, tmp_path, key):
    model, _, _ = family
    state = bake(model, {"method": key}, tmp_path / "m.safetensors", rank=4)
    names = comfy.lora.model_lora_keys_unet(model.model, {})
    patches = comfy.lora.load_lora(dict(state), names, log_missing=False)
    assert 3 * len(patches) == len(state)
    plain, _ = denoised(model)
    changed, _ = denoised(loaded(model, state))
    assert distance(changed[-1][1], plain[-1][1]) > 1e-3


def test_two_bakes_are_the_same_bytes(family, tmp_path):
    model, _, _ = family
    for name in ("a", "b"):
        bake(model, {"method": "dare"}, tmp_path / f"{name}.safetensors", rank=3)
    one, other = ((tmp_path / f"{name}.safetensors").read_bytes() for name in ("a", "b"))
    assert one == other


def test_the_file_says_how_it_was_made(family):
    model, _, _ = family
    recorded = bake(model, {"method": "ties", "density": 0.3}, rank=5).metadata
    assert recorded["craft_fused"] == "ties" and recorded["craft_fused_rank"] == "5"
    assert json.loads(recorded["craft_fused_settings"])["density"] == 0.3
    assert "craft_fused_progress" not in recorded
    for one, chosen in zip(json.loads(recorded["craft_fused_sources"]), BRANCHES, strict=True):
        assert (one["name"], one["role"]) == (chosen.name, chosen.role)
        assert one["strength"] == chosen.strength and len(one["sha256"]) == 64


def test_every_layer_is_watched_and_an_interrupt_goes_up(family):
    model, layers, _ = family
    seen = []
    bake(model, {"method": "direct"}, watch=lambda done, total: seen.append((done, total)))
    assert seen == [(i, len(layers)) for i in range(1, len(layers) + 1)]

    def stop(done, total):
        raise comfy.model_management.InterruptProcessingException

    with pytest.raises(comfy.model_management.InterruptProcessingException):
        bake(model, {"method": "direct"}, watch=stop)


@pytest.mark.parametrize(
    ("method", "changes", "message"),
    [
        ({"method": "composite"}, {}, "averages the predictions"),
        ({"method": "ties"}, {}, "rank"),
        ({"method": "ties", "density": 1.5}, {"rank": 4}, "density"),
        ({"method": "b_lora"}, {"layer_sets": "all"}, "up_blocks.0.attentions.0"),
    ],
)
def test_what_a_file_cannot_hold_is_told(folder, method, changes, message):
    model = tiny.sd15()
    for chosen, rank, seed in zip(BRANCHES, (4, 3), (11, 12), strict=True):
        state = tiny.random_lora(model_layers(model), rank, seed)
        safetensors.torch.save_file(state, folder / chosen.name)
    with pytest.raises(CraftError, match=message):
        bake(model, method, **changes)


def test_no_lora_at_all_is_told():
    with pytest.raises(CraftError, match="No LoRA"):
        fuse_branches(
            tiny.sd15(), FuseRequest((), "all", {"method": "direct"}), lambda done, total: None
        )


@pytest.fixture(scope="module")
def world():
    return small.load()


SETTINGS = {
    "content_strength": 0.9, "style_strength": 0.6, "layer_sets": {"layer_sets": "all"},
    "method": {"method": "direct"}, "progress": 0.5, "steps": 20, "rank": 0, "save_as": "fp32",
}  # fmt: skip


def saved(name):
    return folder_paths.get_full_path("loras", f"{name}_00001_.safetensors")


def sample(model, positive, negative):
    with torch.inference_mode():
        return nodes.common_ksampler(
            model, 1, 3, 3.0, "euler", "normal", positive, negative,
            nodes.EmptyLatentImage().generate(64, 64)[0],
        )[0]["samples"]  # fmt: skip


def test_the_nodes_file_loads_in_the_hosts_node_as_the_router_draws(world):
    files = (small.CONTENT, small.STYLE)
    lora, report = FuseToFile.execute(
        world.model, *files, **SETTINGS, save_name="fuse/fused"
    ).result
    assert "fused_00001_" in report and "relative error" in report
    expected = world.with_loras(("fuse/fused_00001_.safetensors", 1.0))
    router, positive, *_ = Router.execute(
        world.model, world.clip, "a sks animal", *files, 0.9, 0.6, {"layer_sets": "all"},
        {"method": "direct"},
    ).result  # fmt: skip
    negative = world.encode("")
    a, again = (
        sample(model, expected.encode("a sks animal"), negative)
        for model in (expected.model, oracle.row_by_row(expected.model))
    )
    assert distance(sample(router, positive, negative), a) <= oracle.law(a, again)
    again, _ = FuseToFile.execute(world.model, *files, **SETTINGS, save_name="fuse/fused").result
    assert folder_paths.get_full_path("loras", "fuse/fused_00002_.safetensors")
    assert lora.keys() == again.keys() and all(torch.equal(lora[k], again[k]) for k in lora)


def test_text_encoder_parts_add_up_as_two_loaders_do(world, folder):
    names = comfy.lora.model_lora_keys_clip(world.clip.cond_stage_model, {})
    stems = [n for n in names if n.startswith("lora_te1_") and n.endswith(("q_proj", "mlp_fc1"))][
        :4
    ]
    generator = torch.Generator().manual_seed(0)
    for number, source in enumerate((small.CONTENT, small.STYLE)):
        state = comfy.utils.load_torch_file(folder_paths.get_full_path("loras", source))
        for stem in stems[number:]:
            out, width = comfy.utils.get_attr(world.clip.cond_stage_model, names[stem]).shape
            stem = stem.replace("te1", ("te", "te1")[number])  # two names for one matrix
            state[f"{stem}.lora_down.weight"] = torch.randn(2, width, generator=generator) / 4
            state[f"{stem}.lora_up.weight"] = torch.randn(out, 2, generator=generator) / 4
            state[f"{stem}.alpha"] = torch.tensor(1.0)
        safetensors.torch.save_file(state, folder / f"text_{number}.safetensors")
    files = ("text_0.safetensors", "text_1.safetensors")
    FuseToFile.execute(world.model, *files, **SETTINGS, save_name="fuse/text")
    apart = list(zip(files, (0.9, 0.6), strict=True))
    a, b, again, plain = (
        world.with_loras(*order).encode("a sks animal")[0][0]
        for order in ([("fuse/text_00001_.safetensors", 1.0)], apart, apart[::-1], [])
    )  # separately, in either order: the same sum with other rounding
    assert distance(a, b) <= oracle.law(b, again)
    assert distance(a, plain) > 1e-2


def test_keys_that_match_nothing_are_an_error_unless_allowed(world, folder):
    state = comfy.utils.load_torch_file(folder_paths.get_full_path("loras", small.CONTENT))
    state["lora_unet_output_blocks_99_1_proj_in.lora_down.weight"] = torch.zeros(1, 8)
    state["lora_unet_output_blocks_99_1_proj_in.lora_up.weight"] = torch.zeros(8, 1)
    safetensors.torch.save_file(state, folder / "odd.safetensors")
    for method in ({"method": "direct"}, {"method": "svd"}):
        given = {**SETTINGS, "method": method}
        with pytest.raises(CraftError, match="output_blocks_99"):
            FuseToFile.execute(
                world.model, "odd.safetensors", "none", **given, save_name="fuse/odd"
            )
        assert saved("fuse/odd") is None
    _, report = FuseToFile.execute(
        world.model, "odd.safetensors", "none", **SETTINGS, save_name="fuse/odd",
        allow_unmatched=True,
    ).result  # fmt: skip
    assert "output_blocks_99" in report and saved("fuse/odd")


def fuse_data(path, key, model, **knobs):
    """The request of the command line for the small world's pair, by their paths."""
    files = [folder_paths.get_full_path("loras", name) for name in (small.CONTENT, small.STYLE)]
    loras = (Expert(files[0], "content"), Expert(files[1], "style", 0.5))
    method = MERGES[key] if key in MERGES.keys() else FUSION[key]
    return FuseData(
        model, loras, method, method.knobs(knobs), "all", 0.4, 10, 0 if key == "direct" else 4,
        "fp16", path,
    )  # fmt: skip


@pytest.mark.parametrize("key", ["direct", "k_lora", "dare", "knots"])
def test_the_command_line_writes_the_same_tensors_with_and_without_the_model(world, tmp_path, key):
    watched = []
    model = ModelFiles(checkpoint=small.CHECKPOINT)
    paths = [tmp_path / f"{name}.safetensors" for name in ("with", "without")]
    with torch.inference_mode():
        fused = headless.fuse(fuse_data(paths[0], key, model), lambda *at: watched.append(at))
    bake_without_model(fuse_data(paths[1], key, None), lambda done, total: None)
    assert fused.path == paths[0] and "relative error" in fused.report
    assert watched[-1][0] == watched[-1][1] > 100
    one, other = (safetensors.torch.load_file(path) for path in paths)
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture
def twins(world, tmp_path):
    """The small world's pair as two files of one name, in folders of their own."""
    found = []
    for source in (small.CONTENT, small.STYLE):
        path = tmp_path / source.replace(".", "_") / "lora.safetensors"
        path.parent.mkdir()
        shutil.copy(folder_paths.get_full_path("loras", source), path)
        found.append(str(path))
    return found


@pytest.mark.parametrize("key", ["direct", "k_lora"])
def test_two_files_of_one_name_are_two_files(world, twins, tmp_path, key):
    model = ModelFiles(checkpoint=small.CHECKPOINT)
    asked = replace(
        fuse_data(tmp_path / "with.safetensors", key, model),
        experts=(Expert(twins[0], "content"), Expert(twins[1], "style", 0.5)),
    )
    with torch.inference_mode():
        headless.fuse(asked, lambda done, total: None)
    without = replace(asked, model=None, path=tmp_path / "without.safetensors")
    bake_without_model(without, lambda done, total: None)
    one, other = (safetensors.torch.load_file(data.path) for data in (asked, without))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_path_wins_over_a_name_that_is_listed(world, twins, tmp_path, monkeypatch):
    """As without a model, where no name is listed."""
    shutil.copy(twins[1], tmp_path / small.CONTENT)
    monkeypatch.chdir(tmp_path)
    read = headless.read_loras(ModelFiles(checkpoint=small.CHECKPOINT), [small.CONTENT])
    listed = headless.read_loras(ModelFiles(checkpoint=small.CHECKPOINT), [small.STYLE])
    assert read.files[0].metadata == listed.files[0].metadata
    own, other = (next(iter(one.files[0].layers.values()))[0] for one in (read, listed))
    assert torch.equal(own.up, other.up)


@pytest.mark.parametrize("within", ["the loader", "the work"])
@pytest.mark.parametrize("when", NO_MEMORY)
def test_too_little_memory_is_told(world, when, within, monkeypatch, tmp_path):
    def full(*given, **settings):
        raise NO_MEMORY[when]()

    if within == "the work":
        monkeypatch.setattr(headless, "_model", full)
    else:
        (tmp_path / "a.safetensors").touch()
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(comfy.sd, "load_checkpoint_guess_config", full)
    data = fuse_data(tmp_path / "f.safetensors", "direct", ModelFiles(checkpoint="a.safetensors"))
    with pytest.raises(CraftError, match="--cpu"):
        headless.fuse(data, lambda done, total: None)
    with pytest.raises(CraftError, match="--cpu"):
        headless.read_loras(ModelFiles(checkpoint="a.safetensors"), [])


def test_too_little_memory_of_the_processor_is_left_to_who_tells_of_that(monkeypatch):
    error = RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes")

    def full(*given, **settings):
        raise error

    monkeypatch.setattr(headless, "_model", full)
    with pytest.raises(RuntimeError) as raised:
        headless.read_loras(ModelFiles(checkpoint="a.safetensors"), [])
    assert raised.value is error


def test_room_is_made_on_a_card_for_what_a_layer_takes(monkeypatch):
    model, asked = tiny.sdxl(), []
    monkeypatch.setattr(
        comfy.model_management, "free_memory", lambda need, device: asked.append((need, device))
    )
    _make_room(torch.device("cpu"), model, 2)
    assert not asked
    _make_room(torch.device("cuda", 0), model, 2)
    largest = max(
        layer.weight.numel() for layer in model.model.diffusion_model.modules()
        if isinstance(layer, torch.nn.Linear | torch.nn.Conv2d)
    )  # fmt: skip
    ((need, device),) = asked
    assert need == 5 * 4 * largest and device.type == "cuda"


def test_a_place_taken_meanwhile_is_left_alone(world, monkeypatch):
    written = []
    write = Fused.write

    def slow(self, path, stems=None):
        if not written:
            path.write_bytes(b"another run's")
        written.append(path)
        write(self, path, stems)

    monkeypatch.setattr(Fused, "write", slow)
    _, report = FuseToFile.execute(
        world.model, small.CONTENT, "none", **SETTINGS, save_name="fuse/race"
    ).result
    assert "race_00002_" in report and written[0].read_bytes() == b"another run's"


@pytest.mark.parametrize("key", ["direct", "svd", "craft", "k_lora"])
def test_own_layers_are_the_only_ones_a_lora_acts_in(folder, tmp_path, key):
    """The file records it too."""
    model = tiny.sdxl()
    layers = model_layers(model)
    for chosen, rank, seed in zip(BRANCHES, (4, 3), (11, 12), strict=True):
        safetensors.torch.save_file(tiny.random_lora(layers, rank, seed), folder / chosen.name)
    own = (BRANCHES[0], replace(BRANCHES[1], layers="mid_block"))
    middle = sum(path.startswith("middle_block.") for path in layers)

    def baked(branches, layer_sets="all"):
        request = FuseRequest(branches, layer_sets, {"method": key}, save_as="fp32")
        return fuse_branches(model, request, lambda done, total: None)

    whole, cut = baked(BRANCHES), baked(own)
    found = re.findall(r"acts in (\d+) of (\d+) layers", cut.report)
    assert 0 < middle < len(layers) and int(found[1][0]) <= middle
    assert {int(adapted) for _, adapted in found} == {len(layers)}
    assert "style.safetensors: own layers mid_block, in place of" in cut.report
    assert "own layers" not in whole.report
    sources = [json.loads(one.metadata["craft_fused_sources"]) for one in (whole, cut)]
    assert "own_layers" not in sources[0][1] and sources[1][1]["own_layers"] == "mid_block"
    alone = fuse_branches(
        model, FuseRequest(BRANCHES[:1], "all", {"method": "direct"}, save_as="fp32"),
        lambda done, total: None,
    )  # fmt: skip
    for path in set(layers) - {p for p in layers if p.startswith("middle_block.")}:
        torch.testing.assert_close(
            cut.layers[path].delta(), alone.layers[path].delta(), rtol=1e-4, atol=1e-5
        )


def test_a_report_says_in_how_many_layers_each_lora_acts(folder):
    model = tiny.sdxl()
    for chosen, rank, seed in zip(BRANCHES, (4, 3), (11, 12), strict=True):
        state = tiny.random_lora(model_layers(model), rank, seed)
        safetensors.torch.save_file(state, folder / chosen.name)

    def report(method, layer_sets="all"):
        request = FuseRequest(BRANCHES, layer_sets, {"method": method})
        return fuse_branches(model, request, lambda done, total: None).report

    adapted = len(model_layers(model))
    for key in ("direct", "svd"):
        assert report(key).count(f"acts in {adapted} of {adapted} layers") == 2
    split = report("craft", "auto").split("acts in ")[1:]
    assert sum(int(line.split()[0]) for line in split) == adapted
    assert all(f"of {adapted} layers" in line for line in split)


def test_inspect_reads_files_against_the_model(world):
    read = headless.read_loras(ModelFiles(checkpoint=small.CHECKPOINT), [small.CONTENT])
    layers = list(inspected(read.files, read.shapes))
    assert [layer.path for layer in layers] == list(read.files[0].layers)
    assert all(layer.files[0].size > 0 for layer in layers)


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"method": None}, "knots"),
        ({"layer_sets": None}, "menu"),
        ({"save_name": "../outside"}, ".."),
        ({"method": {"method": "ties"}, "rank": 0}, "rank"),
    ],
)
def test_static_mistakes_are_answered_before_queueing(changes, part):
    good = {"save_name": "a", "rank": 4, "layer_sets": {"layer_sets": "all"},
            "method": {"method": "ties"}}  # fmt: skip
    assert FuseToFile.validate_inputs(**good) is True
    answer = FuseToFile.validate_inputs(**good | changes)
    assert isinstance(answer, str) and part in answer


def test_the_node_runs_by_itself_and_offers_what_a_file_can_hold():
    assert FuseToFile.define_schema().is_output_node
    assert {one.key for one in METHODS} == {*FUSION.keys(), *MERGES.keys()} - {"composite"}


def test_the_page_queues_the_node_and_gets_a_file(live_server):
    def node(kind, **inputs):
        return {"class_type": kind, "inputs": inputs}

    menus = {"layer_sets": "all", "method": "ties", "method.density": 0.3,
             "method.combine": "sum", "method.scaling": 1.0}  # fmt: skip
    prompt = {
        "world": node("CheckpointLoaderSimple", ckpt_name=small.CHECKPOINT),
        "fused": node(
            "CRAFTFuseToFile", model=["world", 0], content_lora=small.CONTENT,
            style_lora=small.STYLE, content_strength=1.0, style_strength=0.8, **menus,
            progress=0.5, steps=20, rank=4, save_as="fp16", save_name="page/fused",
        ),
        "report": node("PreviewAny", source=["fused", 1]),
    }  # fmt: skip
    live_server.run(prompt)
    saved = list(live_server.server.log.parents[1].rglob("page/fused_00001_.safetensors"))
    assert len(saved) == 1
    with safe_open(saved[0], "pt") as file:
        assert json.loads(file.metadata()["craft_fused_settings"])["combine"] == "sum"
    prompt["fused"]["inputs"]["rank"] = 0
    with pytest.raises(RemoteError, match="rank"):
        live_server.run(prompt)
