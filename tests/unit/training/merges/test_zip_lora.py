"""ZipLoRA: the loss as its paper writes it, and its limits."""

from __future__ import annotations

import itertools

import pytest
import torch
from merge_parts import (
    FIRST,
    LINEAR,
    OTHER_LINEAR,
    STRIDED,
    added,
    deltas,
    merging,
    randomised,
    slopes_match,
    with_weights,
)
from toy_denoiser import ToyDenoiser

from craft_core.lora import read_lora
from craft_core.training import LEARNED, MergePart, Merging, zip_lora
from craft_core.training.data import Moves
from craft_core.training.losses import Draw
from craft_core.training.merge import drawn
from craft_core.types import Branch, Factors


def training(given=None, denoiser=None, **settings):
    denoiser = denoiser or ToyDenoiser(dtype=torch.float64)
    settings = {"steps": 3, "batch_size": 2, "save_as": "fp32", **settings}
    return zip_lora(denoiser, given or merging(), "base", **settings)


def columns(given, recipe):
    """The merged dW: every column of every LoRA's dW times its coefficient."""
    tables = []
    for part, masks in zip(given.parts, recipe.masks, strict=True):
        tables.append({path: delta * masks[path].detach() for path, delta in deltas(part).items()})
    return added(*tables)


@pytest.mark.parametrize("similarity", ["dot", "cosine"])
@pytest.mark.parametrize("names", [("dog", "ink"), ("dog", "ink", "cat")])
def test_the_loss_is_the_papers_on_dense_weights(names, similarity):
    denoiser, given = ToyDenoiser(dtype=torch.float64), merging(names)
    recipe = training(given, denoiser, similarity=similarity, similarity_weight=0.3).recipe
    randomised(recipe)
    merged = with_weights(denoiser, columns(given, recipe))
    expected = {}
    terms = ["like content", "like style"]
    if len(names) == 3:
        terms = ["like content 1", "like style", "like content 2"]
    for j, part in enumerate(given.parts):
        ready = drawn(denoiser, part.pictures, 2, Moves(), Draw(5, 2).generator(j))
        alone = with_weights(denoiser, deltas(part))
        ours, wanted = (m.denoise(ready.x, ready.sigma, ready.conditions) for m in (merged, alone))
        outputs = (ours - wanted) / ready.sigma.view(-1, 1, 1, 1)  # x - sigma * network(x)
        expected[terms[j]] = float((outputs**2).mean())
    total = 0.0
    for one, two in itertools.combinations(recipe.masks, 2):
        shared = sorted(set(one) & set(two))
        for path in shared:
            a, b = (m[path].detach().flatten().tolist() for m in (one, two))
            dot = abs(sum(x * y for x, y in zip(a, b, strict=True)))
            norms = (sum(x * x for x in a) * sum(y * y for y in b)) ** 0.5
            total += (dot / norms if similarity == "cosine" else dot / len(a)) / len(shared)
    expected["similarity"] = 0.3 * total
    found = recipe.backward(Draw(5, 2), 1.0)
    assert found == pytest.approx(expected, rel=1e-6)
    assert min(found.values()) > 1e-3


@pytest.mark.parametrize("similarity", ["dot", "cosine"])
def test_the_gradient_is_that_of_finite_differences(similarity):
    recipe = randomised(training(merging(("dog", "ink", "cat")), similarity=similarity).recipe)
    for name, slope, expected in slopes_match(recipe, Draw(0, 0)):
        assert slope == pytest.approx(expected, rel=1e-4, abs=1e-9), name


def test_a_coefficient_multiplies_its_column_worked_by_hand(tmp_path):
    """dW_c = [[2, 4], [6, 12]], dW_s = [[0, 1], [0, 3]]; m_c = (1, 1/2), m_s = (5, 2)."""
    denoiser = ToyDenoiser()
    denoiser.layers = {"l": (2, 2)}
    content = Factors(torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0], [3.0]]), 2.0)
    style = Factors(torch.tensor([[0.0, 1.0]]), torch.tensor([[1.0], [3.0]]), 1.0)
    loras = [("dog", "content", content), ("ink", "style", style)]
    pictures = merging().parts[0].pictures
    parts = tuple(MergePart(Branch(name, role, {"l": (f,)}), pictures) for name, role, f in loras)
    one = training(Merging(parts), denoiser)
    one.recipe.masks[0]["l"].data = torch.tensor([1.0, 0.5])
    one.recipe.masks[1]["l"].data = torch.tensor([5.0, 2.0])
    assert one.recipe.columns_meet().item() == pytest.approx((1 * 5 + 0.5 * 2) / 2)
    one.write(tmp_path / "a.safetensors")
    (saved,) = read_lora(tmp_path / "a.safetensors", denoiser.layers).layers["l"]
    assert saved.rank == 2
    torch.testing.assert_close(saved.delta(), torch.tensor([[2.0, 4.0], [6.0, 12.0]]))


@pytest.mark.parametrize("similarity, met", [("dot", 4 / 2), ("cosine", 4 / (5 * 3.25) ** 0.5)])
def test_columns_that_point_against_each_other_meet_as_well(similarity, met):
    """m_c = (1, -2), m_s = (-1, 1.5): |-1 - 3| = 4 over two columns, or over the lengths."""
    recipe = training(similarity=similarity).recipe
    for path in set(recipe.masks[0]) & set(recipe.masks[1]):
        for masks, values in zip(recipe.masks, ([1.0, -2.0], [-1.0, 1.5]), strict=True):
            masks[path].data = torch.tensor(values)
    assert recipe.columns_meet().item() == pytest.approx(met)


def test_coefficients_of_one_are_the_direct_merge(tmp_path):
    given, layers = merging(("dog", "cat", "ink")), ToyDenoiser().layers
    training(given).write(tmp_path / "a.safetensors")
    direct = added(*map(deltas, given.parts))
    found = read_lora(tmp_path / "a.safetensors", layers).layers
    assert set(found) == set(direct) == {LINEAR, OTHER_LINEAR, STRIDED, FIRST}
    for path, (one,) in found.items():
        torch.testing.assert_close(one.delta(), direct[path].float())
        assert one.rank == sum(
            f.rank for p in given.parts for f in p.branch.layers.get(path, ())
        )  # side by side, nothing approximated


def test_the_file_is_what_ran(tmp_path):
    denoiser, given = ToyDenoiser(), merging(("dog", "ink", "cat"))
    one = training(given, denoiser, steps=5)
    one.run()
    one.write(tmp_path / "a.safetensors")
    file = read_lora(tmp_path / "a.safetensors", denoiser.layers)
    saved = with_weights(denoiser, {path: f.delta() for path, (f,) in file.layers.items()})
    ready = drawn(denoiser, given.parts[0].pictures, 2, Moves(), Draw(0, 0).generator())
    with denoiser.edited({path: one.recipe._edit(path) for path in file.layers}):
        ran = denoiser.denoise(ready.x, ready.sigma, ready.conditions)
    torch.testing.assert_close(saved.denoise(ready.x, ready.sigma, ready.conditions), ran,
                               rtol=1e-5, atol=1e-5)  # fmt: skip


def test_training_brings_the_merge_nearer_to_each_lora_alone():
    one = training(steps=60, similarity_weight=0.0, batch_size=4)
    one.run()
    assert sum(one.losses[-10:]) < 0.5 * sum(one.losses[:10])


def test_a_larger_lambda_keeps_the_columns_further_apart():
    found = []
    for weight in (0.0, 1.0):
        one = training(steps=60, similarity_weight=weight, similarity="cosine")
        one.run()
        found.append(one.recipe.columns_meet().item())
    assert found[1] < 0.5 * found[0]


def test_loras_that_share_no_layer_have_nothing_to_keep_apart():
    given = merging()
    apart = {OTHER_LINEAR: given.parts[1].branch.layers[OTHER_LINEAR]}
    ink = MergePart(Branch("ink", "style", apart), given.parts[1].pictures)
    one = training(Merging((given.parts[0], ink)), steps=2)
    one.run()
    assert set(one.terms) == {"like content", "like style"}


def test_the_help_says_of_what_the_papers_weight_is():
    """The paper's term is the sum over layers of |m_c . m_s|; ours that of each layer over its
    columns, as a mean over layers."""
    recipe = randomised(training(merging(("dog", "ink"))).recipe)
    content, style = recipe.masks
    shared = content.keys() & style.keys()
    products = {p: (content[p] * style[p]).sum().abs().item() for p in shared}
    met = recipe.columns_meet().item()
    means = sum(products[p] / content[p].numel() for p in shared) / len(shared)
    assert met == pytest.approx(means) and met < sum(products.values()) / 4
    texts = {parameter.name: parameter.knob.help for parameter in LEARNED["zip_lora"].parameters}
    for name in ("similarity_weight", "similarity"):
        assert "mean" in texts[name], "it is not the paper's sum"
