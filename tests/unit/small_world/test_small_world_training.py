"""The parts of a training that need no host: noise levels, pool, drawing processes, precision."""

import numpy as np
import pytest
import torch

from small_world.train import data, diffusion
from small_world.train import device as devices
from small_world.vocabulary import UNKNOWN, VOCABULARY_SIZE
from small_world.world import held_out

SIGMAS = torch.logspace(-1.5, 1.8, 1000)


@pytest.mark.parametrize("kind", diffusion.NOISE)
@pytest.mark.parametrize("end", [0, 1])
def test_noise_levels_are_drawn_as_often_as_said(kind, end):
    levels = diffusion.NoiseLevels(kind, SIGMAS, torch.device("cpu"))
    drawn = levels.draw(20_000, torch.Generator().manual_seed(0), end)
    assert drawn.min() >= 0 and drawn.max() < 1000
    found = torch.bincount(drawn, minlength=1000).cumsum(0) / len(drawn)
    assert (found - levels.cumulated[end]).abs().max() < 0.01
    assert levels.cumulated[end][-1] == pytest.approx(1.0, abs=1e-5)


def test_lognormal_levels_lie_around_a_centre_that_falls_and_leave_none_out():
    levels = diffusion.NoiseLevels("lognormal", SIGMAS, torch.device("cpu"))
    centres = [
        SIGMAS[levels.draw(20_000, torch.Generator().manual_seed(0), progress)].log().median()
        for progress in (0.0, 0.5, 0.75, 1.0, 1.1)
    ]
    first, last = diffusion.CENTRES
    assert centres[0] == centres[1] == pytest.approx(first, abs=0.2)
    assert centres[3] == centres[4] == pytest.approx(last, abs=0.2)
    assert centres[0] > centres[2] > centres[3]
    assert all((one.diff() > 0).all() for one in levels.cumulated)


def test_min_snr_counts_clean_levels_less_and_keeps_the_mean():
    levels = diffusion.NoiseLevels("min-snr", SIGMAS, torch.device("cpu"))
    assert levels.weight.mean() == pytest.approx(1.0, abs=1e-4)
    best = SIGMAS[levels.weight.argmax()]
    assert best == pytest.approx(diffusion.SNR_LIMIT**-0.5, rel=0.02)
    assert levels.weight[0] < levels.weight.max() and levels.weight[-1] < levels.weight.max()


def test_the_loss_is_nothing_for_a_model_that_knows_the_picture():
    """With one picture known, v follows from the input alone."""
    image = torch.rand(1, 3, 8, 8) * 2 - 1
    levels = diffusion.NoiseLevels("uniform", SIGMAS, torch.device("cpu"))

    def knows(x, steps, context, vector):
        sigma = SIGMAS[steps].view(-1, 1, 1, 1)
        alpha = (1 + sigma**2).rsqrt()
        noise = (x / alpha - image) / sigma
        return alpha * (noise - sigma * image)

    generator = torch.Generator().manual_seed(0)
    images = image.repeat(16, 1, 1, 1)
    steps, noise = levels.draw(16, generator), torch.randn(images.shape, generator=generator)
    loss = diffusion.v_loss(knows, levels, images, None, None, steps, noise)
    assert loss < 1e-6


def test_both_attentions_are_the_same_function():
    q, k, v = (torch.randn(2, n, 64) for n in (9, 5, 5))
    first = diffusion.explicit_attention(None, q, k, v, 2)
    assert torch.allclose(first, diffusion.fused_attention(None, q, k, v, 2), atol=1e-5)


def test_half_precision_is_used_only_where_the_cpu_has_it(monkeypatch):
    cpu = torch.device("cpu")
    for has, wanted in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda has=has: has)
        assert devices.precision(cpu) == wanted
        with devices.autocast(cpu, wanted):
            assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == wanted


def test_a_chunk_is_decided_by_seed_and_number_and_shows_nothing_held_out(monkeypatch):
    monkeypatch.setattr(data, "CHUNK", 3)
    words = data.build_words()
    first, again, other = (data.captioned_chunk(0, k) for k in (5, 5, 6))
    assert np.array_equal(first[0], again[0]) and np.array_equal(first[1], again[1])
    assert not np.array_equal(first[0], other[0])
    assert first[0].shape == (3, 64, 64, 3) and first[1].shape == (3, *data.CAPTION_IDS)
    hidden = {words[name] for name in (*held_out.OBJECTS, *held_out.STYLES)}
    assert UNKNOWN not in first[1] and first[1].max() < VOCABULARY_SIZE
    assert not hidden & set(first[1].ravel().tolist())


def test_labels_name_what_was_drawn(monkeypatch):
    monkeypatch.setattr(data, "CHUNK", 4)
    _, labels = data.labelled_chunk(1, 0)
    asked = data.any_pairs(4, np.random.default_rng((1, 0)))
    assert [(data.OBJECT_NAMES[c], data.STYLE_NAMES[s]) for c, s in labels] == asked


def test_new_renders_take_the_place_of_the_oldest(monkeypatch):
    monkeypatch.setattr(data, "CHUNK", 2)
    pool = data.Pool(5, torch.device("cpu"), (1,))  # room for two chunks
    chunks = [
        (np.full((2, 64, 64, 3), 51 * k, np.uint8), np.full((2, 1), k, np.int16)) for k in (1, 2, 3)
    ]
    pool.add(chunks[:1])
    assert len(pool) == 2
    pool.add(chunks[1:])
    images, known = pool.batch(64, torch.Generator().manual_seed(0))
    assert images.shape == (64, 3, 64, 64) and set(known.ravel().tolist()) == {2, 3}
    assert torch.allclose(images[:, 0, 0, 0], known[:, 0] * 51 / 127.5 - 1)


def _numbered(seed: int, index: int) -> data.Chunk:
    return np.full((1, 1), seed), np.full((1, 1), index)


def test_drawing_processes_hand_over_every_chunk_in_order():
    farm = data.Farm(_numbered, seed=7, workers=2, first=3)
    chunks = []
    while len(chunks) < 9:
        chunks += farm.ready(wait=True)
    farm.close()
    assert [int(index[0, 0]) for _, index in chunks][:9] == list(range(3, 12))
    assert {int(seed[0, 0]) for seed, _ in chunks} == {7}
