"""The unmodified host starts with both packs linked, shows our nodes, and runs workflows."""

import asyncio
import sys

import pytest
from craft_lora_pack import comfy_entrypoint
from craft_lora_pack.client.errors import RemoteError
from craft_lora_pack.craft_core.families import FAMILIES
from small_world_models import CHECKPOINT

PUBLIC_IDS = {
    "CRAFTLoadRankLimitedUNet",
    "CRAFTLoadLoRABranch",
    "CRAFTLoRAList",
    "CRAFTRouter",
    "CRAFTTimestepSchedule",
    "CRAFTACFGGuider",
    "CRAFTACFGKSampler",
    "CRAFTPairBuilder",
    "CRAFTTrainBasis",
    "CRAFTTrainLoRA",
    "CRAFTTrainB4M",
    "CRAFTTrainJoint",
    "CRAFTLoRAFromPictures",
    "CRAFTPairFromPictures",
    "CRAFTLoadExpertEncoder",
    "CRAFTTrainEncoder",
    "CRAFTLearnMerge",
    "CRAFTFuseToFile",
    "CRAFTMethodSweep",
    "CRAFTComparisonGrid",
    "CRAFTScore",
    "CRAFTLoadCSD",
    "CRAFTLoadTextEncoder",
    "CRAFTFindBest",
    "CRAFTXYGrid",
}
PICTURE = {"class_type": "EmptyImage", "inputs": {"width": 16, "height": 8, "batch_size": 2}}
SAVE = {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "t"}}


def picture(color: int) -> dict:
    return {**PICTURE, "inputs": {**PICTURE["inputs"], "color": color}}


def test_the_host_loads_both_packs(live_server):
    start_up, ready, _ = live_server.log().partition("To see the GUI")
    assert ready and "IMPORT FAILED" not in start_up and "Traceback" not in start_up
    assert live_server.server.failed_packs() == []
    for pack in ("craft-lora", "craft_small_world"):
        assert any(line.endswith(pack) and "seconds" in line for line in start_up.splitlines())


def test_the_host_shows_every_node_of_the_pack_and_only_through_our_entry_point(live_server):
    async def declared() -> set[str]:
        extension = await comfy_entrypoint()
        return {node.GET_SCHEMA().node_id for node in await extension.get_node_list()}

    shown = {
        name
        for name, info in live_server.object_info().items()
        if info["python_module"] == "custom_nodes.craft-lora"
    }
    assert shown == asyncio.run(declared())


def test_the_public_node_ids_are_permanent(live_server):
    assert live_server.object_info().keys() >= PUBLIC_IDS


def test_every_input_of_our_nodes_has_a_tooltip(live_server):
    without = []
    for node in sorted(PUBLIC_IDS):
        for group in ("required", "optional"):
            inputs = live_server.object_info()[node]["input"].get(group, {})
            without += [f"{node}.{name}" for name, spec in inputs.items() if not tooltip(spec)]
    assert without == []


def tooltip(spec: list) -> str | None:
    return spec[1].get("tooltip") if len(spec) > 1 else None


def test_a_prompt_gives_the_pictures_that_it_asks_for(live_server):
    result = live_server.run({"1": picture(0x2040FF), "2": SAVE})
    images = live_server.images(result)
    assert [image.shape for image in images] == [(8, 16, 3)] * 2
    assert (images[0] == (0x20, 0x40, 0xFF)).all()


def test_a_workflow_of_the_page_runs_as_the_page_would_run_it(live_server):
    """A reroute and a bypassed node pass their input on, a note is left out."""
    nodes = [
        {"id": 1, "type": "EmptyImage", "widgets_values": [8, 8, 1, 0xFF0000]},
        {"id": 2, "type": "Reroute", "inputs": [socket("", "*", 1)]},
        {"id": 3, "type": "ImageInvert", "mode": 4, "inputs": [socket("image", "IMAGE", 2)]},
        {"id": 4, "type": "ImageInvert", "inputs": [socket("image", "IMAGE", 3)]},
        {"id": 5, "type": "SaveImage", "inputs": [socket("images", "IMAGE", 4)]},
        {"id": 6, "type": "Note", "widgets_values": ["text"]},
    ]
    for node in nodes[:4]:
        node["outputs"] = [{"name": "IMAGE", "type": "IMAGE"}]
    nodes[4]["widgets_values"] = ["page"]
    links = [[n, n, 0, n + 1, 0, "IMAGE"] for n in (1, 2, 3, 4)]
    prompt = live_server.prompt_of({"nodes": nodes, "links": links})
    assert set(prompt) == {"1", "4", "5"}
    (image,) = live_server.images(live_server.run(prompt))
    assert (image == (0, 255, 255)).all()


def socket(name: str, kind: str, link: int) -> dict:
    return {"name": name, "type": kind, "link": link}


def test_a_refused_prompt_names_the_node_and_the_input(live_server):
    broken = {"1": picture(0), "2": {**SAVE, "inputs": {"filename_prefix": "t"}}}
    with pytest.raises(RemoteError, match=r"node 2 \(SaveImage\): Required input is missing: imag"):
        live_server.run(broken)


def test_a_failing_node_gives_its_own_message(live_server):
    """A latent of eight channels through the pixel VAE gives a picture that no file can hold."""
    latent = {"class_type": "EmptyAceStepLatentAudio", "inputs": {"seconds": 1.0, "batch_size": 1}}
    prompt = {
        "1": {"class_type": "VAELoader", "inputs": {"vae_name": "pixel_space"}},
        "2": latent,
        "3": {"class_type": "VAEDecode", "inputs": {"vae": ["1", 0], "samples": ["2", 0]}},
        "4": {"class_type": "PreviewImage", "inputs": {"images": ["3", 0]}},
    }
    with pytest.raises(RemoteError, match=r"node 4 \(PreviewImage\) failed: \S+"):
        live_server.run(prompt)


def test_a_fault_that_nobody_foresaw_stands_on_our_node_in_words(live_server):
    """A video's latent in a model of pictures: the network breaks, deep inside the host."""

    def text(words: str) -> dict:
        return {"class_type": "CLIPTextEncode", "inputs": {"clip": ["1", 1], "text": words}}

    settings = {"seed": 1, "steps": 1, "cfg": 2.0, "sampler_name": "euler", "scheduler": "normal",
                "denoise": 1.0, "asymmetric": True}  # fmt: skip
    links = {"model": ["1", 0], "positive": ["2", 0], "negative": ["3", 0],
             "latent_image": ["4", 0]}  # fmt: skip
    sides = {"width": 64, "height": 64, "length": 5, "batch_size": 1}
    prompt = {
        "1": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": CHECKPOINT}},
        "2": text("a sks animal"),
        "3": text(""),
        "4": {"class_type": "EmptyHunyuanLatentVideo", "inputs": sides},
        "5": {"class_type": "CRAFTACFGKSampler", "inputs": {**settings, **links}},
        "6": {"class_type": "PreviewAny", "inputs": {"source": ["5", 0]}},
    }
    with pytest.raises(RemoteError, match=r"node 5 \(CRAFTACFGKSampler\) failed: ") as failed:
        live_server.run(prompt)
    said = str(failed.value)
    assert "Error: " in said and "Check the inputs of this node" in said
    assert "direct cause of the following exception" in live_server.log()


def test_the_host_in_this_process_is_the_real_one_and_ours_is_one_copy():
    import nodes
    from craft_lora_pack.comfy_adapter import __name__ as adapter

    assert hasattr(nodes, "NODE_CLASS_MAPPINGS")
    assert adapter == "craft_lora_pack.comfy_adapter"
    rooms = {"craft_core", "client", "cli", "comfy_adapter"}
    assert {name for name in sys.modules if name.split(".")[0] in rooms} == set()


def test_every_familys_latent_is_made_by_a_node_that_needs_nothing_else(live_server):
    known = {family.key: family.latent for family in FAMILIES.values() if family.latent}
    assert len(known) > 15
    for key, (node, *sides) in known.items():
        info = live_server.object_info()[node]
        needed = info["input"]["required"]
        assert info["output"] == ["LATENT"], key
        assert all("default" in options[1] for options in needed.values()), key
        for name, side in zip(("width", "height"), sides, strict=True):
            limits = needed[name][1]
            assert limits["min"] <= side <= limits["max"] and side % limits["step"] == 0, key
