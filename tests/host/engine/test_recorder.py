"""The map of which LoRA acted: drawn from a record of the sampling run, which recording does not
change."""

import errno
from pathlib import Path
from types import SimpleNamespace

import folder_paths
import nodes
import numpy as np
import pytest
import small_world_models as small
import torch
from comfy.patcher_extension import WrappersMP
from comfy_execution.graph import DynamicPrompt
from comfy_execution.progress import reset_progress_state
from comfy_execution.utils import CurrentNodeContext
from craft_lora_pack.comfy_adapter.draw.activity import Activity, recorded_sheet
from craft_lora_pack.comfy_adapter.draw.run_map import viewer_of
from craft_lora_pack.comfy_adapter.engine.engine import recorded, set_asymmetric
from craft_lora_pack.comfy_adapter.guide.acfg import acfg_sample
from craft_lora_pack.comfy_adapter.model.lora_files import BranchFile
from craft_lora_pack.comfy_adapter.page.notice import NOTICE
from craft_lora_pack.comfy_adapter.use.router import RouterRequest, route
from craft_lora_pack.craft_core.schedule.schedule import Schedule
from craft_lora_pack.craft_core.time import Moment
from craft_lora_pack.nodes.acfg import ACFGKSampler
from craft_lora_pack.nodes.router import Router
from PIL import Image
from server import PromptServer

PROMPT = "<c>a sks animal</c> in <s>zwx style</s>"
STEPS = 4


@pytest.fixture(scope="module")
def world():
    return small.load()


def routed(world, prompt=PROMPT):
    branches = (
        small_branch(small.CONTENT, "content"),
        small_branch(small.STYLE, "style"),
    )
    request = RouterRequest(prompt, branches, "all", {"method": "craft"}, Schedule("linear"))
    with torch.inference_mode():
        return route(world.model, world.clip, request)


def small_branch(name, role):
    return BranchFile(name, role, 0.5)


def arguments(world, one, sampler="euler", denoise=1.0):
    latent = nodes.EmptyLatentImage().generate(64, 64)[0]
    positive, negative = one.conditioning, world.encode("")
    return (1, STEPS, 3.0, sampler, "normal", positive, negative, latent, denoise)


def record_of(world, one, *others, asymmetric=True):
    model, recorder = recorded(set_asymmetric(one.model, asymmetric))
    with torch.inference_mode():
        nodes.common_ksampler(model, *arguments(world, one, *others)[:8])
    return list(recorder.records.values())


@pytest.mark.parametrize("asymmetric", [True, False])
def test_the_map_of_a_run_is_the_one_foretold_from_the_gates(world, asymmetric):
    one = routed(world)
    (record,) = record_of(world, one, asymmetric=asymmetric)
    happened = Activity.recorded(record, STEPS)
    foretold = Activity.of(
        one.bank, one.gates, [Moment(i / (STEPS - 1), STEPS) for i in range(STEPS)]
    )
    assert happened.layers == foretold.layers and happened.row == "step"
    torch.testing.assert_close(happened.amounts, foretold.amounts)


def test_a_sampler_that_calls_twice_a_step_has_a_row_for_each_noise_level(world):
    (record,) = record_of(world, routed(world), "dpm_2")
    assert len(record.tables) == 2 * STEPS - 1
    assert Activity.recorded(record, STEPS).row == "call"
    assert record.sigmas == sorted(record.sigmas, reverse=True)


def test_two_routers_in_a_row_have_a_record_each(world):
    first = routed(world)
    branch = (small_branch(small.STYLE, "style"),)
    with torch.inference_mode():
        request = RouterRequest(PROMPT, branch, "all", {"method": "direct"})
        second = route(first.model, world.clip, request)
    one, other = record_of(world, second)
    assert one.roles == ("content", "style") and other.roles == ("style",)


def test_recording_changes_nothing_and_is_not_left_behind(world):
    one = routed(world)
    given = arguments(world, one)
    with torch.inference_mode():
        plain = nodes.common_ksampler(set_asymmetric(one.model, True), *given)[0]["samples"]
        latent, sheet, _ = acfg_sample(one.model, True, *given)
    assert torch.equal(plain, latent["samples"])
    assert sheet.shape[0] == 1 and sheet.shape[-1] == 3
    assert "craft_recorder" not in one.model.model_options["transformer_options"]


def test_the_sampler_shows_the_map_of_routed_models_alone(world):
    with torch.inference_mode():
        plain = acfg_sample(world.model, True, *arguments(world, routed(world)))
        nothing = routed(world, "no marker")
        off = acfg_sample(nothing.model, True, *arguments(world, nothing))
    assert plain[1] is None and off[1] is None


def test_the_node_hands_the_page_its_picture(world):
    with torch.inference_mode():
        model, positive, *_ = Router.execute(
            world.model, world.clip, PROMPT, small.CONTENT, small.STYLE, 0.7, 0.3,
            {"layer_sets": "all"}, {"method": "craft"},
        ).result  # fmt: skip
        latent = nodes.EmptyLatentImage().generate(64, 64)[0]
        output = ACFGKSampler.execute(
            model, 1, 2, 3.0, "euler", "normal", positive, world.encode(""), latent, 1.0, True
        )
    assert len(output.ui.as_dict()["images"]) == 1
    assert output.result[0]["samples"].shape[0] == 1


class Page:
    """What a server sends to the page that queued the prompt."""

    client_id = "page"

    def __init__(self):
        self.sent = []

    def send_sync(self, kind, message, client):
        if kind != NOTICE:  # the Router's report, which these tests ignore
            self.sent.append((kind, message, client))


@pytest.fixture
def page(monkeypatch):
    """A prompt of one Router, 7, under way for a page."""
    prompt = DynamicPrompt({"7": {"class_type": "CRAFTRouter", "inputs": {}}})
    reset_progress_state("prompt", prompt)
    monkeypatch.setattr(PromptServer, "instance", Page(), raising=False)
    monkeypatch.setattr(Router, "hidden", SimpleNamespace(unique_id="7"))
    with CurrentNodeContext("prompt", "8"):
        yield PromptServer.instance


def model_of_a_router(world, model=None):
    with torch.inference_mode():
        return Router.execute(
            model or world.model, world.clip, PROMPT, small.CONTENT, small.STYLE, 0.5, 0.5,
            {"layer_sets": "all"}, {"method": "craft"}, Schedule("linear"),
        ).result[0]  # fmt: skip


def sampled(world, model, *others):
    with torch.inference_mode():
        one = routed(world)
        return nodes.common_ksampler(model, *arguments(world, one, *others))[0]["samples"]


def pictures():
    return sorted(Path(folder_paths.get_temp_directory()).glob("*.png"))


def test_a_run_that_is_shown_is_the_run_that_is_not(world, page):
    shown = sampled(world, model_of_a_router(world))
    ((kind, message, client),) = page.sent
    assert (kind, client) == ("executed", "page")
    assert (message["node"], message["display_node"]) == ("7", "7")
    assert message["prompt_id"] == "prompt" and len(message["output"]["images"]) == 1
    assert torch.equal(shown, sampled(world, routed(world).model))


def test_without_a_server_nothing_is_drawn(world):
    assert getattr(PromptServer, "instance", None) is None
    before = pictures()
    model = model_of_a_router(world)
    assert torch.equal(sampled(world, model), sampled(world, routed(world).model))
    assert pictures() == before and viewer_of(model).pictures == {}


def test_a_router_that_is_not_in_the_prompt_shows_nothing(world, page):
    model = model_of_a_router(world)
    reset_progress_state("prompt", DynamicPrompt({"9": {"class_type": "KSampler", "inputs": {}}}))
    sampled(world, model)
    assert page.sent == []


def test_a_map_that_cannot_be_saved_does_not_cost_the_latent(world, page, tmp_path, monkeypatch):
    file = tmp_path / "file"
    file.touch()
    monkeypatch.setattr(folder_paths, "temp_directory", str(file / "no folder"))
    shown = sampled(world, model_of_a_router(world))
    assert torch.equal(shown, sampled(world, routed(world).model)) and page.sent == []


def test_a_full_disk_does_not_cost_the_latent(world, page, monkeypatch):
    def full(*_args, **_settings):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    shown = sampled(world, model_of_a_router(world))
    assert torch.equal(shown, sampled(world, routed(world).model)) and page.sent == []


def prompt_of(**samplers):
    """A prompt under way: samplers of Router 7 by their ids, each with its title."""
    prompt = {"7": {"class_type": "CRAFTRouter", "inputs": {}}}
    for name, title in samplers.items():
        prompt[name] = {"class_type": "KSampler", "inputs": {"seed": 1, "model": ["7", 0]}}
        if title:
            prompt[name]["_meta"] = {"title": title}
    dynprompt = DynamicPrompt(prompt)
    reset_progress_state("prompt", dynprompt)
    return dynprompt


def saved(page):
    """The pictures that the page was sent last."""
    folder = Path(folder_paths.get_temp_directory())
    names = [item["filename"] for item in page.sent[-1][1]["output"]["images"]]
    return [np.asarray(Image.open(folder / name).convert("RGB")) for name in names]


@pytest.fixture(scope="module")
def drawn(world):
    """The sheet of a run of Router 7 under a sampler's name, drawn from a record of its own."""
    model, recorder = recorded(model_of_a_router(world))
    sampled(world, model)

    def sheet(sampler):
        return (recorded_sheet(recorder, STEPS, sampler)[0].numpy() * 255).round().astype(np.uint8)

    return sheet


@pytest.mark.parametrize(
    ("title", "heading"),
    [("Hires fix", "Hires fix"), (None, "KSampler"), ("K采样器", "KSampler #8")],
)
def test_the_map_is_headed_with_its_sampler_and_has_a_row_for_each_step(
    world, page, drawn, title, heading
):
    prompt_of(**{"8": title})
    sampled(world, model_of_a_router(world))
    (picture,) = saved(page)
    assert np.array_equal(picture, drawn(heading))


@pytest.mark.parametrize("title", ["W" * 10_000, "many words " * 40, "i" * 200])
def test_a_long_title_is_cut_where_the_map_ends(drawn, title):
    plain, long = drawn(""), drawn(title)
    assert plain.shape == long.shape
    columns = np.flatnonzero((plain != long).any(axis=(0, 2)))
    assert 650 < columns[-1] < 720 - 14 and columns[0] > 300  # a map ends 14 from the edge


def test_a_title_of_several_lines_stands_on_one(drawn):
    assert np.array_equal(drawn("one\n\n two"), drawn("one two"))


def test_a_sampler_that_runs_several_times_shows_each_different_map_once(world, page):
    model = model_of_a_router(world)
    for kind in ("euler", "dpm_2", "euler", "dpm_2"):
        sampled(world, model, kind)
    assert [len(message["output"]["images"]) for _, message, _ in page.sent] == [1, 2]
    with CurrentNodeContext("the next prompt", "8"):
        sampled(world, model, "dpm_2")
        assert len(page.sent[-1][1]["output"]["images"]) == 1
    assert len(viewer_of(model).pictures) == 1


def test_a_run_in_which_a_pack_samples_twice_shows_both_maps(world, page):
    """Both MODELs share the options dictionary that holds the recorder."""

    def twice(executor, noise, latent, sampler, sigmas, *others, **named):
        executor(noise, latent, sampler, sigmas, *others, **named)
        return executor(noise, latent, sampler, sigmas[1:], *others, **named)

    model = world.model.clone()
    model.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, "resample", twice)
    sampled(world, model_of_a_router(world, model))
    assert [len(message["output"]["images"]) for _, message, _ in page.sent] == [1, 2]


def test_a_sampler_that_the_router_reached_without_a_link_keeps_its_map_for_the_prompt(
    world, page, drawn
):
    model = model_of_a_router(world)
    prompt_of(**{"8": "One", "9": "Other"}).get_node("8")["inputs"].clear()
    for name in ("8", "9"):
        with CurrentNodeContext("prompt", name):
            sampled(world, model)
    one, other = saved(page)
    assert np.array_equal(one, drawn("One")) and np.array_equal(other, drawn("Other"))


def test_a_sampler_inside_a_node_that_expands_is_that_node(world, page, drawn):
    """The host does not run the subgraph again while its output is cached; its map stays."""
    model = model_of_a_router(world)
    expanded = prompt_of(**{"8": "Upscaler", "9": "Final"})
    inner = {"class_type": "KSampler", "inputs": {"model": ["7", 0]}}
    expanded.add_ephemeral_node("8.0.0.1", inner, "8", "8")
    with CurrentNodeContext("prompt", "8.0.0.1"):
        sampled(world, model)
    prompt_of(**{"8": "Upscaler", "9": "Final"})
    with CurrentNodeContext("the next prompt", "9"):
        sampled(world, model)
    upscaler, final = saved(page)
    assert np.array_equal(upscaler, drawn("Upscaler"))
    assert np.array_equal(final, drawn("Final"))


def test_a_viewer_keeps_nothing_of_samplers_that_are_gone(world, page):
    model = model_of_a_router(world)
    for number in (8, 9, 10):
        prompt_of(**{str(number): "KSampler"})
        with CurrentNodeContext(f"prompt {number}", str(number)):
            sampled(world, model)
        assert set(viewer_of(model).pictures) == {(str(number), "KSampler")}
