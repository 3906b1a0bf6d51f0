"""The basis: Q as an activation is Q as a weight, gradients through QR, ranks, what is written."""

from __future__ import annotations

import pytest
import torch
from toy_denoiser import CHANNELS, ToyDenoiser, dataset

from craft_core.errors import CraftError
from craft_core.projection import dimension, merge, orthonormal, project_out, read_basis
from craft_core.training import Pairs, basis
from craft_core.training.losses import Draw, denoising_loss, noised
from craft_core.training.recipes.basis import overlap, projections

SIDES = ("output", "input")
SMALL = {"r_max": 3, "r_min": 1, "warmup": 1, "batch_size": 2, "learning_rate": 1e-2}


def pairs(count=2) -> Pairs:
    return Pairs(dataset(count, seed=1), dataset(count, seed=2))


def trained(steps=3, denoiser=None, given=None, **settings):
    training = basis(
        denoiser or ToyDenoiser(),
        given or pairs(),
        "a hash",
        **{**SMALL, "steps": steps, **settings},
    )
    training.run()
    return training


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("path", ["blocks.0.q", "blocks.0.out", "middle_block.0"])
def test_taking_a_subspace_out_of_the_activation_is_taking_it_out_of_the_weight(side, path):
    """Eq. 1; the bias is kept, also where the layer is a strided convolution."""
    denoiser = ToyDenoiser(dtype=torch.float64)
    size = dimension(denoiser.layers[path], side)
    q = orthonormal(torch.randn(size, 3, dtype=torch.float64))
    x, sigma = torch.randn(2, CHANNELS, 6, 8), torch.tensor([0.5, 2.0])
    conditions = [one.condition for one in dataset().examples]
    with denoiser.edited(projections({path: q}, side)):
        edited = denoiser.denoise(x, sigma, conditions)
    weight = denoiser.network.get_submodule(path).weight
    weight.copy_(project_out(weight, q, side))
    torch.testing.assert_close(edited, denoiser.denoise(x, sigma, conditions))


@pytest.mark.parametrize("side", SIDES)
def test_the_gradient_through_qr_is_that_of_finite_differences(side):
    denoiser = ToyDenoiser(dtype=torch.float64)
    examples = dataset().examples
    latents = torch.stack([one.latent for one in examples])
    shapes = [denoiser.layers[path] for path in ("middle_block.0", "blocks.0.q")]
    matrices = [
        torch.randn(dimension(shape, side), 2, dtype=torch.float64, requires_grad=True)
        for shape in shapes
    ]

    def loss(mid, linear):
        q = {"middle_block.0": orthonormal(mid), "blocks.0.q": orthonormal(linear)}
        batch = noised(denoiser, latents, [e.condition for e in examples], Draw(0, 0).generator())
        with denoiser.edited(projections(q, side)):
            return denoising_loss(denoiser, batch)[0]

    assert torch.autograd.gradcheck(loss, tuple(matrices), atol=1e-6)


def test_one_walk_back_through_the_qr_gives_the_gradient_of_the_whole_loss():
    """backward() stops at Q and walks the QR once; autograd on the sum of all terms agrees."""
    denoiser = ToyDenoiser()
    training = basis(denoiser, pairs(), "", **{**SMALL, "steps": 1, "caption_dropout": 0.0})
    recipe, draw = training.recipe, Draw(0, 0)
    terms = recipe.backward(draw, 1.0)
    own = {name: value.grad.clone() for name, value in recipe.parameters().items()}
    for value in recipe.parameters().values():
        value.grad = None
    q = {r: {p: orthonormal(m) for p, m in recipe.matrices[r].items()} for r in recipe.matrices}
    total = 0.1 * overlap(q["content"], q["style"])
    chosen = recipe._choose(draw.generator(2))
    for stream, role in enumerate(("content", "style")):
        generator = draw.generator(stream)
        torch.rand(0, generator=generator)
        latents = torch.stack([one.latent for one in chosen[role]])
        ready = noised(denoiser, latents, [one.condition for one in chosen[role]], generator)
        with denoiser.edited(projections(q[role], "output")):
            total = total + denoising_loss(denoiser, ready)[0]
    total.backward()
    assert sum(terms.values()) == pytest.approx(total.item())
    for name, value in recipe.parameters().items():
        torch.testing.assert_close(value.grad, own[name], rtol=1e-4, atol=1e-6)


def test_the_file_holds_orthonormal_bases_of_the_scheduled_ranks(tmp_path):
    training = trained()
    training.write(tmp_path / "b.safetensors")
    found = read_basis(tmp_path / "b.safetensors")
    assert found.base_model == "a hash" and found.side == "output"
    assert [layer.content.shape[1] for layer in found.layers.values()] == [3, 2, 1]
    for layer in found.layers.values():
        for q in (layer.content, layer.style):
            torch.testing.assert_close(q.T @ q, torch.eye(q.shape[1]), atol=1e-5, rtol=0)
        assert merge(layer.content, layer.style).shape[1] <= 6
    assert float(found.metadata["overlap"]) >= 0 and "loss_curve" in found.metadata


def test_the_overlap_term_drives_the_two_subspaces_apart():
    weak, strong = trained(60, overlap_weight=0.0), trained(60, overlap_weight=10.0)
    apart = [overlap(*t.recipe.learned().values()) for t in (weak, strong)]
    assert apart[1] < 0.2 * apart[0]


def test_overlap_is_zero_where_orthogonal_and_the_rank_where_equal():
    eye = torch.eye(6)
    assert overlap({"a": eye[:, :2]}, {"a": eye[:, 2:5]}) == 0
    assert overlap({"a": eye[:, :3]}, {"a": eye[:, :3]}) == 3


def test_a_layer_the_ranks_would_empty_is_left_out():
    training = trained(r_max=8, r_min=2)
    assert "blocks.0.q" not in training.recipe.matrices["content"]
    assert "middle_block.0" in training.recipe.matrices["content"]
    with pytest.raises(CraftError, match="as large as the layers"):
        trained(r_max=64, r_min=64)


def test_each_side_learns_from_its_own_pictures():
    """Other style pictures leave the content side's loss as it was."""
    one = trained(1, given=Pairs(dataset(2, seed=1), dataset(2, seed=2)))
    two = trained(1, given=Pairs(dataset(2, seed=1), dataset(2, seed=7)))
    assert one.terms["content"] == two.terms["content"]
    assert one.terms["style"] != two.terms["style"]


def test_pairs_stay_pairs_when_a_reference_is_in_several():
    """N x M pairs repeat each reference; a batch must take the partner of that very pair."""
    content, style = dataset(2, seed=1), dataset(2, seed=2)
    crossed = Pairs(
        type(content)(tuple(content.examples[i] for i in (0, 0, 1, 1)), content.empty),
        type(style)(tuple(style.examples[j] for j in (0, 1, 0, 1)), style.empty),
    )
    recipe = basis(ToyDenoiser(), crossed, "", **{**SMALL, "steps": 1}).recipe
    seen = set()
    for step in range(40):
        chosen = recipe._choose(Draw(0, step).generator(2))
        for c, s in zip(chosen["content"], chosen["style"], strict=True):
            seen.add((c.name, s.name))
    assert len(seen) == 4


def test_sides_of_unequal_number_are_no_pairs():
    with pytest.raises(CraftError, match="2 content pictures and 3 style pictures"):
        Pairs(dataset(2), dataset(3))


def test_the_perceptual_term_is_weighted_and_reaches_both_sides():
    def squared(pictures, targets):
        return (pictures - targets).square().mean()

    denoiser = ToyDenoiser()
    without = trained(1, denoiser)
    terms = []
    for weight in (0.5, 1.0):
        training = basis(
            denoiser, pairs(), "", squared, **{**SMALL, "steps": 1, "perceptual_weight": weight}
        )
        training.run()
        terms.append(training.terms)
    for role in ("content", "style"):
        assert terms[0][role] == without.terms[role]
        assert terms[1][f"{role} perceptual"] == pytest.approx(
            2 * terms[0][f"{role} perceptual"], rel=1e-5
        )


def test_the_perceptual_term_takes_a_picture_at_a_time_and_has_the_batchs_gradient():
    def squared(pictures, targets):
        return (pictures - targets).square().mean()

    denoiser, sizes = ToyDenoiser(), []
    decode = denoiser.decode

    def decoded(latent):
        sizes.append(len(latent))
        return decode(latent)

    denoiser.decode = decoded
    recipe = basis(
        denoiser, pairs(), "", squared, **{**SMALL, "steps": 1, "perceptual_weight": 0.3}
    ).recipe
    latents = torch.stack([one.latent for one in recipe.pairs.content.examples])
    ready = noised(denoiser, latents, [None] * len(latents), torch.Generator().manual_seed(1))
    denoised = torch.randn(latents.shape, generator=torch.Generator().manual_seed(2))
    value, slope = recipe._perceptual(denoised, ready)
    assert len(latents) > 1 and set(sizes) == {1}
    denoised.requires_grad_(True)
    whole = 0.3 * squared(decode(denoised), decode(latents))
    torch.testing.assert_close(value, whole.detach())
    torch.testing.assert_close(slope, torch.autograd.grad(whole, denoised)[0])


def test_the_model_gets_no_gradient_and_does_not_change():
    denoiser = ToyDenoiser()
    before = {k: v.clone() for k, v in denoiser.network.state_dict().items()}
    trained(denoiser=denoiser)
    assert all(p.grad is None for p in denoiser.network.parameters())
    assert all(torch.equal(before[k], v) for k, v in denoiser.network.state_dict().items())
