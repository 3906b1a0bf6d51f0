"""The map of which LoRA acted, as a real server sends it to the page: once, to the node that owns
it."""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from craft_lora_pack.client.client import Client
from craft_lora_pack.client.errors import RemoteError
from PIL import Image
from small_world_models import CHECKPOINT, CONTENT, STYLE

STEPS = 3
PROMPT = "<c>a sks animal</c> in <s>zwx style</s>"
MODEL, ROUTED, NEGATIVE, LATENT = ["model", 0], ["router", 0], ["negative", 0], ["latent", 0]


def node(kind: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": kind, "inputs": inputs}


def router(model=MODEL, prompt=PROMPT, method="craft", **others) -> dict[str, Any]:
    return node(
        "CRAFTRouter", model=model, clip=["model", 1], prompt=prompt, content_lora=CONTENT,
        style_lora=STYLE, content_strength=0.7, style_strength=0.4, layer_sets="all",
        method=method, schedule=["schedule", 0], **others,
    )  # fmt: skip


def sampler(model=ROUTED, positive=("router", 1), kind="KSampler", **others) -> dict[str, Any]:
    settings = {"seed": 1, "steps": STEPS, "cfg": 3.0, "sampler_name": "euler", "denoise": 1.0,
                "scheduler": "normal", "latent_image": LATENT, "negative": NEGATIVE}  # fmt: skip
    return node(kind, model=model, positive=list(positive), **{**settings, **others})


def acfg_ksampler(**others) -> dict[str, Any]:
    return sampler(kind="CRAFTACFGKSampler", asymmetric=True, **others)


def guided(model=ROUTED, seed=1) -> dict[str, dict[str, Any]]:
    """ACFG Guider and SamplerCustomAdvanced, the last named `sampler`."""
    return {
        "guider": node("CRAFTACFGGuider", model=model, positive=["router", 1], negative=NEGATIVE,
                       cfg=3.0, asymmetric=True),
        "noise": node("RandomNoise", noise_seed=seed),
        "kind": node("KSamplerSelect", sampler_name="euler"),
        "sigmas": node("BasicScheduler", model=model, scheduler="normal", steps=STEPS,
                       denoise=1.0),
        "sampler": node("SamplerCustomAdvanced", noise=["noise", 0], guider=["guider", 0],
                        sampler=["kind", 0], sigmas=["sigmas", 0], latent_image=LATENT),
    }  # fmt: skip


def prompt(ends=("sampler",), **nodes: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Loaders, a schedule, these nodes, and a preview of the latents of each of `ends`."""
    shown = {}
    for end in ends:
        shown[f"{end} decoded"] = node("VAEDecode", samples=[end, 0], vae=["model", 2])
        shown[f"{end} shown"] = node("PreviewImage", images=[f"{end} decoded", 0])
    return {
        "model": node("CheckpointLoaderSimple", ckpt_name=CHECKPOINT),
        "schedule": node("CRAFTTimestepSchedule", shape="linear", content_floor=0.1,
                         style_floor=0.1, clock="steps"),
        "latent": node("EmptyLatentImage", width=64, height=64, batch_size=1),
        "negative": node("CLIPTextEncode", clip=["model", 1], text=""),
        **nodes,
        **shown,
    }  # fmt: skip


@dataclass
class Run:
    """A prompt that ran: what the server sent for our nodes, in order, and what it saved."""

    sent: list[tuple[str, list[dict[str, str]]]] = field(default_factory=list)
    outputs: dict[str, dict[str, Any]] = field(default_factory=dict)
    error: str = ""

    @property
    def shown(self) -> dict[str, list[dict[str, str]]]:
        """What the page shows at the end: the nodes with pictures, and the pictures."""
        return {name: pictures for name, pictures in dict(self.sent).items() if pictures}


@pytest.fixture
def run(live_server) -> Callable[..., Run]:
    client = live_server.server.client

    def follow(prompt: dict[str, dict[str, Any]], stop_at: int | None = None) -> Run:
        """stop_at: the step, counted over all samplers, at which the user interrupts."""
        ran, steps = Run(), 0

        def note(kind: str, data: dict[str, Any]) -> None:
            nonlocal steps
            if kind == "progress":
                steps += 1
                if steps == stop_at:
                    client.interrupt()
            ours = kind == "executed" and prompt[data["node"]]["class_type"].startswith("CRAFT")
            if ours and data["output"]:
                assert data["display_node"] == data["node"]
                ran.sent.append((data["node"], data["output"]["images"]))

        try:
            ran.outputs = client.run(prompt, show=note, limit=600).outputs
        except RemoteError as error:
            ran.error = str(error)
        return ran

    return follow


@pytest.fixture
def picture(live_server) -> Callable[[dict[str, str]], np.ndarray]:
    def fetched(item: dict[str, str]) -> np.ndarray:
        content = live_server.server.client.fetch(item)
        return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))

    return fetched


def is_coloured(picture: np.ndarray) -> bool:
    """Whether there are cells of content's blue and of style's orange."""
    red, blue = picture[..., 0].astype(int), picture[..., 2].astype(int)
    return bool((blue - red > 60).any() and (red - blue > 60).any())


def test_a_host_sampler_on_a_routed_model_shows_the_map_under_the_router(run, picture):
    ran = run(prompt(router=router(), sampler=sampler()))
    ((name, (item,)),) = ran.sent
    assert name == "router" and item["type"] == "temp"
    assert is_coloured(picture(item))
    assert "router" not in ran.outputs  # the history of the prompt stays the host's own


def test_acfg_guider_shows_the_map_under_itself(run, picture):
    ran = run(prompt(router=router(), **guided()))
    ((name, (item,)),) = ran.shown.items()
    assert name == "guider" and is_coloured(picture(item))


def test_acfg_ksampler_shows_the_map_as_its_own_output_and_nowhere_else(run, picture):
    ran = run(prompt(router=router(), sampler=acfg_ksampler()))
    ((name, (item,)),) = ran.shown.items()
    assert name == "sampler" and is_coloured(picture(item))
    assert ran.outputs["sampler"]["images"] == [item]


def test_a_node_inside_a_subgraph_is_named_as_the_page_names_it(run):
    inside = {"7:3": router(), "7:4": sampler(["7:3", 0], ["7:3", 1])}
    assert set(run(prompt(ends=["7:4"], **inside)).shown) == {"7:3"}


def test_equal_routers_show_the_maps_of_their_own_runs(run):
    nodes = {"router": router(), "other": router(), "sampler": sampler(),
             "finer": sampler(["other", 0], ["other", 1], steps=2 * STEPS)}  # fmt: skip
    ran = run(prompt(ends=["sampler", "finer"], **nodes))
    assert set(ran.shown) == {"router", "other"}
    assert ran.shown["router"] != ran.shown["other"]


def test_equal_guiders_show_the_maps_of_their_own_runs(run):
    """The host reuses the output of an equal node elsewhere, unless the node forbids it."""
    run(prompt(router=router(), **guided(seed=2)))
    nodes = guided(seed=3)
    nodes["moved"] = nodes.pop("guider")
    nodes["sampler"]["inputs"]["guider"] = ["moved", 0]
    assert set(run(prompt(router=router(), **nodes)).shown) == {"moved"}


def test_the_last_of_two_routers_shows_the_maps_of_both(run, picture):
    ((_, (one,)),) = run(prompt(router=router(), sampler=sampler(seed=2))).shown.items()
    second = router(model=["first", 0], method="direct")
    ran = run(prompt(first=router(), router=second, sampler=sampler(seed=2)))
    ((name, (both,)),) = ran.shown.items()
    assert name == "router" and len(picture(both)) > 1.5 * len(picture(one))


def test_two_samplers_that_acted_alike_show_one_map(run):
    again = sampler(latent_image=["sampler", 0], seed=2)
    ran = run(prompt(router=router(), sampler=sampler(seed=3), again=again, ends=["again"]))
    assert [len(pictures) for _, pictures in ran.sent] == [1]


def test_two_samplers_that_acted_otherwise_show_a_map_each(run):
    finer = sampler(latent_image=["sampler", 0], steps=2 * STEPS, denoise=0.5)
    ran = run(prompt(router=router(), sampler=sampler(seed=4), finer=finer, ends=["finer"]))
    assert [len(pictures) for _, pictures in ran.sent] == [1, 2]
    assert ran.sent[1][1][0] == ran.sent[0][1][0]


def titled(node: dict[str, Any], title: str) -> dict[str, Any]:
    return {**node, "_meta": {"title": title}}


def two_samplers(first: int, second: int, **others) -> dict[str, dict[str, Any]]:
    """A Router's samplers one after the other, with these seeds; the LoRAs act alike in all."""
    draft = titled(sampler(seed=first, **others), "Draft")
    final = titled(sampler(seed=second, latent_image=["draft", 0]), "Final")
    return prompt(["final"], router=router(), draft=draft, final=final)


def test_samplers_of_different_names_show_a_map_each(run, picture):
    draft, final = run(two_samplers(20, 21)).shown["router"]
    unlike = (picture(draft) != picture(final)).any(axis=(1, 2))
    first, last = np.flatnonzero(unlike)[[0, -1]]
    assert last - first < 22  # rows of pixels: the heading and nothing else


def test_a_sampler_that_does_not_run_again_keeps_its_map(run):
    draft, final = run(two_samplers(22, 23)).shown["router"]
    again = run(two_samplers(22, 24))
    ((_, (kept, new)),) = again.sent
    assert kept == draft and new not in (draft, final)


def test_a_sampler_of_ours_leaves_the_map_of_another_sampler(run):
    first = run(prompt(router=router(), plain=sampler(seed=25), sampler=acfg_ksampler(seed=25),
                       ends=["plain", "sampler"]))  # fmt: skip
    again = run(prompt(router=router(), plain=sampler(seed=25), sampler=acfg_ksampler(seed=26),
                       ends=["plain", "sampler"]))  # fmt: skip
    assert set(again.shown) == {"router", "sampler"}
    assert again.shown["router"] == first.shown["router"]
    assert again.shown["sampler"] != first.shown["sampler"]


def test_a_guider_leaves_the_map_of_another_sampler(run):
    plain = sampler(seed=27)
    first = run(prompt(["plain", "sampler"], router=router(), plain=plain, **guided(seed=27)))
    again = run(prompt(["plain", "sampler"], router=router(), plain=plain, **guided(seed=28)))
    assert set(first.shown) == set(again.shown) == {"router", "guider"}
    assert again.shown["router"] == first.shown["router"]
    assert again.shown["guider"] != first.shown["guider"]


def test_the_map_of_a_sampler_that_is_gone_goes(run):
    _, final = run(two_samplers(29, 30)).shown["router"]
    nodes = {"router": router(), "final": titled(sampler(seed=31), "Final")}
    ((_, (left,)),) = run(prompt(["final"], **nodes)).sent
    assert left != final


def test_the_map_goes_when_another_kind_of_node_has_its_samplers_id(run):
    run(prompt(["guider"], router=router(), guider=sampler(seed=38)))
    assert set(run(prompt(router=router(), **guided(seed=39))).shown) == {"guider"}


def test_the_map_of_a_sampler_that_left_the_router_goes(run):
    assert len(run(two_samplers(32, 33)).shown["router"]) == 2
    elsewhere = {"model": MODEL, "positive": NEGATIVE}
    assert len(run(two_samplers(32, 34, **elsewhere)).shown["router"]) == 1


def test_a_guider_that_the_server_keeps_shows_the_map_of_its_next_run(run):
    first = run(prompt(router=router(), **guided(seed=35)))
    second = run(prompt(router=router(), **guided(seed=36)))
    assert set(first.shown) == set(second.shown) == {"guider"}
    assert second.shown != first.shown


def test_the_map_is_sent_to_the_page_that_queued_the_prompt_alone(run, live_server):
    other = Client(live_server.url)
    with other.listening() as events:
        assert run(prompt(router=router(), sampler=sampler(seed=37))).shown
        while message := events.receive(1.0):
            assert '"executed"' not in message


def test_the_next_prompt_begins_anew(run):
    first = run(prompt(router=router(), sampler=sampler(seed=5)))
    second = run(prompt(router=router(), sampler=sampler(seed=6)))  # the same MODEL, kept
    assert len(second.shown["router"]) == 1
    assert second.shown["router"] != first.shown["router"]


def test_a_sampler_of_ours_takes_away_the_map_that_an_earlier_run_left_under_the_router(run):
    run(prompt(router=router(), sampler=sampler(seed=7)))
    ran = run(prompt(router=router(), sampler=acfg_ksampler()))
    assert ("router", []) in ran.sent and set(ran.shown) == {"sampler"}
    ran = run(prompt(router=router(), **guided(seed=7)))
    assert ("router", []) in ran.sent and set(ran.shown) == {"guider"}


def test_samplers_of_both_kinds_in_one_prompt_show_a_map_each(run):
    both = {"plain": sampler(seed=8), "sampler": acfg_ksampler(seed=8)}
    ran = run(prompt(router=router(), ends=list(both), **both))
    assert set(ran.shown) == {"router", "sampler"}


def test_a_prompt_without_markers_shows_no_map_and_takes_the_last_one_away(run):
    plain = "an owl"
    assert run(prompt(router=router(prompt=plain), sampler=sampler())).sent == [("router", [])]
    ran = run(prompt(router=router(prompt=plain), sampler=acfg_ksampler()))
    assert ran.shown == {} and ("sampler", []) in ran.sent


def test_an_interrupted_run_shows_nothing(run):
    ran = run(prompt(router=router(), sampler=sampler(steps=500)), stop_at=2)
    assert ran.error == "the run was interrupted." and ran.sent == []


def test_a_failed_run_shows_nothing_and_keeps_its_own_error(run):
    """Two Routers that evaluate two and three LoRAs apart cannot sample together."""
    branch = node("CRAFTLoadLoRABranch", lora=STYLE, role="style", strength=1.0)
    three = router(["first", 0], method="composite", extra_branches=["branch", 0])
    nodes = {"first": router(method="composite"), "branch": branch, "router": three}
    ran = run(prompt(sampler=sampler(), **nodes))
    assert ran.error.startswith("node sampler (KSampler) failed: ") and ran.sent == []
    assert "Two Routers in a row" in ran.error


PAIR = {"content_lora": CONTENT, "style_lora": STYLE, "content_strength": 0.7,
        "style_strength": 0.4, "layer_sets": "all"}  # fmt: skip


def method_sweep(**others) -> dict[str, Any]:
    return node(
        "CRAFTMethodSweep", model=MODEL, clip=["model", 1], prompt=PROMPT, methods="craft\ndirect",
        first_seed=1, seeds=2, steps=STEPS, asymmetric=True, **PAIR, **others,
    )  # fmt: skip


def test_the_models_of_a_sweep_show_no_map(run):
    sweep = method_sweep()
    for one in (sampler(seed=["router", 2]), acfg_ksampler(seed=["router", 2])):
        ran = run(prompt(router=sweep, sampler=one))
        assert not ran.error and ran.shown == {}
    ran = run(prompt(router=sweep, **guided()))
    assert not ran.error and ran.shown == {}


def test_a_prompt_that_no_page_queued_runs_and_saves_no_map(live_server):
    """Queued over HTTP without a client id, so that no page listens."""
    client = live_server.server.client
    asked = {"prompt": prompt(router=router(), sampler=sampler(seed=9))}
    number = client.post_json("/prompt", asked)["prompt_id"]
    while client.will_finish(number) and number not in client.get_json(f"/history/{number}"):
        time.sleep(0.1)
    outputs = client.get_json(f"/history/{number}")[number]["outputs"]
    assert set(outputs) == {"sampler shown"}


@pytest.mark.parametrize("kind", ["KSampler", "CRAFTACFGKSampler"])
def test_the_grid_of_a_sweep_draws_the_maps_of_the_runs_that_made_its_pictures(run, picture, kind):
    sweep = method_sweep(schedule=["schedule", 0])
    asymmetric = {"asymmetric": ["router", 3]} if kind != "KSampler" else {}

    def map_of(cell: int, **settings) -> np.ndarray:
        one = sampler(kind=kind, seed=["router", 2], **asymmetric, **settings)
        nodes = prompt(router=sweep, sampler=one)
        nodes["grid"] = node(
            "CRAFTComparisonGrid", images=["sampler decoded", 0], rows=["router", 4],
            columns=["router", 5], cell=cell, models=["router", 0],
        )  # fmt: skip
        nodes["map"] = node("PreviewImage", images=["grid", 1])
        ran = run(nodes)
        assert not ran.error and ran.shown == {}
        ((item,),) = (ran.outputs["map"]["images"],)
        return picture(item)

    short, fine = map_of(8), map_of(8, steps=4 * STEPS)
    assert is_coloured(short) and not np.array_equal(short, fine)
    assert np.array_equal(map_of(16, steps=4 * STEPS), fine)  # of pictures that were kept
    assert np.array_equal(map_of(16), short)
