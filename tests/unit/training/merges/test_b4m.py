"""B4M: frozen halves that act on separate ranks, halves that learn alone, and the fusion of two."""

from __future__ import annotations

import math

import pytest
import torch
from rounding import units
from safetensors import safe_open
from toy_denoiser import CHANNELS, ToyDenoiser, dataset

from craft_core.errors import CraftError
from craft_core.lora import read_lora
from craft_core.training import LEARNED, TRAINING, HalfPictures, RoleLayers, b4m, b4m_half
from craft_core.training.losses import Draw, denoising_loss
from craft_core.training.merge import MergePart, Merging, drawn
from craft_core.training.merges.b4m import preconditioned
from craft_core.training.plp import Plp, basis_id, cut, start, starts
from craft_core.training.recipes.lora import branch_edit
from craft_core.types import Branch, Factors

Q, OUT = "blocks.0.q", "blocks.0.out"
ALL = frozenset(ToyDenoiser().layers)
SHAPES = [(8, 8), (12, 7), (7, 12), (9, 9, 1, 1), (2, 2), (40, 30)]
SMALL = {"steps": 2, "batch_size": 3, "accumulate": 2, "shift": 1}
SHARES = [0.125, 0.375, 0.5, 0.875]


def half(role="content", partners=True, layers=ALL, steps=3, **settings):
    seed = 0 if role == "content" else 5
    pictures = HalfPictures(dataset(seed=seed), dataset(3, seed=9) if partners else None)
    given = {"rank": 4, "learning_rate": 1e-2, "batch_size": 2, "warmup": 0, "save_as": "fp32"}
    return b4m_half(
        ToyDenoiser(),
        pictures,
        RoleLayers(role, layers, "all"),
        steps=steps,
        **{**given, **settings},
    )


def saved(folder, role="content", name="", **settings):
    training = half(role, **settings)
    training.run()
    path = folder / f"{name or role}.safetensors"
    path.unlink(missing_ok=True)
    training.write(path)
    return path


def part(path, role, strength=1.0):
    """A saved half as a merge gets it."""
    file = read_lora(path, ToyDenoiser().layers)
    branch = Branch(path.stem, role, file.layers, strength)
    return MergePart(branch, dataset(seed=0 if role == "content" else 5), "", file.metadata)


def pair(folder, **settings):
    roles = ("content", "style")
    return [part(saved(folder, role, **settings), role) for role in roles]


def make(parts, denoiser=None, **settings):
    given = {"steps": 0, "save_as": "fp32", "batch_size": 2, "learning_rate": 1e-2}
    return b4m(denoiser or ToyDenoiser(), Merging(tuple(parts)), **{**given, **settings})


def blocks(seed=0):
    """A layer (10, 8) of the rank 6 with random free blocks."""
    generator = torch.Generator().manual_seed(seed)
    one = start((10, 8), 6, 0.5, seed)
    up = torch.randn(one.free_up.shape, generator=generator)
    down = torch.randn(one.free_down.shape, generator=generator)
    return Plp(one.fixed_up, up, one.fixed_down, down)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("rank", [2, 5, 64])
def test_the_frozen_halves_product_is_exactly_zero_in_any_precision(shape, share, rank):
    one = start(shape, rank, share, 3)
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        product = one.fixed_up.to(dtype) @ one.fixed_down.to(dtype)
        assert product.numel() and torch.equal(product, torch.zeros_like(product))
    assert one.fixed_up.abs().sum() > 0 and one.fixed_down.abs().sum() > 0


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("share", SHARES)
def test_each_frozen_half_is_orthonormal_on_rank_columns_of_its_own(shape, share):
    one = start(shape, 6, share, 3)
    up, down = one.fixed_up, one.fixed_down.T  # (fixed outputs, rank), (fixed inputs, rank)
    own_up, own_down = up.abs().sum(0) > 0, down.abs().sum(0) > 0
    assert not (own_up & own_down).any() and (own_up | own_down).all()
    for frozen, own in ((up, own_up), (down, own_down)):
        kept = frozen[:, own]
        torch.testing.assert_close(kept.T @ kept, torch.eye(kept.shape[1]), atol=1e-6, rtol=0)


def test_the_four_blocks_of_eq_9_against_a_loop():
    one = blocks()
    delta = one.factors().delta().double()
    a, b, c, d = (t.double() for t in (one.fixed_up, one.free_up, one.fixed_down, one.free_down))
    rank = a.shape[1]
    for i in range(10):
        for j in range(8):
            row = a[i] if i < 5 else b[i - 5]
            column = c[:, j] if j < 4 else d[:, j - 4]
            wanted = sum(float(row[r] * column[r]) for r in range(rank))
            assert float(delta[i, j]) == pytest.approx(wanted, abs=1e-6)
            if i < 5 and j < 4:
                assert float(delta[i, j]) == 0.0


def test_content_alone_and_style_alone_fill_a_block_each():
    one = blocks()
    of_content, of_style = (one.alone(role).factors().delta() for role in ("content", "style"))
    assert of_content[:5].abs().sum() == 0 and of_content[5:, 4:].abs().sum() == 0
    assert of_style[:, :4].abs().sum() == 0 and of_style[5:].abs().sum() == 0
    torch.testing.assert_close(of_content[5:, :4], one.free_up @ one.fixed_down)
    torch.testing.assert_close(of_style[:5, 4:], one.fixed_up @ one.free_down)


def test_a_convolution_of_one_pixel_is_cut_like_a_linear():
    one = start((9, 6, 1, 1), 4, 0.5, 1)
    factors = one.factors()
    assert factors.down.shape == (4, 6, 1, 1) and factors.delta().shape == (9, 6, 1, 1)
    again = cut(factors, 0.5)
    assert again.kernel == (1, 1) and torch.equal(again.fixed_down, one.fixed_down)


@pytest.mark.parametrize("share", SHARES)
def test_a_stored_projection_is_cut_where_it_was_joined(share):
    one = start((11, 8), 4, share, 1)
    again = cut(one.factors(), share)
    for name in ("fixed_up", "free_up", "fixed_down", "free_down"):
        assert torch.equal(getattr(again, name), getattr(one, name))


def test_the_basis_is_named_by_all_that_makes_it():
    shapes = {Q: (8, 8), OUT: (8, 8)}
    known = basis_id(shapes, 4, 0.5, 0)
    assert known == basis_id(dict(reversed(shapes.items())), 4, 0.5, 0)  # an order is no content
    others = {
        basis_id({Q: (8, 8)}, 4, 0.5, 0), basis_id({Q: (8, 8), OUT: (8, 9)}, 4, 0.5, 0),
        basis_id(shapes, 6, 0.5, 0), basis_id(shapes, 4, 0.375, 0), basis_id(shapes, 4, 0.5, 1),
    }  # fmt: skip
    assert len(others | {known}) == 6
    first, second = starts(shapes, 4, 0.5, 0), starts(dict(reversed(shapes.items())), 4, 0.5, 0)
    assert all(torch.equal(first[path].fixed_up, second[path].fixed_up) for path in shapes)
    assert not torch.equal(first[Q].fixed_up, first[OUT].fixed_up)


@pytest.mark.parametrize("role", ["content", "style"])
@pytest.mark.parametrize("partners", [True, False])
def test_before_the_first_step_the_model_is_as_it_was_and_both_blocks_have_a_gradient(
    role, partners
):
    training = half(role, partners)
    denoiser, recipe = training.recipe.denoiser, training.recipe
    x, sigma = torch.randn(2, CHANNELS, 6, 8), torch.tensor([0.5, 2.0])
    conditions = [one.condition for one in dataset().examples]
    plain = denoiser.denoise(x, sigma, conditions)
    with denoiser.edited({p: branch_edit(b.factors()) for p, b in recipe.blocks.items()}):
        assert torch.equal(denoiser.denoise(x, sigma, conditions), plain)
    recipe.backward(Draw(0, 0), 1.0)
    assert all(value.grad.abs().sum() > 0 for value in training.parameters.values())


@pytest.mark.parametrize(("role", "own"), [("content", "up"), ("style", "down")])
def test_the_own_pictures_teach_the_own_block_and_the_partners_the_other(role, own):
    def gradients(training):
        training.recipe.backward(Draw(4, 0), 1.0)
        return {name: value.grad for name, value in training.parameters.items()}

    whole, alone = half(role), half(role, partners=False)
    for other in (whole, alone):  # from where both blocks act
        for i, one in enumerate(other.recipe.blocks.values()):
            generator = torch.Generator().manual_seed(i)
            with torch.no_grad():
                for free in (one.free_up, one.free_down):
                    free.copy_(torch.randn(free.shape, generator=generator))
    with_partners, without = gradients(whole), gradients(alone)
    assert {name.split(".")[0] for name in without} == {own}
    assert {name.split(".")[0] for name in with_partners} == {"up", "down"}
    for name, gradient in without.items():
        torch.testing.assert_close(gradient, with_partners[name])


def test_the_loss_is_eq_12_own_plus_the_mean_over_partners():
    """Partners all in one step: against a loop over them, one picture at a time."""
    training = half("content", partner_batch=3, batch_size=1)
    terms = training.recipe.backward(Draw(2, 0), 1.0)
    recipe = training.recipe
    for term, stream, data, size in (
        ("own", 0, recipe.pictures.learned, 1), ("partners", 1, recipe.pictures.partners, 3),
    ):  # fmt: skip
        ready = drawn(recipe.denoiser, data, size, recipe.moves, Draw(2, 0).generator(stream))
        errors = []
        for i in range(size):
            sigma = ready.sigma[i : i + 1]
            out = recipe.denoiser.denoise(ready.x[i : i + 1], sigma, [ready.conditions[i]])
            errors.append(float((out - ready.latent[i : i + 1]).square().mean() / sigma**2))
        assert terms[term] == pytest.approx(sum(errors) / size, rel=1e-5)


@pytest.mark.parametrize("role", ["content", "style"])
@pytest.mark.parametrize("partners", [True, False])
def test_a_half_differs_from_the_basis_in_its_own_block_alone(tmp_path, role, partners):
    path = saved(tmp_path, role, partners=partners)
    file = read_lora(path, ToyDenoiser().layers)
    assert set(file.layers) == {Q, OUT} and not file.unmatched  # square linears of the blocks
    for name, (factors,) in file.layers.items():
        one, basis = cut(factors, 0.5), starts({name: (8, 8)}, 4, 0.5, 0)[name]
        assert factors.scale == 1.0
        assert torch.equal(one.fixed_up, basis.fixed_up)
        assert torch.equal(one.fixed_down, basis.fixed_down)
        learned = one.free_up if role == "content" else one.free_down
        other = one.free_down if role == "content" else one.free_up
        assert learned.abs().sum() > 0 and other.abs().sum() == 0


def test_the_file_names_its_basis_side_and_cut(tmp_path):
    path = saved(tmp_path, "style", share=0.375, basis_seed=7)
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    assert metadata["craft_format"] == "craft_b4m_half" and metadata["craft_role"] == "style"
    assert metadata["craft_b4m_basis"] == basis_id({Q: (8, 8), OUT: (8, 8)}, 4, 0.375, 7)
    assert metadata["craft_b4m_share"] == "0.375"


def test_the_file_and_the_settings_tell_the_rank_there_is(tmp_path):
    """512 asked, and 8 x 8 layers have 4 and 4 rank columns at most."""
    path = saved(tmp_path, rank=512)
    file = read_lora(path, ToyDenoiser().layers)
    assert {one.rank for (one,) in file.layers.values()} == {8}
    assert file.metadata["ss_network_dim"] == file.metadata["ss_network_alpha"] == "8"
    wide = ToyDenoiser()
    wide.layers = {**wide.layers, OUT: (16, 16)}
    settings = b4m_half(wide, HalfPictures(dataset()), RoleLayers("content", ALL), rank=12).recipe
    assert settings.settings()["rank"] == "12" and settings.settings()["file_ranks"] == "8 12"


def test_content_and_style_of_other_seeds_and_pictures_share_a_basis(tmp_path):
    first, second = half("content", seed=1), half("style", seed=2, partners=False)
    assert first.recipe.basis_id == second.recipe.basis_id


def test_square_layers_alone_unless_asked():
    wide = ToyDenoiser()
    wide.layers = {**wide.layers, "blocks.0.q": (8, 6)}
    place, pictures = RoleLayers("content", ALL), HalfPictures(dataset())
    square = b4m_half(wide, pictures, place, rank=4)
    every = b4m_half(wide, pictures, place, rank=4, square_only=False)
    assert set(square.recipe.blocks) == {OUT} and set(every.recipe.blocks) == {Q, OUT}
    with pytest.raises(CraftError, match="turn square_only off"):
        b4m_half(wide, pictures, RoleLayers("content", frozenset({Q, "middle_block.0"})), rank=4)


@pytest.mark.parametrize("role", ["content", "style"])
@pytest.mark.parametrize("partners", [True, False])
def test_a_resumed_half_ends_with_the_bytes_of_an_uninterrupted_one(tmp_path, role, partners):
    whole = saved(tmp_path, role, partners=partners, name="whole").read_bytes()
    stopped = half(role, partners)
    stopped.advance()
    stopped.save(tmp_path / "state.safetensors")
    resumed = half(role, partners)
    resumed.resume(tmp_path / "state.safetensors")
    resumed.run()
    resumed.write(tmp_path / "resumed.safetensors")
    assert (tmp_path / "resumed.safetensors").read_bytes() == whole


def test_a_half_does_not_resume_with_other_partners(tmp_path):
    training = half()
    training.advance()
    training.save(tmp_path / "state.safetensors")
    with pytest.raises(CraftError, match="partners"):
        half(partners=False).resume(tmp_path / "state.safetensors")


@pytest.mark.parametrize("role", ["content", "style"])
def test_training_lowers_both_losses_of_eq_12(role):
    """On the same noise before and after."""
    training = half(role, steps=100, batch_size=4, rank=8)
    before = mean_terms(training)
    training.run()
    after = mean_terms(training)
    assert after.keys() == {"own", "partners"}
    assert all(after[name] < 0.99 * before[name] for name in after)


def mean_terms(training, draws=20):
    found = [training.recipe.backward(Draw(77, i), 1.0) for i in range(draws)]
    return {name: sum(one[name] for one in found) / draws for name in found[0]}


def test_without_a_step_the_fused_file_is_contents_up_with_styles_down(tmp_path):
    content, style = pair(tmp_path)
    make([content, style]).write(tmp_path / "fused.safetensors")
    fused = read_lora(tmp_path / "fused.safetensors", ToyDenoiser().layers)
    assert set(fused.layers) == {Q, OUT}
    for name, (factors,) in fused.layers.items():
        assert torch.equal(factors.up, content.branch.layers[name][0].up)
        assert torch.equal(factors.down, style.branch.layers[name][0].down)
        assert factors.scale == 1.0
    assert fused.metadata["craft_format"] == "craft_b4m_fused"
    assert fused.metadata["craft_b4m_basis"] == content.metadata["craft_b4m_basis"]


def test_the_fusion_keeps_both_halves_updates_and_adds_what_they_have_in_common(tmp_path):
    content, style = pair(tmp_path)
    blocks = make([content, style]).recipe.blocks
    for name in (Q, OUT):
        own = [p.branch.layers[name][0].delta() for p in (content, style)]
        rest = blocks[name].factors().delta().detach() - sum(own)
        torch.testing.assert_close(
            rest[4:, 4:], (blocks[name].free_up @ blocks[name].free_down).detach()
        )
        rest[4:, 4:] = 0
        assert rest.abs().max() < 1e-6


def test_without_partners_the_fusion_is_the_direct_sum_of_the_two(tmp_path):
    """Each half then learned on its own half of the rank, so B D is 0: the method's plain limit."""
    content, style = pair(tmp_path, partners=False)
    for name, one in make([content, style]).recipe.blocks.items():
        assert torch.equal(one.free_up @ one.free_down, torch.zeros(4, 4))
        direct = sum(p.branch.layers[name][0].delta() for p in (content, style))
        torch.testing.assert_close(one.factors().delta().detach(), direct)


def test_a_strength_multiplies_its_halfs_block(tmp_path):
    content = part(saved(tmp_path, "content"), "content", 0.5)
    style = part(saved(tmp_path, "style"), "style", -2.0)
    strong, plain = make([content, style]), make(pair(tmp_path))
    for name in (Q, OUT):
        one, other = (t.recipe.blocks[name] for t in (strong, plain))
        torch.testing.assert_close(one.free_up, 0.5 * other.free_up)
        torch.testing.assert_close(one.free_down, -2.0 * other.free_down)
        assert torch.equal(one.fixed_up, other.fixed_up)


@pytest.mark.parametrize("damping", [1e-3, 0.1, 10.0])
def test_the_preconditioned_gradient_against_a_dense_inverse(damping):
    one = blocks(seed=2)
    generator = torch.Generator().manual_seed(3)
    grad_up, grad_down = (
        torch.randn(t.shape, generator=generator) for t in (one.free_up, one.free_down)
    )
    found = preconditioned(one, grad_up, grad_down, damping)
    b, d = one.free_up.double().numpy(), one.free_down.double().numpy()
    rank = b.shape[1]
    by_content, by_style = (
        [[sum(x[i] * y[i] for i in range(len(x))) + damping * (p == q)
          for q, y in enumerate(rows)] for p, x in enumerate(rows)]
        for rows in (b.T, d)
    )  # fmt: skip
    inverse_content = torch.tensor(by_content, dtype=torch.float64).inverse()  # (rank, rank)
    inverse_style = torch.tensor(by_style, dtype=torch.float64).inverse()
    assert inverse_content.shape == (rank, rank)
    wanted = grad_up.double() @ inverse_style, inverse_content @ grad_down.double()
    inverses = inverse_style, inverse_content
    for got, dense, inverse in zip(found, wanted, inverses, strict=True):
        # A solution's rounding is that of its matrix times the matrix's condition number.
        assert units(got, dense) <= 4 * torch.linalg.cond(inverse)


def test_orthonormal_halves_leave_the_gradients_as_they_are():
    """B^T B = I and D D^T = I: nothing is scaled but by 1 / (1 + damping)."""
    generator = torch.Generator().manual_seed(0)
    q = torch.linalg.qr(torch.randn(12, 4, generator=generator)).Q
    one = Plp(torch.zeros(12, 4), q, torch.zeros(4, 12), q.T.contiguous())
    grad_up, grad_down = torch.randn(12, 4), torch.randn(4, 12)
    found = preconditioned(one, grad_up, grad_down, 0.25)
    torch.testing.assert_close(1.25 * found[0], grad_up)
    torch.testing.assert_close(1.25 * found[1], grad_down)


def test_with_much_damping_the_gradients_are_plain_ones_made_small():
    one = blocks()
    grad_up, grad_down = torch.randn(5, 6), torch.randn(6, 4)
    found = preconditioned(one, grad_up, grad_down, 1e6)
    torch.testing.assert_close(1e6 * found[0], grad_up, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(1e6 * found[1], grad_down, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("accumulate", [1, 3])
def test_a_plain_step_is_eqs_13_and_14(tmp_path, accumulate):
    """sgd: against gradients of an update written as one dense matrix, and dense inverses."""
    rate, damping = 0.3, 0.05
    training = make(pair(tmp_path), steps=1, optimiser="sgd", learning_rate=rate,
                    damping=damping, accumulate=accumulate, seed=3)  # fmt: skip
    recipe = training.recipe
    before = {p: cut(Factors(*_plain(b)), 0.5) for p, b in recipe.blocks.items()}
    dense = {p: b.factors().delta().detach().requires_grad_() for p, b in recipe.blocks.items()}
    for piece in range(accumulate):
        for stream, role in enumerate(("content", "style")):
            generator = Draw(3, piece).generator(stream)
            data = recipe.halves[role].pictures
            ready = drawn(recipe.denoiser, data, 2, recipe.moves, generator)
            with recipe.denoiser.edited({p: _dense(dense[p]) for p in dense}):
                (denoising_loss(recipe.denoiser, ready)[0] / accumulate).backward()
    training.run()
    for path, old in before.items():
        g, one = dense[path].grad, recipe.blocks[path]  # (out, n)
        up, down = old.factors().up, old.factors().down
        grad_b, grad_d = (g @ down.T)[4:], (up.T @ g)[:, 4:]
        identity = damping * torch.eye(4)
        style = (old.free_down @ old.free_down.T + identity).inverse()
        content = (old.free_up.T @ old.free_up + identity).inverse()
        close = {"rtol": 2e-3, "atol": 2e-5}
        torch.testing.assert_close(one.free_up, old.free_up - rate * grad_b @ style, **close)
        torch.testing.assert_close(one.free_down, old.free_down - rate * content @ grad_d, **close)
        assert torch.equal(one.fixed_up, old.fixed_up)
        assert torch.equal(one.fixed_down, old.fixed_down)


def _plain(one):
    found = one.factors()
    return found.down.detach().clone(), found.up.detach().clone()


def _dense(delta):
    return lambda call: call.output + call.apply(delta)


def test_without_the_preconditioner_gradients_are_plain(tmp_path):
    parts = pair(tmp_path)
    plain, damped = make(parts, precondition=False), make(parts, damping=100.0)
    for training in (plain, damped):
        training.recipe.backward(Draw(0, 0), 1.0)
    for name, value in plain.parameters.items():
        torch.testing.assert_close(100 * damped.parameters[name].grad, value.grad,
                                   rtol=0.1, atol=1e-6)  # fmt: skip


@pytest.mark.parametrize("optimiser", ["adamw", "sgd"])
def test_a_resumed_fusion_ends_with_the_bytes_of_an_uninterrupted_one(tmp_path, optimiser):
    parts = pair(tmp_path)

    def fresh():
        return make(parts, steps=4, optimiser=optimiser, mirror=True)

    whole, stopped, resumed = fresh(), fresh(), fresh()
    whole.run()
    stopped.advance()
    stopped.save(tmp_path / "state.safetensors")
    resumed.resume(tmp_path / "state.safetensors")
    resumed.run()
    for name, training in (("a", whole), ("b", resumed)):
        training.write(tmp_path / f"{name}.safetensors")
    files = [(tmp_path / f"{name}.safetensors").read_bytes() for name in "ab"]
    assert files[0] == files[1] and resumed.losses == whole.losses


def test_the_tuned_fusion_keeps_the_frozen_blocks_and_lowers_the_loss(tmp_path):
    training = make(pair(tmp_path), steps=60, batch_size=4)
    before = mean_terms(training)
    training.run()
    after = mean_terms(training)
    assert all(after[role] < before[role] for role in ("content", "style"))
    for path, one in training.recipe.blocks.items():
        basis = starts({path: (8, 8)}, 4, 0.5, 0)[path]
        assert torch.equal(one.fixed_up, basis.fixed_up)
        assert torch.equal(one.fixed_down, basis.fixed_down)


@pytest.mark.parametrize("other", [{"basis_seed": 1}, {"rank": 6}, {"share": 0.375}])
def test_halves_of_two_bases_are_refused_with_both_names(tmp_path, other):
    content = part(saved(tmp_path, "content"), "content")
    style = part(saved(tmp_path, "style", **other), "style")
    ids = [p.metadata["craft_b4m_basis"] for p in (content, style)]
    assert ids[0] != ids[1]
    with pytest.raises(CraftError, match=f"{ids[0]}.*{ids[1]}.*Train one again"):
        make([content, style])


def test_what_is_no_pair_of_halves_is_refused(tmp_path):
    content, style = pair(tmp_path)
    with pytest.raises(CraftError, match="2 content and 0 style"):
        make([content, content])
    with pytest.raises(CraftError, match="1 content and 2 style"):
        make([content, style, style])
    foreign = MergePart(style.branch, style.pictures)
    with pytest.raises(CraftError, match="style is no B4M half"):
        make([content, foreign])
    turned = Branch("turned", "style", content.branch.layers)
    with pytest.raises(CraftError, match="turned is a content half, connected as style"):
        make([content, MergePart(turned, style.pictures, "", content.metadata)])


def test_halves_whose_frozen_numbers_differ_are_refused(tmp_path):
    content, style = pair(tmp_path)
    (one,) = style.branch.layers[OUT]
    changed = {**style.branch.layers, OUT: (Factors(one.down.flip(0), one.up, one.scale),)}
    with pytest.raises(CraftError, match=rf"differ in 1 layers, such as {OUT}"):
        make(
            [content, MergePart(Branch("s", "style", changed), style.pictures, "", style.metadata)]
        )
    fewer = {Q: style.branch.layers[Q]}
    with pytest.raises(CraftError, match=rf"differ in 1 layers, such as {OUT}"):
        make([content, MergePart(Branch("s", "style", fewer), style.pictures, "", style.metadata)])


def test_halves_saved_in_other_precisions_can_be_joined(tmp_path):
    content = part(saved(tmp_path, "content", save_as="fp16"), "content")
    style = part(saved(tmp_path, "style", save_as="bf16"), "style")
    for one in make([content, style]).recipe.blocks.values():
        product = one.fixed_up @ one.fixed_down
        assert torch.equal(product, torch.zeros_like(product))


def ends(method):
    """Each knob at both ends of its range, or at every choice, the others as they are; sizes are
    held small by SMALL, and the highest rates diverge."""
    small = {*SMALL, "partner_batch", "learning_rate"}
    for p in method.parameters:
        knob = p.knob
        values = [True, False] if p.type is bool else list(knob.choices)
        if not values:
            values = [p.type(knob.minimum), p.type(knob.maximum)]
        for value in values:
            if p.name not in small:
                yield pytest.param({p.name: value}, id=f"{p.name}={value}")


@pytest.mark.parametrize("setting", list(ends(TRAINING["b4m_half"])))
@pytest.mark.parametrize("role", ["content", "style"])
def test_a_half_takes_every_knobs_ends(tmp_path, setting, role):
    path = saved(tmp_path, role, **{**SMALL, "partner_batch": 2, "warmup": 0, **setting})
    file = read_lora(path, ToyDenoiser().layers)
    for (factors,) in file.layers.values():
        assert bool(torch.isfinite(factors.delta()).all())
        share = setting.get("share", 0.5)
        rows, columns = round(8 * share), round(8 * share)
        assert factors.delta()[:rows, :columns].abs().sum() == 0


@pytest.mark.parametrize("setting", list(ends(LEARNED["b4m"])))
def test_a_fusion_takes_every_knobs_ends(tmp_path, setting):
    training = make(pair(tmp_path), **{**SMALL, **setting})
    training.run()
    training.write(tmp_path / "fused.safetensors")
    file = read_lora(tmp_path / "fused.safetensors", ToyDenoiser().layers)
    for (factors,) in file.layers.values():
        assert bool(torch.isfinite(factors.delta()).all())
        assert factors.delta()[:4, :4].abs().sum() == 0
    assert all(math.isfinite(loss) for loss in training.losses)
