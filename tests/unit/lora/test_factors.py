"""Exact factors from raw tensors: shapes, scales, mid, LoHa, and what is refused."""

import math

import pytest
import torch
from raw_lora import noise
from rounding import units

from craft_core.errors import CraftError
from craft_core.lora.factors import alpha_of, combine, rounded, scale_of
from craft_core.lora.formats import AdaptedLayer, build_updates
from craft_core.lora.peft_config import Stated
from craft_core.types import Factors, LayerTarget

OUT, N, RANK = 6, 5, 2


def build(shape, rows=None, stated=None, **tensors):
    parts = {part: (f"lora_unet_a.{part}", tensor) for part, tensor in tensors.items()}
    layer = AdaptedLayer(LayerTarget("a", rows), shape, lambda: "SDXL")
    return build_updates(parts, layer, stated or Stated())[0][0]


def close(left, right):
    assert left.dtype == right.dtype and left.shape == right.shape
    assert units(left, right) <= 8


@pytest.mark.parametrize("kernel", [(), (1, 1), (3, 3), (3,), (1, 3, 5)])
@pytest.mark.parametrize("flat_down", [False, True])
@pytest.mark.parametrize("flat_up", [False, True])
def test_linear_and_convolution_factors_take_the_layers_shape(kernel, flat_down, flat_up):
    down, up = noise(RANK, N, *kernel), noise(OUT, RANK)
    factors = build(
        (OUT, N, *kernel),
        down=down.flatten(1) if flat_down else down,
        up=up if flat_up else up.reshape(OUT, RANK, *(1 for _ in kernel)),
    )
    assert factors.down.shape == (RANK, N, *kernel) and factors.up.shape == (OUT, RANK)
    assert torch.equal(factors.down, down) and torch.equal(factors.up, up)
    close(factors.delta().flatten(1), up @ down.flatten(1))


def test_a_1x1_convolution_lora_fits_a_linear_layer():
    factors = build((OUT, N), down=noise(RANK, N, 1, 1), up=noise(OUT, RANK, 1, 1))
    assert factors.down.shape == (RANK, N)


def test_a_3x3_kernel_never_passes_for_input_channels():
    with pytest.raises(CraftError, match="does not fit"):
        build((OUT, 18, 1, 1), down=noise(RANK, 2, 3, 3), up=noise(OUT, RANK, 1, 1))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.float32])
def test_a_plain_lora_keeps_its_dtype_and_bits(dtype):
    down, up = noise(RANK, N, dtype=dtype), noise(OUT, RANK, dtype=dtype)
    factors = build((OUT, N), down=down, up=up)
    assert torch.equal(factors.down, down) and factors.down.dtype == dtype
    assert torch.equal(factors.up, up) and factors.up.dtype == dtype


@pytest.mark.parametrize("alpha", [torch.tensor(1.0), torch.tensor([1.0]), torch.tensor(1)])
def test_alpha_is_divided_by_the_rank_once(alpha):
    assert build((OUT, N), down=noise(4, N), up=noise(OUT, 4), alpha=alpha).scale == 0.25


def test_without_alpha_the_scale_is_one():
    assert build((OUT, N), down=noise(4, N), up=noise(OUT, 4)).scale == 1.0


def test_the_files_alpha_wins_over_its_metadata():
    tensors = {"down": noise(4, N), "up": noise(OUT, 4)}
    stated = Stated(alpha=8.0, rank=4)
    assert build((OUT, N), stated=stated, **tensors).scale == 2.0
    assert build((OUT, N), stated=stated, alpha=torch.tensor(1.0), **tensors).scale == 0.25


def test_rank_stabilised_scale_only_where_the_metadata_says_so():
    tensors = {"down": noise(4, N), "up": noise(OUT, 4)}
    assert build((OUT, N), stated=Stated(alpha=8.0, rslora=True), **tensors).scale == 4.0


def test_a_rank_that_contradicts_the_metadata_is_refused():
    with pytest.raises(CraftError, match="rank 4, but the file's metadata says 8"):
        build((OUT, N), stated=Stated(alpha=8.0, rank=8), down=noise(4, N), up=noise(OUT, 4))


@pytest.mark.parametrize("alpha", [None, 8.0])
@pytest.mark.parametrize("rslora", [False, True])
def test_stale_metadata_says_nothing_beside_an_alpha_tensor(alpha, rslora):
    """The metadata states rank 8 for factors of rank 4, so it is of another file: its rsLoRA is
    ignored, and the alpha counts."""
    tensors = {"down": noise(4, N), "up": noise(OUT, 4), "alpha": torch.tensor(1.0)}
    stale = Stated(alpha=alpha, rank=8, rslora=rslora)
    assert build((OUT, N), stated=stale, **tensors).scale == 0.25
    hada = {
        "hada_w1_a": noise(OUT, 2),
        "hada_w1_b": noise(2, N),
        "hada_w2_a": noise(OUT, 2),
        "hada_w2_b": noise(2, N),
    }
    assert build((OUT, N), stated=stale, alpha=torch.tensor(1.0), **hada).scale == 0.5


def test_stale_metadata_without_an_alpha_leaves_the_scale_at_one():
    tensors = {"down": noise(4, N), "up": noise(OUT, 4)}
    assert build((OUT, N), stated=Stated(rank=8, rslora=True), **tensors).scale == 1.0


@pytest.mark.parametrize("kernel", [(1, 1), (3, 3), (3,)])
def test_a_tucker_mid_folds_exactly_into_down(kernel):
    ones = (1,) * len(kernel)
    down, mid, up = noise(3, N, *ones), noise(3, 3, *kernel, seed=1), noise(OUT, 3, *ones, seed=2)
    factors = build((OUT, N, *kernel), down=down, mid=mid, up=up, alpha=torch.tensor(6.0))
    expected = torch.zeros(OUT, N, *kernel)
    for m in range(3):
        for r in range(3):
            outer = torch.outer(up.flatten(1)[:, m], down.flatten(1)[r])
            expected += outer.reshape(OUT, N, *ones) * mid[m, r]
    close(factors.delta(), 2.0 * expected)


@pytest.mark.parametrize(("rank1", "rank2"), [(2, 2), (1, 2), (4, 3), (2, 3)])
@pytest.mark.parametrize("shape", [(6, 5), (5, 6), (4, 2, 3, 3), (40, 2, 3, 3)])
def test_loha_is_the_elementwise_product(rank1, rank2, shape):
    out, size = shape[0], math.prod(shape[1:])
    a1, b1 = noise(out, rank1), noise(rank1, size, seed=1)
    a2, b2 = noise(out, rank2, seed=2), noise(rank2, size, seed=3)
    factors = build(
        shape, hada_w1_a=a1, hada_w1_b=b1, hada_w2_a=a2, hada_w2_b=b2, alpha=torch.tensor(3.0)
    )
    close(factors.delta(), (3.0 / rank1 * (a1 @ b1) * (a2 @ b2)).reshape(shape))
    assert factors.rank == min(rank1 * rank2, out, size)


def test_loha_with_a_tucker_core_is_the_product_of_the_rebuilt_kernels():
    r, shape = 2, (6, 4, 3, 3)
    core1, core2 = noise(r, r, 3, 3), noise(r, r, 3, 3, seed=9)
    a1, b1, a2, b2 = noise(r, 6), noise(r, 4), noise(r, 6, seed=5), noise(r, 4, seed=6)
    factors = build(
        shape, hada_w1_a=a1, hada_w1_b=b1, hada_t1=core1, hada_w2_a=a2, hada_w2_b=b2, hada_t2=core2
    )
    full1 = torch.einsum("ijkl,jn,io->onkl", core1, b1, a1)
    full2 = torch.einsum("ijkl,jn,io->onkl", core2, b2, a2)
    close(factors.delta(), full1 * full2)


def test_a_slice_is_held_to_the_rows_it_covers():
    factors = build((9, N), rows=(3, 3), down=noise(RANK, N), up=noise(3, RANK))
    assert factors.rows == (3, 3) and factors.delta().shape == (3, N)
    with pytest.raises(CraftError, match="outputs 3 to 5 of a"):
        build((9, N), rows=(3, 3), down=noise(RANK, N), up=noise(9, RANK))


@pytest.mark.parametrize(
    "tensors",
    [
        {"down": noise(RANK, N + 1), "up": noise(OUT, RANK)},
        {"down": noise(RANK, N), "up": noise(OUT + 1, RANK)},
        {"down": noise(RANK, N), "up": noise(OUT, RANK, 3, 3)},
        {"down": noise(RANK, N, 2), "up": noise(OUT, RANK)},
        {"down": noise(N), "up": noise(OUT, RANK)},
        {"down": torch.tensor(1.0), "up": noise(OUT, RANK)},
        {"down": noise(0, N), "up": noise(OUT, 0)},
        {
            "hada_w1_a": noise(OUT + 1, 2),
            "hada_w1_b": noise(2, N),
            "hada_w2_a": noise(OUT, 2),
            "hada_w2_b": noise(2, N),
        },
        {
            "hada_w1_a": noise(OUT, 2),
            "hada_w1_b": noise(2, N),
            "hada_w2_a": noise(OUT, 2),
            "hada_w2_b": noise(2, 7),
        },
        {
            "hada_w1_a": noise(OUT, 2),
            "hada_w1_b": noise(N),
            "hada_w2_a": noise(OUT, 2),
            "hada_w2_b": noise(2, N),
        },
    ],
)
def test_a_wrong_shape_names_the_key_both_shapes_and_the_cure(tensors):
    with pytest.raises(CraftError) as caught:
        build((OUT, N), **tensors)
    text = str(caught.value)
    assert "lora_unet_a." in text and str((OUT, N)) in text and "SDXL" in text
    assert any(str(tuple(tensor.shape)) in text for tensor in tensors.values())
    assert "another base model" in caught.value.action


@pytest.mark.parametrize(
    "tensors",
    [
        {"down": noise(RANK, N), "up": noise(OUT, RANK + 1)},
        {"down": noise(RANK, N, 1, 1), "mid": noise(3, 3, 1, 1), "up": noise(OUT, RANK)},
        {"down": noise(RANK, N, 1, 1), "mid": noise(RANK, RANK), "up": noise(OUT, RANK)},
        {
            "hada_w1_a": noise(OUT, 2),
            "hada_w1_b": noise(3, N),
            "hada_w2_a": noise(OUT, 2),
            "hada_w2_b": noise(2, N),
        },
    ],
)
def test_factors_that_share_no_rank_are_refused(tensors):
    with pytest.raises(CraftError, match="do not share a rank"):
        build((OUT, N), **tensors)


@pytest.mark.parametrize(
    "parts",
    [
        ["down"],
        ["up"],
        ["up", "mid"],
        ["hada_w1_a"],
        ["hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1"],
    ]
    + [["down", "up", "hada_t1"], ["down", "up", "hada_w1_a"], ["mid"]],
)
def test_an_incomplete_or_mixed_layer_is_refused(parts):
    with pytest.raises(CraftError, match="holds just lora_unet_a"):
        build((OUT, N), **{part: noise(RANK, RANK) for part in parts})


def test_integer_factors_are_refused():
    with pytest.raises(CraftError, match="int8"):
        build((OUT, N), down=noise(RANK, N).to(torch.int8), up=noise(OUT, RANK))


def test_an_alpha_of_several_numbers_is_refused():
    with pytest.raises(CraftError, match="An alpha is one number"):
        build((OUT, N), down=noise(RANK, N), up=noise(OUT, RANK), alpha=torch.ones(2))


def test_the_inputs_are_not_written_to():
    tensors = {"down": noise(3, N, 1, 1), "mid": noise(3, 3, 1, 1), "up": noise(OUT, 3)}
    before = {part: tensor.clone() for part, tensor in tensors.items()}
    build((OUT, N, 1, 1), **tensors)
    assert all(torch.equal(before[part], tensors[part]) for part in tensors)


@pytest.mark.parametrize("rank", [1, 3, 4, 7, 16, 24, 100, 320])
@pytest.mark.parametrize("alpha", [1.0, 0.1, 3.7, 16.0, 1e-6, -2.0, 0.0])
def test_every_scale_of_a_file_has_its_alpha(alpha, rank):
    scale = scale_of(alpha, rank)
    assert scale_of(alpha_of(scale, rank), rank) == scale


def test_one_whole_update_combines_to_itself():
    factors = Factors(noise(2, N), noise(OUT, 2), 0.5)
    assert combine([factors]) is factors


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float8_e4m3fn])
def test_slices_combine_exactly_and_keep_their_dtype(dtype):
    """q and v of a fused layer: rows of q and v as they were, k untouched."""
    q = Factors(noise(2, N, dtype=dtype), noise(3, 2, dtype=dtype), 0.5, rows=(0, 3))
    v = Factors(noise(1, N, seed=7, dtype=dtype), noise(3, 1, dtype=dtype), 0.5, rows=(6, 3))
    whole = combine([q, v], out=9)
    assert whole.rank == 3 and whole.rows is None and whole.up.dtype == dtype
    delta = whole.delta()
    close(delta[0:3], q.delta())
    close(delta[6:9], v.delta())
    assert not delta[3:6].any()


def test_scales_a_power_of_two_apart_combine_bitwise():
    parts = [
        Factors(noise(2, N, seed=i).half(), noise(OUT, 2, seed=i + 5).half(), scale)
        for i, scale in enumerate((0.01, -0.04, 0.02))
    ]
    whole = combine(parts)
    assert whole.scale == -0.04
    for column, (part, ratio) in enumerate(zip(parts, (-0.25, 1.0, -0.5), strict=True)):
        stored = whole.up[:, 2 * column : 2 * column + 2]
        assert torch.equal(stored.half().double(), part.up.double() * ratio)


def test_small_scales_cost_half_precision_no_digits():
    """1e-4 times a factor of 0.01 is a subnormal in fp16; side by side each keeps its digits."""
    parts = [Factors(0.01 * noise(2, N, seed=i), 0.01 * noise(OUT, 2, seed=i + 5), scale)
             for i, scale in enumerate((1e-4, 0.7e-4))]  # fmt: skip
    whole = combine(parts)
    stored = rounded(whole, "a", torch.float16)
    lost = (whole.delta().double() - stored.delta().double()).norm() / whole.delta().norm()
    assert lost < 1e-3


def test_what_a_type_cannot_hold_is_told():
    with pytest.raises(CraftError, match="a.b does not fit float16.*bf16 or fp32"):
        rounded(Factors(noise(2, N) * 1e6, noise(OUT, 2)), "a.b", torch.float16)


def test_updates_of_different_scale_and_dtype_still_add_up():
    first = Factors(noise(2, N, 3, 3), noise(OUT, 2), 0.5)
    second = Factors(noise(1, N, 3, 3, dtype=torch.bfloat16), noise(OUT, 1), -3.0)
    close(combine([first, second]).delta(), first.delta() + second.delta())
