"""Every measure on features: known values, bounds, and what it must not depend on."""

from __future__ import annotations

import math

import pytest
import torch
from craft_lora_pack.craft_core.errors import CraftError
from craft_lora_pack.craft_core.evaluation import (
    RoleFeatures,
    harmonic_mean,
    leakage,
    pair_columns,
    product_influence,
    relative_drop,
    share_of_way,
    similarity,
    text_similarity,
)


def features(count: int, seed: int, width: int = 16) -> torch.Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed))


def test_similarity_is_the_cosine_and_the_mean_over_references():
    pictures = torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, -2.0]])
    one = torch.tensor([[3.0, 0.0]])
    both = torch.tensor([[3.0, 0.0], [0.0, 0.1]])
    root = math.sqrt(0.5)
    torch.testing.assert_close(similarity(pictures, one), torch.tensor([1.0, root, 0.0]))
    torch.testing.assert_close(similarity(pictures, both), torch.tensor([0.5, root, -0.5]))


@pytest.mark.parametrize("measure", [similarity, leakage])
def test_a_cosine_knows_directions_alone(measure):
    pictures, references = features(5, 0), features(3, 1)
    found = measure(pictures, references)
    turn = torch.linalg.qr(features(16, 2))[0]
    rows = torch.tensor([[0.1], [2.0], [30.0]])
    assert found.shape == (5,) and found.abs().max() <= 1
    torch.testing.assert_close(measure(pictures @ turn, references @ turn), found)
    torch.testing.assert_close(measure(7 * pictures, references * rows), found)
    torch.testing.assert_close(measure(pictures, references.flip(0)), found)
    torch.testing.assert_close(measure(pictures[[3]], references), found[[3]])
    torch.testing.assert_close(similarity(pictures, pictures[[2]])[2], torch.tensor(1.0))


def test_features_in_half_precision_are_compared_in_full():
    pictures, references = features(5, 0).half(), features(3, 1).half()
    found = similarity(pictures, references)
    assert found.dtype == torch.float32
    assert torch.equal(found, similarity(pictures.float(), references.float()))


def test_no_reference_and_another_width_are_no_similarity():
    for references in (features(0, 1), features(3, 1, width=8)):
        with pytest.raises(AssertionError):
            similarity(features(5, 0), references)


def test_text_similarity_scores_the_prompt_without_its_markers():
    seen = []

    def encode(texts):
        seen.extend(texts)
        return torch.tensor([[1.0, 0.0]] * len(texts))

    pictures = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
    plain, marked = "a dog in ink style", "<c>a dog</c> in <s>ink style</s>"
    found = text_similarity(pictures, [marked], encode)
    assert torch.equal(found, torch.tensor([1.0, 0.0]))
    text_similarity(pictures, [plain, marked], encode)
    assert seen == [plain] * 3
    with pytest.raises(CraftError):
        text_similarity(pictures, ["a dog</c>"], encode)


# Content and style by CLIP, content and style by DINO, S_harm: NP-LoRA's Table I.
PUBLISHED = {
    "Direct": ((0.75, 0.55, 0.54, 0.23), 0.42),
    "B-LoRA": ((0.72, 0.55, 0.51, 0.26), 0.44),
    "ZipLoRA": ((0.75, 0.56, 0.55, 0.24), 0.44),
    "K-LoRA": ((0.76, 0.55, 0.57, 0.22), 0.42),
    "LoRA.rar": ((0.70, 0.53, 0.50, 0.30), 0.46),
    "NP-LoRA": ((0.73, 0.59, 0.52, 0.33), 0.50),
}


@pytest.mark.parametrize("method", PUBLISHED)
def test_the_harmonic_mean_is_the_published_one(method):
    """As far as two digits of each score say."""
    scores, published = PUBLISHED[method]
    found = harmonic_mean([torch.tensor(score) for score in scores])
    assert abs(float(found) - published) < 0.01


def test_the_harmonic_mean_lies_between_the_worst_and_the_mean():
    scores = torch.rand(4, 50, generator=torch.Generator().manual_seed(0)) + 1e-3
    found = harmonic_mean(tuple(scores))
    assert (found >= scores.amin(0) - 1e-6).all() and (found <= scores.mean(0) + 1e-6).all()
    torch.testing.assert_close(harmonic_mean([scores[0]] * 3), scores[0])
    torch.testing.assert_close(harmonic_mean(tuple(scores.flip(0))), found)


@pytest.mark.parametrize("worst", [0.0, -0.3])
def test_the_harmonic_mean_is_nothing_where_a_score_is(worst):
    scores = (torch.tensor([worst, 0.5]), torch.tensor([0.9, 0.5]))
    torch.testing.assert_close(harmonic_mean(scores), torch.tensor([0.0, 0.5]))
    near = harmonic_mean((torch.tensor(1e-6), torch.tensor(0.9)))
    assert 0 < near < 1e-5


def test_weights_of_the_harmonic_mean_by_hand():
    """4 / (1 / .5 + 3 / .25) = 2 / 7; equal weights are none, and a weight of 0 leaves a score
    out, whatever it is."""
    scores = (torch.tensor([0.5, 0.5]), torch.tensor([0.25, -1.0]))
    torch.testing.assert_close(harmonic_mean(scores, (1, 3)), torch.tensor([2 / 7, 0.0]))
    assert torch.equal(harmonic_mean(scores, (2.0, 2.0)), harmonic_mean(scores))
    assert torch.equal(harmonic_mean(scores, (1, 0)), scores[0])
    for weights in ((0, 0), (1, -1)):
        with pytest.raises(AssertionError):
            harmonic_mean(scores, weights)


def test_both_cross_influences_by_hand():
    content, style = torch.tensor([0.6, 0.8]), torch.tensor([0.5, 0.4])
    drop = relative_drop(content, style, torch.tensor(0.8), torch.tensor(0.5))
    torch.testing.assert_close(drop, torch.tensor([0.125, 0.1]))
    torch.testing.assert_close(product_influence(content, style), torch.tensor([0.3, 0.32]))


def test_nothing_lost_is_no_drop_and_a_nearer_picture_has_the_larger_product():
    """The two readings go opposite ways."""
    content, style = features(5, 0).abs()[:, 0], features(5, 1).abs()[:, 0]
    assert torch.equal(relative_drop(content, style, content, style), torch.zeros(5))
    nearer = (content * 1.1, style * 1.1)
    assert (relative_drop(*nearer, content, style) < 0).all()
    assert (product_influence(*nearer) > product_influence(content, style)).all()


def test_the_share_of_the_way_is_nothing_without_and_all_at_the_truth():
    without, truth = torch.tensor(0.6), torch.tensor(0.8)
    found = share_of_way(torch.tensor([0.6, 0.8, 0.7, 0.5]), without, truth)
    torch.testing.assert_close(found, torch.tensor([0.0, 1.0, 0.5, -0.5]))
    moved = share_of_way(3 * torch.tensor([0.7]) + 1, 3 * without + 1, 3 * truth + 1)
    torch.testing.assert_close(moved, torch.tensor([0.5]))
    assert share_of_way(truth, truth, truth).isnan()


def test_the_columns_of_a_pair_are_its_measures():
    content, style = features(4, 0).abs(), features(4, 1).abs()
    own, other = features(2, 2).abs(), features(1, 3).abs()
    roles = {"content": RoleFeatures(content, own, other), "style": RoleFeatures(style, other)}
    columns = pair_columns(roles)
    assert list(columns) == ["content", "style", "harmonic mean", "content leak"]
    assert torch.equal(columns["content"], similarity(content, own))
    assert torch.equal(columns["style"], similarity(style, other))
    assert torch.equal(columns["content leak"], leakage(content, other))
    both = (columns["content"], columns["style"])
    assert torch.equal(columns["harmonic mean"], harmonic_mean(both))
    assert list(pair_columns({"style": roles["style"]})) == ["style"]
    alone = {"content": RoleFeatures(content, None, other), "style": roles["style"]}
    assert list(pair_columns(alone)) == ["style", "content leak"]
