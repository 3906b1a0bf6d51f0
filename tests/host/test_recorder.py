"""The map of who acted: read off the sampling run that happened, which it does not change."""

from pathlib import Path
from types import SimpleNamespace

import folder_paths
import nodes
import pytest
import small_world_models as small
import torch
from comfy_execution.graph import DynamicPrompt
from comfy_execution.progress import reset_progress_state
from comfy_execution.utils import CurrentNodeContext
from craft_lora_pack.comfy_adapter.acfg import acfg_sample
from craft_lora_pack.comfy_adapter.activity import Activity
from craft_lora_pack.comfy_adapter.engine import recorded, set_asymmetric
from craft_lora_pack.comfy_adapter.lora_files import BranchFile
from craft_lora_pack.comfy_adapter.router import Request, route
from craft_lora_pack.comfy_adapter.run_map import viewer_of
from craft_lora_pack.craft_core.schedule.schedule import Schedule
from craft_lora_pack.nodes.acfg import ACFGKSampler
from craft_lora_pack.nodes.router import Router
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
    request = Request(prompt, branches, "all", {"method": "craft"}, Schedule("linear"))
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
    foretold = Activity.of(one.bank, one.gates, STEPS)
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
        request = Request(PROMPT, branch, "all", {"method": "direct"})
        second = route(first.model, world.clip, request)
    one, other = record_of(world, second)
    assert one.roles == ("content", "style") and other.roles == ("style",)


def test_recording_changes_nothing_and_is_not_left_behind(world):
    one = routed(world)
    given = arguments(world, one)
    with torch.inference_mode():
        plain = nodes.common_ksampler(set_asymmetric(one.model, True), *given)[0]["samples"]
        latent, sheet = acfg_sample(one.model, True, *given)
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
        self.sent.append((kind, message, client))

    def send_progress_text(self, text, node):
        """The Router's report; not looked at."""


@pytest.fixture
def page(monkeypatch):
    """A prompt of one Router, 7, under way for a page."""
    prompt = DynamicPrompt({"7": {"class_type": "CRAFTRouter", "inputs": {}}})
    reset_progress_state("prompt", prompt)
    monkeypatch.setattr(PromptServer, "instance", Page(), raising=False)
    monkeypatch.setattr(Router, "hidden", SimpleNamespace(unique_id="7"))
    with CurrentNodeContext("prompt", "8"):
        yield PromptServer.instance


def model_of_a_router(world):
    with torch.inference_mode():
        return Router.execute(
            world.model, world.clip, PROMPT, small.CONTENT, small.STYLE, 0.5, 0.5,
            {"layer_sets": "all"}, {"method": "craft"}, Schedule("linear"),
        ).result[0]  # fmt: skip


def sampled(world, model):
    with torch.inference_mode():
        one = routed(world)
        return nodes.common_ksampler(model, *arguments(world, one))[0]["samples"]


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
