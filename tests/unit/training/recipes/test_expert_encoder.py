"""The expert encoder learns and the LoRAs do not; phrases decide the scales."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from adapter_samples import SAMPLES, variants
from toy_denoiser import CHANNELS, TEXT, ToyDenoiser

from craft_core.encoder import Concept, PhraseEmbeddings, read_encoder
from craft_core.errors import CraftError
from craft_core.lora import parse_lora
from craft_core.training import (
    Dataset,
    Example,
    Lessons,
    Phrased,
    Pictures,
    RoleLayers,
    expert_encoder,
    lora,
)
from craft_core.training.losses import Draw
from craft_core.training.recipes.expert_encoder import scaled_branches
from craft_core.types import Branch, Factors

PHRASE = 12
CONTENT, STYLE = ("blocks.0.q", "middle_block.0"), ("blocks.0.out",)
CONCEPT = Concept.of([("content", "11"), ("style", "22")])
EMPTY = torch.zeros(TEXT)


def factors(shape, seed, rank=2, size=1.0):
    generator = torch.Generator().manual_seed(seed)
    fan_in = torch.Size(shape[1:]).numel()
    down = torch.randn(rank, *shape[1:], generator=generator) / fan_in**0.5
    return Factors(down, size * torch.randn(shape[0], rank, generator=generator), 0.5)


def branches(denoiser, size=1.0, strengths=(1.0, 1.0)):
    made = []
    for role, paths, strength in zip(
        ("content", "style"), (CONTENT, STYLE), strengths, strict=True
    ):
        layers = {p: (factors(denoiser.layers[p], i, size=size),) for i, p in enumerate(paths)}
        made.append(Branch(f"{role}.safetensors", role, layers, strength))
    return made


def phrase(seed):
    return torch.randn(PHRASE, generator=torch.Generator().manual_seed(seed))


def examples(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return tuple(
        Example(torch.randn(CHANNELS, 6, 8, generator=generator), EMPTY, f"picture {i}")
        for i in range(count)
    )


def phrased(count=2, seed=0, gammas=(1.0, 1.0)):
    asked = tuple(PhraseEmbeddings(phrase(seed + i), phrase(50 + seed + i)) for i in range(count))
    return Phrased(Dataset(examples(count, seed), EMPTY), asked, (gammas,) * count)


def training(denoiser=None, lessons=None, loras=None, **settings):
    denoiser = denoiser or ToyDenoiser()
    given = {"steps": 3, "batch_size": 2, "warmup": 0, "learning_rate": 1e-2, **settings}
    loras = branches(denoiser) if loras is None else loras
    return expert_encoder(denoiser, lessons or Lessons(phrased()), loras, CONCEPT, **given)


def scales(one, asked):
    return one.recipe.encoder.scales(CONCEPT, asked)


def test_before_the_first_step_the_branches_act_in_full():
    denoiser = ToyDenoiser()
    recipe = training(denoiser).recipe
    x, sigma = torch.randn(2, CHANNELS, 6, 8), torch.tensor([0.5, 2.0])
    asked = recipe._scales(phrased().phrases, torch.tensor([False, True])).detach()
    plain = {
        path: scaled_branches([(update, torch.ones(2)) for update in updates])
        for branch in recipe.branches for path, updates in branch.layers.items()
    }  # fmt: skip
    with denoiser.edited(plain):
        expected = denoiser.denoise(x, sigma, [EMPTY, EMPTY])
    with denoiser.edited(recipe._edits(asked, torch.ones(2, 2))):
        assert torch.equal(denoiser.denoise(x, sigma, [EMPTY, EMPTY]), expected)


@pytest.mark.parametrize("path", ["blocks.0.q", "middle_block.0", "conv_in"])
def test_a_scaled_branch_is_each_rows_own_weight_plus_its_share_of_delta(path):
    denoiser = ToyDenoiser(dtype=torch.float64)
    whole = factors(denoiser.layers[path], 1, rank=3)
    whole = replace(whole, down=whole.down.double(), up=whole.up.double())
    x = torch.randn(2, CHANNELS, 6, 8, dtype=torch.float64)
    sigma, weight = torch.tensor([0.5, 2.0]), torch.tensor([0.3, 1.7], dtype=torch.float64)
    with denoiser.edited({path: scaled_branches([(whole, weight)])}):
        edited = denoiser.denoise(x, sigma, [EMPTY, EMPTY])
    layer = denoiser.network.get_submodule(path)
    before = layer.weight.clone()
    delta = whole.scale * (whole.up @ whole.down.flatten(1)).reshape(before.shape)
    for row, share in enumerate(weight.tolist()):
        layer.weight.data = before + share * delta
        alone = denoiser.denoise(x[row : row + 1], sigma[row : row + 1], [EMPTY])
        torch.testing.assert_close(edited[row : row + 1], alone)


@pytest.mark.parametrize("path", ["blocks.0.q", "middle_block.0", "conv_in"])
@pytest.mark.parametrize("kind", SAMPLES)
def test_a_scaled_branch_of_any_adapter_kind_is_its_matrix(kind, path):
    denoiser = ToyDenoiser()
    shape = denoiser.layers[path]
    x, sigma = torch.randn(2, CHANNELS, 6, 8), torch.tensor([0.5, 2.0])
    for form in variants(kind, shape):
        made = SAMPLES[kind][form](shape, 3).sized(0.3)
        (update,) = parse_lora(made.named("lora_unet_x"), {}, {"x": shape}).layers["x"]
        weight = denoiser.network.get_submodule(path).weight.detach()
        whole = Factors(made.on(weight), torch.eye(shape[0]))
        answers = []
        for one in (update, whole):
            with denoiser.edited({path: scaled_branches([(one, torch.tensor([0.3, 1.7]))])}):
                answers.append(denoiser.denoise(x, sigma, [EMPTY, EMPTY]))
        torch.testing.assert_close(*answers, rtol=1e-4, atol=1e-4)


def test_a_slice_of_a_fused_layer_changes_its_own_outputs_only():
    denoiser = ToyDenoiser()
    piece = replace(factors((3, 8), 1), rows=(2, 3))
    x = torch.randn(2, 5, 8)
    seen = []
    denoiser.network.blocks[0]["q"].register_forward_hook(lambda *call: seen.append(call[2]))
    with denoiser.edited({"blocks.0.q": scaled_branches([(piece, torch.tensor([1.0, 0.5]))])}):
        edited = denoiser.network.blocks[0]["q"](x)
    added = edited - seen[0]
    assert not added[..., :2].any() and not added[..., 5:].any()
    by_hand = x @ piece.delta().T * torch.tensor([1.0, 0.5]).view(2, 1, 1)
    torch.testing.assert_close(added[..., 2:5], by_hand)


def test_rows_denoised_alone_teach_what_they_teach_in_one_call():
    """Where a layer would not see the rows of a call one after the other."""

    class Alone(ToyDenoiser):
        def denoise(self, x, sigma, conditions):
            assert len(x) == 1
            return super().denoise(x, sigma, conditions)

        def needs_single_rows(self, layers):
            return set(CONTENT + STYLE) == set(layers)

    learned, gradients = [], []
    for denoiser in (ToyDenoiser(dtype=torch.float64), Alone(dtype=torch.float64)):
        recipe = training(denoiser, Lessons(phrased(3), phrased(2, seed=9)), batch_size=3).recipe
        learned.append(recipe.backward(Draw(0, 0), 1.0))
        gradients.append([value.grad for value in recipe.parameters().values()])
    assert learned[1] == pytest.approx(learned[0])
    for one, alone in zip(*gradients, strict=True):
        torch.testing.assert_close(alone, one)


def test_a_layer_that_sees_fewer_rows_than_there_are_scales_is_no_silent_mistake():
    denoiser = ToyDenoiser()
    one = factors((8, 8), 1)
    with denoiser.edited({"blocks.0.q": scaled_branches([(one, torch.tensor([1.0, 0.5]))])}):
        with pytest.raises(AssertionError, match="all rows"):
            denoiser.network.blocks[0]["q"](torch.randn(1, 5, 8))


def test_the_loras_and_the_model_get_no_gradient_and_do_not_change():
    denoiser = ToyDenoiser()
    given = branches(denoiser)
    held = [t for b in given for (f,) in b.layers.values() for t in (f.down, f.up)]
    held += list(denoiser.network.state_dict().values())
    before = [tensor.clone() for tensor in held]
    one = training(denoiser, loras=given, steps=5)
    one.run()
    assert all(torch.equal(a, b) for a, b in zip(held, before, strict=True))
    own = [t for b in one.recipe.branches for (f,) in b.layers.values() for t in (f.down, f.up)]
    assert all(not t.requires_grad and t.grad is None for t in [*held, *own])
    assert all(torch.equal(a, b) for a, b in zip(own, before[: len(own)], strict=True))
    assert {name.split(".")[0] for name in one.parameters} == {
        "table", "concept", "content", "style", "head",
    }  # fmt: skip


def test_the_gradient_is_that_of_finite_differences():
    """Through the network, the batch's own rows, gammas, strengths, both terms and the pull."""
    denoiser = ToyDenoiser(dtype=torch.float64)
    lessons = Lessons(phrased(), phrased(seed=7, gammas=(1.0, 0.0)))
    loras = branches(denoiser, strengths=(0.7, 1.3))
    recipe = training(
        denoiser, lessons, loras, neutral_weight=0.3, other_weight=2.0, concept_dropout=0.5
    ).recipe
    recipe.encoder.double()
    with torch.no_grad():
        for parameter in recipe.encoder.head.parameters():
            parameter.normal_(0.0, 0.1, generator=torch.Generator().manual_seed(3))

    def loss():
        return sum(recipe.backward(Draw(0, 0), 1.0).values())

    loss()
    gradients = {name: value.grad.clone() for name, value in recipe.parameters().items()}
    for name, parameter in recipe.parameters().items():
        direction = torch.randn(
            parameter.shape, generator=torch.Generator().manual_seed(1)
        ).double()
        step = 1e-4
        with torch.no_grad():
            parameter += step * direction
        above = loss()
        with torch.no_grad():
            parameter -= 2 * step * direction
        below = loss()
        with torch.no_grad():
            parameter += step * direction
        expected = (gradients[name] * direction).sum().item()
        slope = (above - below) / (2 * step)
        assert slope == pytest.approx(expected, rel=1e-3, abs=1e-7), name


def test_a_branch_whose_marker_is_absent_learns_nothing():
    one = training(
        lessons=Lessons(phrased(gammas=(1.0, 0.0))), steps=20, neutral_weight=0.0, loras=None
    )
    one.run()
    asked = scales(one, phrased().phrases[0])
    assert all(value != 1.0 for value in asked["content"].values())
    assert all(value == 1.0 for value in asked["style"].values())


def _two_needs(denoiser):
    """(a LoRA trained to draw one pattern; lessons: that pattern under its phrase, its opposite
    under another; both phrases). The LoRA helps on the first and harms on the second."""
    pattern = 2 * torch.randn(CHANNELS, 6, 8, generator=torch.Generator().manual_seed(5)).sign()
    own, opposite = (Dataset((Example(sign * pattern, EMPTY),), EMPTY) for sign in (1, -1))
    place = RoleLayers("content", frozenset({"middle_block.0"}))
    taught = lora(
        denoiser, Pictures(own), place, rank=4, steps=150, learning_rate=2e-2, batch_size=4
    )
    taught.run()
    layers = {"middle_block.0": (taught.recipe.factors("middle_block.0"),)}
    wanted, unwanted = PhraseEmbeddings(phrase(1)), PhraseEmbeddings(phrase(2))
    lessons = Lessons(Phrased(own, (wanted,), ((1.0,),)), Phrased(opposite, (unwanted,), ((1.0,),)))
    return [Branch("pattern", "content", layers)], lessons, wanted, unwanted


def test_a_phrase_the_lora_does_not_serve_damps_it_and_its_own_does_not():
    denoiser = ToyDenoiser()
    loras, lessons, wanted, unwanted = _two_needs(denoiser)
    one = training(denoiser, lessons, loras, steps=100, batch_size=4, learning_rate=1e-3)
    one.run()
    kept, damped = (scales(one, asked)["content"] for asked in (wanted, unwanted))
    assert min(kept.values()) > 0.7, kept
    assert max(damped.values()) < 0.5, damped
    like_unwanted = PhraseEmbeddings(phrase(2) + 0.3 * phrase(3))
    assert max(scales(one, like_unwanted)["content"].values()) < 0.5


@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_other_pictures_add_their_own_weighted_term(weight):
    lessons = Lessons(phrased(), phrased(seed=7))
    one = training(lessons=lessons, steps=1, other_weight=weight)
    two = training(lessons=lessons, steps=1, other_weight=2 * weight)
    one.run()
    two.run()
    assert one.terms["denoising"] == two.terms["denoising"]
    assert two.terms.get("other", 0.0) == pytest.approx(2 * one.terms.get("other", 0.0))
    assert ("other" in one.terms) is bool(weight)


def test_the_pull_towards_one_holds_the_scales_back():
    free = training(steps=60, neutral_weight=0.0)
    held = training(steps=60, neutral_weight=10.0)
    free.run()
    held.run()
    asked = phrased().phrases[0]

    def distance(one):
        found = scales(one, asked)
        return sum(abs(v - 1) for role in found.values() for v in role.values())

    assert 0 < distance(held) < 0.5 * distance(free)


def test_an_unknown_pair_learns_too_where_the_concept_is_left_out_now_and_then():
    unknown = Concept.of([("content", "99")])
    one = training(steps=20, concept_dropout=1.0, neutral_weight=0.0)
    one.run()
    asked = phrased().phrases[0]
    assert one.parameters["table"].grad is None or not one.parameters["table"].grad.any()
    assert any(v != 1.0 for v in one.recipe.encoder.scales(unknown, asked)["content"].values())


def test_unlike_pictures_of_a_batch_are_asked_for_one_by_one():
    """A Denoiser may split unlike conditions into several calls; scales stay with their rows."""
    together, apart = phrased(), phrased()
    unlike = tuple(
        replace(one, condition=EMPTY.clone()) for one in apart.pictures.examples
    )  # the same numbers, two objects
    apart = replace(apart, pictures=Dataset(unlike, EMPTY))
    one = training(lessons=Lessons(together))
    two = training(lessons=Lessons(apart))
    one.run()
    two.run()
    assert one.losses == pytest.approx(two.losses, rel=1e-5)
    for name, value in one.parameters.items():
        torch.testing.assert_close(value, two.parameters[name], rtol=1e-3, atol=1e-5)


def test_same_seed_same_bytes_and_the_file_gives_back_what_was_learned(tmp_path):
    paths = [tmp_path / f"{i}.safetensors" for i in range(3)]
    for path, seed in zip(paths, (1, 1, 2), strict=True):
        one = training(seed=seed)
        one.run()
        one.write(path, {"note": "mine"})
    assert paths[0].read_bytes() == paths[1].read_bytes() != paths[2].read_bytes()
    back, metadata = read_encoder(paths[2])
    assert metadata["note"] == "mine" and metadata["steps_done"] == "3"
    assert back.layers == {"content": CONTENT, "style": STYLE}
    assert back.concepts == (CONCEPT,)
    asked = phrased().phrases[0]
    assert back.scales(CONCEPT, asked) == scales(one, asked)


def test_a_resumed_training_is_the_uninterrupted_one(tmp_path):
    whole, half = training(steps=6), training(steps=6)
    whole.run()
    for _ in range(3):
        half.advance()
    half.save(tmp_path / "state.safetensors")
    rest = training(steps=6)
    rest.resume(tmp_path / "state.safetensors")
    rest.run()
    for one in (whole, rest):
        one.write(tmp_path / f"{one is whole}.safetensors")
    assert (tmp_path / "True.safetensors").read_bytes() == (
        tmp_path / "False.safetensors"
    ).read_bytes()


def test_a_resumed_training_has_the_same_loras(tmp_path):
    one = training(steps=1)
    one.run()
    one.save(tmp_path / "state.safetensors")
    denoiser = ToyDenoiser()
    unknown = Concept.of([("content", "99"), ("style", "22")])
    other = expert_encoder(
        denoiser, Lessons(phrased()), branches(denoiser), unknown, steps=1, batch_size=2,
        warmup=0, learning_rate=1e-2,
    )  # fmt: skip
    with pytest.raises(CraftError, match="content_loras"):
        other.resume(tmp_path / "state.safetensors")


def test_a_caption_that_switches_nothing_on_is_an_error():
    with pytest.raises(CraftError, match="picture 0 switches no LoRA on"):
        phrased(gammas=(0.0, 0.0))


def test_a_caption_that_switches_on_only_loras_without_layers_is_an_error():
    content, style = branches(ToyDenoiser())
    idle = [replace(content, layers={}), style]
    with pytest.raises(CraftError, match="picture 0 switches on no LoRA that acts"):
        training(loras=idle, lessons=Lessons(phrased(), phrased(gammas=(1.0, 0.0))))


def test_loras_without_a_layer_are_an_error():
    with pytest.raises(CraftError, match="No LoRA acts on any layer"):
        training(loras=[Branch("dog", "content", {})], lessons=Lessons(phrased(gammas=(1.0,))))
