"""DuoLoRA: masks over ranks, the layer prior, cycles, several contents: each as in its paper."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from merge_parts import (
    LINEAR,
    STRIDED,
    added,
    deltas,
    factors,
    merging,
    prompt,
    randomised,
    slopes_match,
    with_weights,
)
from toy_denoiser import ToyDenoiser

from craft_core.errors import CraftError
from craft_core.lora import read_lora
from craft_core.training import duo_lora
from craft_core.training.data import Moves
from craft_core.training.losses import Draw
from craft_core.training.merge import drawn
from craft_core.training.merges.duo_lora import Start, masked_edits


def training(given=None, denoiser=None, **settings):
    denoiser = denoiser or ToyDenoiser(dtype=torch.float64)
    settings = {"steps": 3, "batch_size": 2, "save_as": "fp32", **settings}
    return duo_lora(denoiser, given or merging(), "base", **settings)


def masked(side):
    """A LoRA's dW with its mask between up and down, rank by rank."""
    tables = {}
    for path, one in side.update.items():
        inner = one.down.flatten(1).double()
        delta = torch.zeros(one.up.shape[0], inner.shape[1], dtype=torch.float64)
        for k, m in enumerate(side.masks[path].detach().tolist()):
            delta += one.scale * m * torch.outer(one.up[:, k].double(), inner[k])
        tables[path] = delta.reshape(one.up.shape[0], *one.down.shape[1:])
    return tables


def eq_1(dominant, other, hinge):
    """Every norm a share of its own rank."""
    nuclear = [torch.linalg.matrix_norm(torch.diag(m), "nuc").item() / len(m)
               for m in (dominant, other)]  # fmt: skip
    sparsity = dominant.abs().sum().item() / len(dominant)
    return sparsity + hinge * max(0.0, nuclear[1] - nuclear[0])


def of_ranks(content, style):
    """A merging of a dog and an ink of these ranks on the two layers with a dominant LoRA."""
    given, layers = merging(), ToyDenoiser().layers
    parts = []
    for one, rank in zip(given.parts, (content, style), strict=True):
        own = {path: (factors(layers[path], rank + i, rank),)
               for i, path in enumerate((STRIDED, LINEAR))}  # fmt: skip
        parts.append(replace(one, branch=replace(one.branch, layers=own)))
    return replace(given, parts=tuple(parts))


@pytest.mark.parametrize("names", [("dog", "ink"), ("dog", "ink", "cat")])
def test_the_loss_is_the_papers_on_dense_weights(names):
    denoiser, given = ToyDenoiser(dtype=torch.float64), merging(names)
    recipe = training(
        given, denoiser, distillation_weight=2.0, layer_prior_weight=0.7, cycle_weight=0.3,
        hinge_weight=1.5,
    ).recipe  # fmt: skip
    randomised(recipe)
    expected = dict.fromkeys(
        ("like content", "like style", "cycle style", "cycle content", "layer prior"), 0.0
    )
    for i, pair in enumerate(recipe.pairs):
        both = with_weights(denoiser, added(masked(pair.content), masked(pair.style)))
        for k, (name, own, other) in enumerate(
            (("content", pair.content, pair.style), ("style", pair.style, pair.content))
        ):
            part, generator = given.parts[own.part], Draw(5, 2).generator(2 * i + k)
            ready = drawn(denoiser, part.pictures, 2, Moves(), generator)
            sigma = ready.sigma.view(-1, 1, 1, 1)
            alone = with_weights(denoiser, deltas(part))  # I_cc or I_ss: no mask
            wanted = alone.denoise(ready.x, ready.sigma, ready.conditions)
            outputs = (both.denoise(ready.x, ready.sigma, ready.conditions) - wanted) / sigma
            rms = [row.square().mean().sqrt().item() for row in outputs]
            expected[f"like {name}"] += 2.0 * sum(rms) / len(rms)
            passing = with_weights(denoiser, masked(other))
            fused = given.fused[i].condition
            there = passing.denoise(ready.x, ready.sigma, [fused, fused])  # I_cs
            again = there + sigma * torch.randn(ready.x.shape, generator=generator)
            back = passing.denoise(again, ready.sigma, ready.conditions)  # I_csc
            passes = "style" if name == "content" else "content"
            expected[f"cycle {passes}"] += 0.3 * ((back - wanted) ** 2).mean().item()
        c, s = pair.content.masks, pair.style.masks
        content_layer = eq_1(c[STRIDED].detach(), s[STRIDED].detach(), 1.5)
        style_layer = eq_1(s[LINEAR].detach(), c[LINEAR].detach(), 1.5)
        expected["layer prior"] += 0.7 * (content_layer + style_layer) / 2
    found = recipe.backward(Draw(5, 2), 1.0)
    assert found == pytest.approx(expected, rel=1e-6)
    assert min(found.values()) > 1e-3


@pytest.mark.parametrize("prior", ["paper", "released"])
def test_the_gradient_is_that_of_finite_differences(prior):
    recipe = training(merging(("dog", "cat", "ink")), prior=prior, cycle_weight=0.5).recipe
    for name, slope, expected in slopes_match(randomised(recipe), Draw(0, 0)):
        assert slope == pytest.approx(expected, rel=1e-4, abs=1e-9), name


def test_the_layer_prior_worked_by_hand():
    """m_c = (1, -2), m_s = (3, 1): |m_c| = 3 and |m_s| = 4; lambda = 2, and a rank of 2."""
    c, s = torch.tensor([1.0, -2.0]), torch.tensor([3.0, 1.0])
    paper, released = (training(hinge_weight=2.0, prior=p).recipe for p in ("paper", "released"))
    assert paper._layer_prior(c, s).item() == pytest.approx((3 + 2 * 1) / 2)
    assert paper._layer_prior(s, c).item() == pytest.approx(4 / 2)
    by_l2 = (3 + 2 * (math.sqrt(10) - math.sqrt(5))) / 2
    assert released._layer_prior(c, s).item() == pytest.approx(by_l2)


def test_the_layer_prior_compares_shares_of_ranks_worked_by_hand():
    """Means 1 of four ranks, 1.5 of two: the sums 4 and 3 are the other way about."""
    wide, narrow = torch.ones(4), torch.tensor([2.0, -1.0])
    paper, released = (training(hinge_weight=2.0, prior=p).recipe for p in ("paper", "released"))
    assert paper._layer_prior(wide, narrow).item() == pytest.approx(1 + 2 * (1.5 - 1))
    assert paper._layer_prior(narrow, wide).item() == pytest.approx(1.5)
    by_l2 = 1 + 2 * (math.sqrt(5 / 2) - math.sqrt(4 / 4)) / math.sqrt(4)
    assert released._layer_prior(wide, narrow).item() == pytest.approx(by_l2)


def random_mask(rank, seed):
    return torch.randn(rank, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("prior", ["paper", "released"])
@pytest.mark.parametrize("ranks", [(64, 64), (64, 4), (4, 64), (1, 7)])
def test_masks_of_ones_are_even_whatever_the_ranks(prior, ranks):
    """No LoRA has more of itself than the other, so the prior is the sparsity alone: 1."""
    recipe = training(hinge_weight=2.0, prior=prior).recipe
    dominant, other = map(torch.ones, ranks)
    assert recipe._layer_prior(dominant, other).item() == pytest.approx(1.0)


@pytest.mark.parametrize("prior", ["paper", "released"])
def test_a_lora_with_each_rank_twice_is_no_larger(prior):
    """m and (m, m) are one LoRA at two ranks."""
    recipe = training(hinge_weight=2.0, prior=prior).recipe
    dominant, other = random_mask(6, 1), random_mask(5, 2)
    expected = recipe._layer_prior(dominant, other).item()
    assert recipe._layer_prior(dominant, other.repeat(2)).item() == pytest.approx(expected)


def test_with_equal_ranks_the_priors_are_eq_1_and_the_release_over_the_rank():
    """The release: hinge_weight (|other|_2 - |dominant|_2) + the sum of |dominant|."""
    paper, released = (training(hinge_weight=1.5, prior=p).recipe for p in ("paper", "released"))
    for seed in range(4):
        m, n = random_mask(64, seed), random_mask(64, seed + 10)
        release = m.abs().sum() + 1.5 * (torch.linalg.svdvals(n[:, None]).sum()
                                         - torch.linalg.svdvals(m[:, None]).sum())  # fmt: skip
        assert released._layer_prior(m, n).item() == pytest.approx(release.item() / 64, rel=1e-5)
        assert paper._layer_prior(m, n).item() == pytest.approx(eq_1(m, n, 1.5), rel=1e-5)


@pytest.mark.parametrize("ranks", [(8, 8), (32, 4), (4, 32)])
def test_the_prior_alone_gives_a_layer_to_its_own_lora(ranks):
    """From masks of the other LoRA that are larger, until they are not."""
    one = training(
        of_ranks(*ranks), steps=80, distillation_weight=0.0, cycle_weight=0.0,
        initialisation="ones",
    )  # fmt: skip
    (pair,) = one.recipe.pairs
    owned = [(STRIDED, pair.content, pair.style), (LINEAR, pair.style, pair.content)]
    for path, _, other in owned:
        other.masks[path].data *= 1.5
    one.run()
    for path, own, other in owned:
        kept, left = (side.masks[path].abs().mean().item() for side in (own, other))
        assert left < 1.4 and left < kept + 0.05 and kept > 0.9


@pytest.mark.parametrize("ranks", [(8, 8), (32, 4), (4, 32)])
def test_the_prior_keeps_equal_masks_together_whatever_the_ranks(ranks):
    """From equal masks it takes nothing from one LoRA that it leaves to the other."""
    one = training(
        of_ranks(*ranks), steps=40, distillation_weight=0.0, cycle_weight=0.0,
        initialisation="ones",
    )  # fmt: skip
    one.run()
    (pair,) = one.recipe.pairs
    for path, own, other in ((STRIDED, pair.content, pair.style),
                             (LINEAR, pair.style, pair.content)):  # fmt: skip
        kept, left = (side.masks[path].abs().mean().item() for side in (own, other))
        assert kept == pytest.approx(left, abs=0.1)


def test_a_layer_without_a_dominant_lora_has_no_prior():
    one = training(steps=5, distillation_weight=0.0, cycle_weight=0.0)
    one.run()
    untouched = one.recipe.pairs[0].style.masks["blocks.0.out"]
    assert torch.equal(untouched, torch.ones_like(untouched))


def test_masks_start_with_more_ones_for_the_dominant_lora():
    generator = torch.Generator().manual_seed(0)
    dominant, other = Start(True, 0.75, 0.5, 0).masks(8, 8, generator)
    assert dominant.sum() == 6 and other.sum() == 4
    assert set(torch.cat([dominant, other]).tolist()) == {0.0, 1.0}
    assert bool((dominant >= other).all())
    for equal in (Start(True, 0.5, 0.5, 0), Start(False, 0.75, 0.5, 0)):
        assert all(bool((mask == 1).all()) for mask in equal.masks(8, 8, generator))


@pytest.mark.parametrize("rank, dominant, other", [(1, 1, 1), (2, 2, 1), (3, 2, 1), (6, 5, 3)])
def test_small_ranks_start_with_more_ones_too_and_none_with_zeros(rank, dominant, other):
    """0.75 and 0.5 of one: a half each way, and at least one; of three 2.25 and 1.5."""
    masks = Start(True, 0.75, 0.5, 0).masks(rank, rank, torch.Generator().manual_seed(0))
    assert [int(mask.sum()) for mask in masks] == [dominant, other]


def test_unequal_ranks_start_with_the_shares_of_their_own():
    for ranks, ones in (((64, 8), [48, 4]), ((4, 32), [3, 16])):
        masks = Start(True, 0.75, 0.5, 0).masks(*ranks, torch.Generator().manual_seed(0))
        assert [int(mask.sum()) for mask in masks] == ones


def test_the_start_follows_the_layers_and_the_seed():
    (pair,) = training(seed=4).recipe.pairs
    assert pair.content.masks[STRIDED].sum() == 3 and pair.style.masks[STRIDED].sum() == 2
    assert pair.style.masks[LINEAR].sum() == 5  # of 6, both its updates: 4.5 in its favour
    assert pair.content.masks[LINEAR].sum() == 2
    assert bool((pair.content.masks["conv_in"] == 1).all())
    same, other = (training(seed=seed).recipe.pairs[0].style.masks for seed in (4, 5))
    assert all(torch.equal(same[path], pair.style.masks[path]) for path in same)
    assert any(not torch.equal(same[path], other[path]) for path in same)


def test_masks_of_one_are_the_direct_merge(tmp_path):
    given, layers = merging(), ToyDenoiser().layers
    training(given, initialisation="ones").write(tmp_path / "a.safetensors")
    direct = added(*map(deltas, given.parts))
    found = read_lora(tmp_path / "a.safetensors", layers).layers
    assert set(found) == set(direct)
    for path, (one,) in found.items():
        torch.testing.assert_close(one.delta(), direct[path].float())


def test_the_file_is_what_ran(tmp_path):
    denoiser, given = ToyDenoiser(), merging()
    one = training(given, denoiser, steps=5)
    one.run()
    one.write(tmp_path / "a.safetensors")
    file = read_lora(tmp_path / "a.safetensors", denoiser.layers)
    saved = with_weights(denoiser, {path: f.delta() for path, (f,) in file.layers.items()})
    ready = drawn(denoiser, given.parts[0].pictures, 2, Moves(), Draw(0, 0).generator())
    (pair,) = one.recipe.pairs
    with denoiser.edited(masked_edits([pair.content, pair.style])):
        ran = denoiser.denoise(ready.x, ready.sigma, ready.conditions)
    torch.testing.assert_close(saved.denoise(ready.x, ready.sigma, ready.conditions), ran,
                               rtol=1e-5, atol=1e-5)  # fmt: skip


def test_several_contents_are_the_mean_of_their_merges_with_the_style(tmp_path):
    denoiser = ToyDenoiser()
    one = training(merging(("dog", "ink", "cat")), denoiser, steps=4)
    one.run()
    one.write(tmp_path / "a.safetensors")
    merges = [added(masked(pair.content), masked(pair.style)) for pair in one.recipe.pairs]
    found = read_lora(tmp_path / "a.safetensors", denoiser.layers).layers
    assert set(found) == set(added(*merges))
    for path, (saved,) in found.items():
        mean = sum(merge.get(path, 0) for merge in merges) / 2
        torch.testing.assert_close(saved.delta().double(), mean, rtol=1e-5, atol=1e-6)


def test_a_pair_learns_the_same_beside_another_as_alone():
    beside, alone = training(merging(("dog", "ink", "cat"))), training(merging(("dog", "ink")))
    beside.run()
    alone.run()
    for name, value in alone.parameters.items():
        assert torch.equal(value, beside.parameters[name]), name


def test_the_shares_of_text_encoders_are_those_of_the_layers(tmp_path):
    seen = []

    def text_encoder(shares, dtype):
        seen.append((list(shares), dtype))
        return {"lora_te_x.lora_down.weight": torch.ones(1, 2)}

    given = merging(("dog", "ink", "cat"), text_encoder=text_encoder)
    training(given).write(tmp_path / "a.safetensors")
    assert seen == [([0.5, 1.0, 0.5], torch.float32)]
    assert read_lora(tmp_path / "a.safetensors", ToyDenoiser().layers).text_encoder


def test_cycles_need_the_fused_prompt():
    with pytest.raises(CraftError, match="without a fused prompt"):
        training(merging(fused=()))
    one = training(merging(fused=()), cycle_weight=0.0, steps=1)
    one.run()
    assert not any(name.startswith("cycle") for name in one.terms)


def test_another_fused_prompt_teaches_otherwise():
    one, two = (training(merging(fused=(prompt(i),)), cycle_weight=1.0) for i in (0, 9))
    one.advance()
    two.advance()
    assert one.terms["cycle style"] != two.terms["cycle style"]
    assert one.terms["like style"] == two.terms["like style"]


@pytest.mark.parametrize("names", [("dog", "cat"), ("ink", "ink"), ("ink", "ink", "dog")])
def test_it_merges_one_style_with_contents(names):
    with pytest.raises(CraftError, match="one style with one content or several"):
        training(merging(names, fused=()))


def test_a_model_without_resolutions_has_no_prior():
    one = training(merging(content_layers=frozenset(), style_layers=frozenset()), steps=1)
    assert all(bool((mask == 1).all()) for mask in one.parameters.values())
    one.run()
    assert "layer prior" not in one.terms
    assert one.recipe.settings()["prior_layers"] == "none"
    assert training().recipe.settings()["prior_layers"] == "1 content, 1 style"
