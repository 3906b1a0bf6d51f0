"""A LoRA learns on its own layers alone: gradients, files, draws."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file
from toy_denoiser import CHANNELS, ToyDenoiser, dataset

from craft_core.errors import CraftError
from craft_core.lora import read_lora
from craft_core.training import Dataset, Example, Pictures, RoleLayers, lora
from craft_core.training.data import Moves, choose, dropped
from craft_core.training.losses import Draw, denoising_loss, draw_noise_levels, noised
from craft_core.training.recipes.lora import branch_edit
from craft_core.training.targets import trainable
from craft_core.types import Factors

SET = frozenset({"blocks.0.q", "middle_block.0"})


def trained(denoiser=None, layers=SET, steps=3, **settings):
    denoiser = denoiser or ToyDenoiser()
    given = {"rank": 2, "learning_rate": 1e-2, "batch_size": 2, "warmup": 0, "steps": steps}
    training = lora(
        denoiser, Pictures(dataset()), RoleLayers("style", layers, "mine"), **{**given, **settings}
    )
    training.run()
    return training


def test_the_file_holds_no_key_outside_the_layer_set(tmp_path):
    trained().write(tmp_path / "a.safetensors")
    stems = {key.split(".")[0] for key in load_file(tmp_path / "a.safetensors")}
    assert stems == {"lora_unet_blocks_0_q", "lora_unet_middle_block_0"}


def test_the_file_reads_back_as_what_was_trained(tmp_path):
    training = trained(save_as="fp32", alpha=3.0)
    training.write(tmp_path / "a.safetensors")
    layers = ToyDenoiser().layers
    file = read_lora(tmp_path / "a.safetensors", layers)
    assert set(file.layers) == SET and not file.unmatched
    for path in SET:
        (factors,) = file.layers[path]
        own = training.recipe.factors(path)
        assert factors.scale == 1.5
        torch.testing.assert_close(factors.delta(), own.delta().detach())


def test_the_model_gets_no_gradient_and_does_not_change():
    denoiser = ToyDenoiser()
    before = {k: v.clone() for k, v in denoiser.network.state_dict().items()}
    trained(denoiser)
    assert all(p.grad is None for p in denoiser.network.parameters())
    assert all(torch.equal(before[k], v) for k, v in denoiser.network.state_dict().items())


def test_before_the_first_step_the_model_is_as_it_was():
    denoiser = ToyDenoiser()
    recipe = lora(denoiser, Pictures(dataset()), RoleLayers("content", SET), steps=1).recipe
    x, sigma = torch.randn(2, CHANNELS, 6, 8), torch.tensor([0.5, 2.0])
    conditions = [one.condition for one in dataset().examples]
    plain = denoiser.denoise(x, sigma, conditions)
    with denoiser.edited(recipe.edits()):
        assert torch.equal(denoiser.denoise(x, sigma, conditions), plain)


@pytest.mark.parametrize("path", ["blocks.0.q", "middle_block.0", "conv_in"])
def test_a_branch_edit_is_the_weight_plus_its_delta(path):
    denoiser = ToyDenoiser(dtype=torch.float64)
    shape = denoiser.layers[path]
    generator = torch.Generator().manual_seed(1)
    down = torch.randn(3, *shape[1:], generator=generator, dtype=torch.float64)
    up = torch.randn(shape[0], 3, generator=generator, dtype=torch.float64)
    x, sigma = torch.randn(2, CHANNELS, 6, 8), torch.tensor([0.5, 2.0])
    conditions = [one.condition for one in dataset().examples]
    with denoiser.edited({path: branch_edit(Factors(down, up, 0.5))}):
        edited = denoiser.denoise(x, sigma, conditions)
    weight = denoiser.network.get_submodule(path).weight
    weight += 0.5 * (up @ down.flatten(1)).reshape(shape)
    torch.testing.assert_close(edited, denoiser.denoise(x, sigma, conditions))


def test_the_gradient_is_that_of_finite_differences():
    """Through the network, the loss weighting and both factors, in float64."""
    denoiser = ToyDenoiser(dtype=torch.float64)
    examples = dataset().examples
    latents = torch.stack([one.latent for one in examples])
    shape = denoiser.layers["middle_block.0"]
    down = torch.randn(2, *shape[1:], dtype=torch.float64, requires_grad=True)
    up = torch.randn(shape[0], 2, dtype=torch.float64, requires_grad=True)

    def loss(down, up):
        batch = noised(denoiser, latents, [e.condition for e in examples], Draw(0, 0).generator())
        with denoiser.edited({"middle_block.0": branch_edit(Factors(down, up, 0.7))}):
            return denoising_loss(denoiser, batch)[0]

    assert torch.autograd.gradcheck(loss, (down, up), atol=1e-6)


def test_only_layers_of_the_set_have_parameters():
    names = {name.split(".", 1)[1] for name in trained().parameters}
    assert names == SET


def test_training_lowers_the_loss_on_its_picture():
    picture = Example(torch.full((CHANNELS, 6, 8), 2.0), dataset().examples[0].condition)
    denoiser = ToyDenoiser()
    training = lora(
        denoiser, Pictures(Dataset((picture,))), RoleLayers("content", frozenset(denoiser.layers)),
        rank=8, steps=200, learning_rate=1e-2, batch_size=8,
    )  # fmt: skip
    training.run()
    assert sum(training.losses[-20:]) < 0.9 * sum(training.losses[:20])


def test_a_rank_above_a_layers_size_is_that_layers_size(tmp_path):
    training = trained(rank=64, save_as="fp32")
    training.write(tmp_path / "a.safetensors")
    file = read_lora(tmp_path / "a.safetensors", ToyDenoiser().layers)
    assert {path: file.layers[path][0].rank for path in SET} == dict.fromkeys(SET, 8)
    assert file.layers["middle_block.0"][0].scale == 1.0


def test_a_set_without_trainable_layers_is_an_error():
    with pytest.raises(CraftError, match="can be trained"):
        lora(ToyDenoiser(), Pictures(dataset()), RoleLayers("style", frozenset({"text"})), steps=1)


def test_trainable_layers_leave_out_embeddings_and_both_ends():
    assert list(trainable(ToyDenoiser().layers)) == ["blocks.0.q", "blocks.0.out", "middle_block.0"]


def test_prior_pictures_add_their_own_weighted_term():
    denoiser = ToyDenoiser()
    place = RoleLayers("content", SET)
    both = Pictures(dataset(), dataset(seed=9))
    one = lora(denoiser, both, place, steps=1, prior_weight=1.0, seed=1)
    two = lora(denoiser, both, place, steps=1, prior_weight=2.0, seed=1)
    one.run()
    two.run()
    assert one.terms["denoising"] == two.terms["denoising"]
    assert two.terms["prior"] == pytest.approx(2 * one.terms["prior"])
    assert "prior" not in trained().terms


def test_no_pictures_and_broken_pictures_are_errors():
    with pytest.raises(CraftError, match="no pictures"):
        Dataset(())
    broken = Example(torch.full((3, 4, 4), float("nan")), None, "cat.png")
    with pytest.raises(CraftError, match=r"cat\.png holds NaN"):
        Dataset((broken,))


def test_a_batch_has_one_shape_and_repeats_nothing_before_all_are_seen():
    small, large = dataset(3, size=(4, 4)).examples, dataset(2, size=(6, 6)).examples
    examples = [*small, *large]
    for step in range(20):
        chosen = choose(examples, 3, Draw(5, step).generator())
        assert len({examples[i].latent.shape for i in chosen}) == 1
        assert set(chosen) in ({0, 1, 2}, {3, 4})


def test_dropped_captions_need_an_empty_prompt():
    generator = Draw(0, 0).generator
    assert dropped(["a", "b"], None, 0.0, generator()) == ["a", "b"]
    assert dropped(["a", "b"], "", 1.0, generator()) == ["", ""]
    with pytest.raises(CraftError, match="caption_dropout"):
        dropped(["a"], None, 0.5, generator())


def test_moves_keep_shape_and_can_do_nothing():
    latent = torch.arange(3 * 5 * 7, dtype=torch.float32).reshape(3, 5, 7)
    picture = Example(latent, None, mirrored=latent.flip(-1))
    generator = torch.Generator().manual_seed(0)
    assert torch.equal(Moves()(picture, generator), latent)
    seen = {Moves(2, True)(picture, generator).numpy().tobytes() for _ in range(50)}
    assert len(seen) > 20
    video = Example(torch.randn(3, 2, 5, 7), None, mirrored=torch.randn(3, 2, 5, 7))
    assert Moves(1, True)(video, generator).shape == video.latent.shape


def test_a_mirrored_picture_is_the_latent_it_was_encoded_to_not_the_latent_flipped():
    """What channels hold may have a left and a right of its own."""
    picture = Example(torch.zeros(3, 4, 4), None, mirrored=torch.ones(3, 4, 4))
    generator = torch.Generator().manual_seed(0)
    drawn = [Moves(mirror=True)(picture, generator) for _ in range(40)]
    mirrored = sum(torch.equal(one, picture.mirrored) for one in drawn)
    plain = sum(torch.equal(one, picture.latent) for one in drawn)
    assert mirrored + plain == 40 and 10 < mirrored < 30
    assert all(torch.equal(Moves()(picture, generator), picture.latent) for _ in range(20))


def test_a_mirrored_latent_that_is_not_finite_is_refused():
    with pytest.raises(CraftError, match="NaN or infinity"):
        Dataset((Example(torch.zeros(3, 4, 4), None, mirrored=torch.full((3, 4, 4), torch.inf)),))


def test_noise_levels_are_stratified_over_the_models_own_table():
    sigmas = torch.arange(100, dtype=torch.float32)
    for step in range(10):
        levels = draw_noise_levels(sigmas, 4, Draw(1, step).generator())
        assert [int(level // 25) for level in levels] == [0, 1, 2, 3]


def test_streams_of_a_step_and_steps_are_independent():
    drawn = {
        torch.rand((), generator=Draw(seed, step).generator(stream)).item()
        for seed in range(3) for step in range(5) for stream in range(3)
    }  # fmt: skip
    assert len(drawn) == 45
