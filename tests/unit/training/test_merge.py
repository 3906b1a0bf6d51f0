"""What every learned merge keeps to: frozen LoRAs, honest metadata, the same bytes again."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import safetensors
import torch
from merge_parts import LINEAR, added, deltas, merging, part, with_weights
from raw_lora import noise
from toy_denoiser import TEXT, ToyDenoiser

from craft_core.errors import CraftError
from craft_core.lora import parse_lora
from craft_core.training import LEARNED, Dataset, Example, MergePart, Merging
from craft_core.training.data import Moves
from craft_core.training.losses import Draw
from craft_core.training.merge import answer, drawn, frozen_updates
from craft_core.types import Branch

METHODS = ("zip_lora", "duo_lora")  # b4m merges halves of its own making
QUICK = {"steps": 2, "batch_size": 1}


def training(method, given=None, denoiser=None, **settings):
    knobs = LEARNED[method].knobs({**QUICK, **settings})
    return LEARNED[method].function(denoiser or ToyDenoiser(), given or merging(), "base", **knobs)


def swept():
    """(method, knob, value) over each knob's whole range."""
    found = []
    for method in METHODS:
        for p in LEARNED[method].parameters:
            knob = p.knob
            values = knob.choices or ((knob.minimum, knob.maximum) if knob.step else (True, False))
            if p.name in ("steps", "batch_size", "accumulate"):
                values = (1, 3)
            for value in values:
                found.append(pytest.param(method, p.name, value, id=f"{method}-{p.name}-{value}"))
    return found


@pytest.mark.parametrize("method, knob, value", swept())
def test_every_setting_over_its_range_takes_a_step(method, knob, value, tmp_path):
    one = training(method, **{knob: value})
    one.advance()
    one.write(tmp_path / "a.safetensors")
    assert all(bool(torch.isfinite(mask).all()) for mask in one.parameters.values())


def with_lokr(rank):
    """The content LoRA's linear layer as a LoKr with w2 in two factors, and its matrix."""
    given, shape = merging(), ToyDenoiser().layers[LINEAR]
    w1, a, b = noise(2, 2), noise(shape[0] // 2, rank), noise(rank, shape[1] // 2)
    state = {"lokr_w1": w1, "lokr_w2_a": 0.1 * a, "lokr_w2_b": b}
    named = {f"lora_unet_x.{end}": tensor for end, tensor in state.items()}
    layers = parse_lora(named, {}, {"x": shape}).layers
    first = given.parts[0]
    branch = replace(first.branch, layers={**first.branch.layers, LINEAR: layers["x"]})
    parts = (replace(first, branch=branch), *given.parts[1:])
    return replace(given, parts=parts), 0.1 * torch.kron(w1, a @ b)


@pytest.mark.parametrize("method", METHODS)
def test_an_update_with_exact_factors_is_merged_and_one_of_full_rank_refused(method, tmp_path):
    given, delta = with_lokr(1)
    (content, *_) = (frozen_updates(one, ToyDenoiser()) for one in given.parts)
    strength = given.parts[0].branch.strength
    torch.testing.assert_close(content[LINEAR].delta(), strength * delta, rtol=1e-5, atol=1e-6)
    one = training(method, given)
    one.advance()
    one.write(tmp_path / "a.safetensors")
    with pytest.raises(CraftError, match=f"{LINEAR} in .* has full rank.*Fuse LoRAs to File"):
        training(method, with_lokr(4)[0])


@pytest.mark.parametrize("method", METHODS)
def test_a_resumed_merge_is_the_uninterrupted_one(method, tmp_path):
    whole, half = (training(method, steps=5, mirror=True) for _ in range(2))
    whole.run()
    half.advance()
    half.advance()
    half.save(tmp_path / "state.safetensors")
    rest = training(method, steps=5, mirror=True)
    rest.resume(tmp_path / "state.safetensors")
    rest.run()
    for name, one in (("whole", whole), ("rest", rest)):
        one.write(tmp_path / f"{name}.safetensors")
    files = [(tmp_path / f"{name}.safetensors").read_bytes() for name in ("whole", "rest")]
    assert files[0] == files[1]


@pytest.mark.parametrize("method", METHODS)
def test_the_same_seed_gives_the_same_file_and_another_another(method, tmp_path):
    files = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        one = training(method, seed=seed, batch_size=2)
        one.run()
        one.write(tmp_path / f"{name}.safetensors")
        files.append((tmp_path / f"{name}.safetensors").read_bytes())
    assert files[0] == files[1] != files[2]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("changed", ["strengths", "sources", "fused_prompts"])
def test_a_resumed_merge_has_the_same_loras_and_prompts(method, changed, tmp_path):
    given = merging()
    one = training(method, given)
    one.advance()
    one.save(tmp_path / "state.safetensors")
    dog, ink = given.parts
    other = {
        "strengths": {"parts": (dog, part("ink", 0.1))},
        "sources": {"parts": (dog, replace(ink, source="another"))},
        "fused_prompts": {"fused": (replace(given.fused[0], text="another"),)},
    }[changed]
    with pytest.raises(CraftError, match=changed):
        training(method, replace(given, **other)).resume(tmp_path / "state.safetensors")


@pytest.mark.parametrize("method", METHODS)
def test_the_loras_and_the_model_do_not_change(method):
    denoiser, given = ToyDenoiser(), merging()
    held = [t for p in given.parts for updates in p.branch.layers.values()
            for f in updates for t in (f.down, f.up)]  # fmt: skip
    held += list(denoiser.network.state_dict().values())
    before = [tensor.clone() for tensor in held]
    one = training(method, given, denoiser, steps=3)
    one.run()
    assert all(torch.equal(a, b) for a, b in zip(held, before, strict=True))
    assert all(not t.requires_grad and t.grad is None for t in held)


@pytest.mark.parametrize("method", METHODS)
def test_the_file_says_what_was_merged_and_how(method, tmp_path):
    one = training(method)
    one.run()
    one.write(tmp_path / "a.safetensors", {"note": "mine"})
    with safetensors.safe_open(tmp_path / "a.safetensors", framework="pt") as file:
        metadata = file.metadata()
    assert metadata["note"] == "mine" and metadata["steps_done"] == "2"
    recorded = json.loads(metadata["training"])
    assert recorded["recipe"] == method and recorded["base_model"] == "base"
    assert recorded["loras"] == "dog ink" and recorded["roles"] == "content style"
    assert recorded["strengths"] == "0.7 1.3" and recorded["sources"] == "sha of dog sha of ink"
    assert (
        recorded["fused_prompts"] == "fused 0"
        and recorded["rate"] == recorded["min_rate"] == "0.01"
    )
    numbers = {p.name for p in LEARNED[method].parameters} - {
        "steps", "learning_rate", "save_as", "initialisation", "content_threshold",
        "style_threshold",
    }  # fmt: skip
    assert numbers <= set(recorded)


def test_a_lora_alone_is_its_weights_added_to_the_models():
    """Strength, scale, a convolution with strides, and a slice beside a whole."""
    denoiser, ink = ToyDenoiser(dtype=torch.float64), part("ink", 1.3)
    updates = frozen_updates(ink, denoiser)
    assert updates[LINEAR].rank == 6 and list(updates) == [
        path for path in denoiser.layers if path in ink.branch.layers
    ]
    ready = drawn(denoiser, ink.pictures, 2, Moves(), Draw(0, 0).generator())
    alone = with_weights(denoiser, added(deltas(ink)))
    expected = alone.denoise(ready.x, ready.sigma, ready.conditions)
    found = answer(denoiser, ready, updates)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    assert not found.requires_grad


@pytest.mark.parametrize("method", METHODS)
def test_pictures_of_unlike_conditions_share_a_batch(method):
    """Masks are the same for every row, so it does not matter how a Denoiser splits them."""
    given = merging()
    unlike = tuple(
        Example(one.latent, torch.full((TEXT,), float(i)), one.name)
        for i, one in enumerate(given.parts[0].pictures.examples)
    )
    dog = replace(given.parts[0], pictures=Dataset(unlike))
    one = training(method, replace(given, parts=(dog, given.parts[1])), batch_size=2)
    one.run()
    assert len(one.losses) == 2


def test_a_merge_of_loras_at_strength_0_is_an_error():
    with pytest.raises(CraftError, match="All LoRAs have the strength 0"):
        merging(strengths=(0.0, 0.0))
    assert merging(strengths=(0.0, 1.0)).parts


@pytest.mark.parametrize("method", METHODS)
def test_what_fp16_cannot_hold_is_told_and_saved_as_bf16_on_resuming(method, tmp_path):
    given = merging(strengths=(1.0, 1.0))
    dog, ink = given.parts
    (one,) = dog.branch.layers[LINEAR]
    large = {**dog.branch.layers, LINEAR: (replace(one, down=1e5 * one.down, scale=1e-6),)}
    given = replace(given, parts=(replace(dog, branch=replace(dog.branch, layers=large)), ink))
    one = training(method, given, save_as="fp16")
    one.run()
    one.save(tmp_path / "state.safetensors")
    with pytest.raises(CraftError, match=f"{LINEAR} does not fit float16.*Save as bf16 or fp32"):
        one.write(tmp_path / "a.safetensors")
    again = training(method, given, save_as="bf16")
    again.resume(tmp_path / "state.safetensors")
    again.write(tmp_path / "a.safetensors")


def test_the_menu_of_learned_merges_begins_with_one_for_any_loras():
    assert LEARNED.keys() == ("duo_lora", "zip_lora", "b4m")


def test_one_lora_is_no_merge():
    with pytest.raises(CraftError, match="1 LoRA"):
        merging(("dog",))


def test_a_lora_without_a_layer_of_the_model_is_an_error():
    given = merging()
    idle = MergePart(Branch("idle", "style", {}), given.parts[1].pictures)
    with pytest.raises(CraftError, match="idle adapts no layer"):
        Merging((given.parts[0], idle))


@pytest.mark.parametrize("method", METHODS)
def test_a_merge_that_diverges_says_so_and_keeps_its_masks(method):
    given = merging(strengths=(1e30, 1e30))
    one = training(method, given)
    before = {name: mask.detach().clone() for name, mask in one.parameters.items()}
    with pytest.raises(CraftError, match="not finite"):
        one.run()
    assert all(torch.equal(mask, before[name]) for name, mask in one.parameters.items())
