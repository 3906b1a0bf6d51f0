"""Layer sets by energy: disjoint, balanced, blind to size, for any architecture."""

import pytest
import torch

from craft_core.errors import CraftError
from craft_core.lora import pair_statistics
from craft_core.routing import LayerSets, split_by_energy
from craft_core.types import Branch, Factors

LAYERS = {f"blocks.{i}.{n}": (64, 48) for i in range(12) for n in ("attn.qkv", "mlp.0")}


def lora(role, seed, layers=LAYERS, rank=4, size=None, scale=1.0, dtype=torch.float32):
    random = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=random)

    made = {}
    for index, (path, shape) in enumerate(layers.items()):
        grown = size(index) if size else 1.0 + torch.rand((), generator=random).item()
        down, up = draw(rank, *shape[1:]) * grown, draw(shape[0], rank)
        made[path] = (Factors(down.to(dtype), up.to(dtype), scale),)
    return Branch(f"{role}-{seed}", role, made)


def layer_energies(content, style, path):
    """(S_c, S_s) of one layer."""
    return pair_statistics([*content, *style], [path]).shared("top_k")[path]


def test_a_hand_worked_case():
    """Layers a, b: S_c = 3, 1 and S_s = 2, 2 at K = 1, so the shares are 3/4, 1/4 and 1/2, 1/2."""

    def branch(role, a, b):
        made = {}
        for path, value in (("a", a), ("b", b)):
            up = torch.tensor([[1.0], [-value]])
            made[path] = (Factors(torch.tensor([[1.0, 0.5]]), up),)
        return Branch(role, role, made)

    content, style = branch("content", 3.0, 1.0), branch("style", 2.0, 2.0)
    assert layer_energies([content], [style], "a") == (3.0, 2.0)
    assert split_by_energy([content, style], ["a", "b"]) == ({"a"}, {"b"})


def test_k_is_the_product_of_the_ranks():
    content, style = lora("content", 0, rank=3), lora("style", 1, rank=2)
    path = next(iter(LAYERS))
    for role, branch in enumerate((content, style)):
        entries = branch.layers[path][0].delta().abs().flatten()
        expected = entries.sort(descending=True).values[:6].sum().item()
        assert layer_energies([content], [style], path)[role] == pytest.approx(expected)


@pytest.mark.parametrize("ranks", [(64, 4), (4, 64), (4, 4), (1, 1)])
def test_every_adapted_layer_is_in_exactly_one_set_and_both_roles_have_some(ranks):
    content, style = lora("content", 2, rank=ranks[0]), lora("style", 3, rank=ranks[1])
    sets = LayerSets(*split_by_energy([content, style], LAYERS))
    assert sets.content | sets.style == set(LAYERS) and not sets.overlap
    assert sets.content and sets.style


def test_a_layer_goes_to_the_role_that_is_strong_there():
    early = lora("content", 4, size=lambda i: 4.0 if i < 10 else 1.0)
    late = lora("style", 5, size=lambda i: 1.0 if i < 10 else 4.0)
    paths = list(LAYERS)
    assert split_by_energy([late, early], paths) == (set(paths[:10]), set(paths[10:]))


def test_how_large_a_lora_is_as_a_whole_changes_nothing():
    content, style = lora("content", 6), lora("style", 7)
    expected = split_by_energy([content, style], LAYERS)
    for factor in (1e-6, 0.3, -2.0, 1e6):
        scaled = lora("style", 7, scale=factor)
        assert split_by_energy([content, scaled], LAYERS) == expected
        dialled = Branch("dialled", "style", style.layers, strength=factor)
        assert split_by_energy([content, dialled], LAYERS) == expected


@pytest.mark.parametrize("factor", [1.0, 3.0, 0.1])
def test_ties_are_dealt_out_evenly(factor):
    content, style = lora("content", 8), lora("style", 8, scale=factor)
    first, second = split_by_energy([content, style], LAYERS)
    assert len(first) == len(second) == len(LAYERS) // 2
    zeros = lora("content", 8, scale=0.0), lora("style", 9, scale=0.0)
    assert [len(found) for found in split_by_energy(zeros, LAYERS)] == [len(LAYERS) // 2] * 2


def test_a_lora_of_zeros_gets_no_layer_the_other_uses():
    first, second = split_by_energy([lora("content", 8), lora("style", 9, scale=0.0)], LAYERS)
    assert first == set(LAYERS) and not second


def test_layers_only_one_role_adapts_go_to_it():
    paths = list(LAYERS)
    half = {path: LAYERS[path] for path in paths[:8]}
    first, second = split_by_energy([lora("content", 10), lora("style", 11, half)], LAYERS)
    assert set(paths[8:]) <= first and second and second < set(half)
    assert split_by_energy([lora("style", 11, half)], LAYERS) == (frozenset(), set(half))


def test_branches_of_a_role_add_up():
    content, twice = lora("content", 12), [lora("style", 13), lora("style", 14)]
    path = next(iter(LAYERS))
    parts = [layer_energies([content], [style], path)[1] for style in twice]
    assert layer_energies([content], twice, path)[1] == pytest.approx(sum(parts))
    first, second = split_by_energy([content, *twice], LAYERS)
    assert not first & second and first | second == set(LAYERS)


def test_slices_of_a_fused_layer_are_one_update():
    """In whole numbers, so that no order of adding up rounds."""
    random = torch.Generator().manual_seed(15)
    down, up = (
        torch.randint(-9, 10, shape, generator=random).float() for shape in ((4, 4), (6, 4))
    )
    whole = Branch("whole", "content", {"a": (Factors(down, up),)})
    slices = tuple(Factors(down, up[i : i + 2], 1.0, (i, 2)) for i in (0, 2, 4))
    fused = Branch("fused", "content", {"a": slices})
    other = lora("style", 16, {"a": (6, 4)})
    assert layer_energies([fused], [other], "a") == layer_energies([whole], [other], "a")


def test_convolutions_and_half_precision_files_are_compared_too():
    layers = {"a": (8, 4, 3, 3), "b": (8, 16), "c": (8, 4, 1, 1)}
    content = lora("content", 17, layers, dtype=torch.float16)
    style = lora("style", 18, layers, dtype=torch.bfloat16)
    first, second = split_by_energy([content, style], layers)
    assert first | second == set(layers) and not first & second


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused_by_name(value):
    style = lora("style", 20)
    style.layers["blocks.3.mlp.0"][0].up[1, 1] = value
    with pytest.raises(CraftError, match=r"style-20 .* blocks\.3\.mlp\.0"):
        split_by_energy([lora("content", 21), style], LAYERS)


def test_the_factors_are_not_written_to_and_need_no_gradient():
    content, style = lora("content", 22), lora("style", 23)
    before = [(f.down.clone(), f.up.clone()) for (f,) in style.layers.values()]
    for (factors,) in style.layers.values():
        factors.up.requires_grad_()
    split_by_energy([content, style], LAYERS)
    for (factors,), (down, up) in zip(style.layers.values(), before, strict=True):
        assert torch.equal(factors.down, down) and torch.equal(factors.up, up)
