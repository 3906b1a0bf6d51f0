"""Writing LoRA files, and the round-trip law: what is written is read back bitwise."""

import errno
import os

import pytest
import safetensors
import safetensors.torch
import torch
from raw_lora import noise
from unet_layers import sd1_layers, unet_layers

from craft_core.errors import CraftError
from craft_core.lora import parse_lora, read_lora, write_lora
from craft_core.types import Factors, LayerTarget
from craft_core.writing import Taken

LAYERS = unet_layers((8, 16), (0, 1), 12, middle=1, linear=False)
TO_K, CONV = "input_blocks.4.1.transformer_blocks.0.attn2.to_k", "input_blocks.4.0.in_layers.2"
PROJ = "input_blocks.4.1.proj_in"
QKV = {"qkv": (9, 4)}
SPECIAL = [0.7, 1 / 3, 0.1 + 0.2, 2.0**-40, 1e-300, -0.35, 0.0, 123456.789]


def factors(path, rank=3, scale=0.5, dtype=torch.float32, layers=LAYERS):
    out, *inputs = layers[path]
    return Factors(noise(rank, *inputs, dtype=dtype), noise(out, rank, dtype=dtype), scale)


def same(left, right):
    assert left.scale == right.scale and left.rows == right.rows
    for one, other in ((left.down, right.down), (left.up, right.up)):
        assert one.dtype == other.dtype and one.shape == other.shape
        assert torch.equal(one.view(torch.uint8), other.view(torch.uint8))


@pytest.mark.parametrize(
    "dtype",
    [torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.float8_e4m3fn]
    + [torch.float8_e5m2],
)
@pytest.mark.parametrize("path", [TO_K, CONV, PROJ])
def test_factors_come_back_bitwise_in_their_dtype(tmp_path, dtype, path):
    one = factors(path, dtype=dtype)
    write_lora(tmp_path / "a.safetensors", {path: one})
    file = read_lora(tmp_path / "a.safetensors", LAYERS)
    assert list(file.layers) == [path] and not file.unmatched and not file.metadata
    same(*file.layers[path], one)


@pytest.mark.parametrize("rank", [1, 3, 4, 7])
@pytest.mark.parametrize("scale", SPECIAL)
def test_every_scale_comes_back_exactly(tmp_path, rank, scale):
    """Also those that no alpha divided by the rank gives."""
    one = factors(TO_K, rank, scale)
    write_lora(tmp_path / "a.safetensors", {TO_K: one}, metadata={"title": "t"})
    file = read_lora(tmp_path / "a.safetensors", LAYERS)
    same(*file.layers[TO_K], one)
    assert file.metadata == {"title": "t"}


def test_an_alpha_changed_afterwards_wins_over_the_exact_scale(tmp_path):
    write_lora(tmp_path / "a.safetensors", {TO_K: factors(TO_K, 3, 0.7)})
    with safetensors.safe_open(tmp_path / "a.safetensors", "pt") as file:
        state = {key: file.get_tensor(key) for key in sorted(file.keys())}
        metadata = file.metadata()
    (alpha,) = (key for key in state if key.endswith(".alpha"))
    state[alpha] = torch.tensor(6.0)
    assert parse_lora(state, metadata, LAYERS).layers[TO_K][0].scale == 2.0


def test_a_broken_table_of_exact_scales_is_refused():
    state = {"lora_unet_out_2.lora_down.weight": noise(1, 8, 3, 3)}
    state |= {"lora_unet_out_2.lora_up.weight": noise(4, 1)}
    for text in ("{", "[]", '{"a": "x"}', '{"a": 1}'):
        with pytest.raises(CraftError, match="craft_exact_scales"):
            parse_lora(state, {"craft_exact_scales": text}, LAYERS)


def test_what_is_read_can_be_written_and_read_again(tmp_path):
    layers = sd1_layers()
    paths = [path for path in layers if "attn" in path][:20] + ["conv_in", "out.2"]
    first = {path: factors(path, 2, layers=layers) for path in paths if path in layers}
    encoder = {"lora_te_text_model_encoder_layers_0_mlp_fc1.lora_down.weight": noise(2, 3)}
    write_lora(tmp_path / "a.safetensors", first, encoder, {"b": "2", "a": "1"})
    file = read_lora(tmp_path / "a.safetensors", layers)
    write_lora(tmp_path / "b.safetensors", file.layers, file.text_encoder, file.metadata)
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


def test_convolutions_are_stored_as_kohya_stores_them(tmp_path):
    write_lora(tmp_path / "a.safetensors", {CONV: factors(CONV)})
    state = safetensors.torch.load_file(tmp_path / "a.safetensors")
    stem = "lora_unet_input_blocks_4_0_in_layers_2"
    assert state[f"{stem}.lora_up.weight"].shape == (16, 3, 1, 1)
    assert state[f"{stem}.lora_down.weight"].shape == (3, 8, 3, 3)
    assert state[f"{stem}.alpha"].shape == () and state[f"{stem}.alpha"].item() == 1.5


@pytest.mark.parametrize("scales", [(0.5, 0.5, 0.5), (0.5, 0.25, -2.0)])
def test_slices_of_a_fused_layer_are_stored_as_one_full_update(tmp_path, scales):
    slices = tuple(
        Factors(noise(2, 4, seed=i), noise(3, 2, seed=i + 5), scale, rows=(3 * i, 3))
        for i, scale in enumerate(scales)
    )
    write_lora(tmp_path / "a.safetensors", {"qkv": slices[::2]}, shapes=QKV)
    ((whole,),) = read_lora(tmp_path / "a.safetensors", QKV).layers.values()
    expected = torch.zeros(9, 4)
    expected[0:3], expected[6:9] = slices[0].delta(), slices[2].delta()
    torch.testing.assert_close(whole.delta(), expected, rtol=1e-6, atol=1e-6)
    assert whole.rank == 4 and whole.rows is None
    if scales[0] == scales[2]:
        assert torch.equal(whole.up[0:3, 0:2], slices[0].up) and whole.scale == scales[0]


def test_a_slice_alone_is_embedded_bitwise(tmp_path):
    one = Factors(noise(2, 4), noise(3, 2), 0.7, rows=(3, 3))
    write_lora(tmp_path / "a.safetensors", {"qkv": (one,)}, shapes=QKV)
    ((whole,),) = read_lora(tmp_path / "a.safetensors", QKV).layers.values()
    assert torch.equal(whole.down, one.down) and torch.equal(whole.up[3:6], one.up)
    assert not whole.up[:3].any() and not whole.up[6:].any() and whole.scale == one.scale


def test_a_slice_read_under_the_hosts_name_survives_the_round_trip(tmp_path):
    extra = {"to_k": LayerTarget("qkv", (3, 3))}
    state = {"to_k.lora_A.weight": noise(2, 4), "to_k.lora_B.weight": noise(3, 2)}
    file = parse_lora(state, {}, QKV, extra)
    write_lora(tmp_path / "a.safetensors", file.layers, shapes=QKV)
    ((whole,),) = read_lora(tmp_path / "a.safetensors", QKV, extra).layers.values()
    torch.testing.assert_close(whole.delta()[3:6], file.layers["qkv"][0].delta())


def test_a_slice_without_the_full_shape_is_a_broken_invariant(tmp_path):
    one = Factors(noise(2, 4), noise(3, 2), rows=(3, 3))
    with pytest.raises(AssertionError, match="its full shape is needed"):
        write_lora(tmp_path / "a.safetensors", {"qkv": one})
    assert not list(tmp_path.iterdir())


def test_the_same_input_gives_the_same_bytes(tmp_path):
    """In whatever order it is given; the library alone shuffles the metadata at every call."""
    names = [*"abcdefgh"]
    for attempt, order in enumerate([names, names, names[::-1], names[::2] + names[1::2]]):
        layers = {name: Factors(noise(2, 3), noise(4, 2), 0.7) for name in order}
        metadata = {name: name for name in order}
        write_lora(tmp_path / f"{attempt}.safetensors", layers, metadata=metadata)
    assert len({file.read_bytes() for file in tmp_path.iterdir()}) == 1


def test_the_header_is_a_valid_aligned_safetensors_header(tmp_path):
    metadata = {"titel": "für „uns“", "json": '{"a": 1}'}
    write_lora(tmp_path / "a.safetensors", {TO_K: factors(TO_K)}, metadata=metadata)
    data = (tmp_path / "a.safetensors").read_bytes()
    assert (8 + int.from_bytes(data[:8], "little")) % 8 == 0
    assert read_lora(tmp_path / "a.safetensors", LAYERS).metadata == metadata


def test_a_peft_configuration_is_not_carried_into_a_file_with_alphas(tmp_path):
    metadata = {"lora_adapter_metadata": '{"unet.lora_alpha": 3}', "title": "t"}
    write_lora(tmp_path / "a.safetensors", {TO_K: factors(TO_K)}, metadata=metadata)
    assert read_lora(tmp_path / "a.safetensors", LAYERS).metadata == {"title": "t"}


def test_shared_strided_and_trained_tensors_are_stored(tmp_path):
    down = noise(8, 12)[:, ::1].T.contiguous().T[::4].requires_grad_()
    layers = {
        TO_K: Factors(down, noise(16, 2)),
        TO_K.replace("to_k", "to_v"): Factors(down, noise(16, 2)),
    }
    write_lora(tmp_path / "a.safetensors", layers)
    file = read_lora(tmp_path / "a.safetensors", LAYERS)
    assert all(torch.equal(one.down, down) for (one,) in file.layers.values())


@pytest.mark.parametrize(
    "one",
    [
        Factors(noise(2, 12) * float("nan"), noise(16, 2)),
        Factors(noise(2, 12), noise(16, 2) * float("inf")),
        Factors(noise(2, 12), noise(16, 2), float("nan")),
        Factors(noise(2, 12), noise(16, 2), float("inf")),
    ],
)
def test_nan_and_infinity_are_never_saved(tmp_path, one):
    with pytest.raises(CraftError, match="NaN or infinity"):
        write_lora(tmp_path / "a.safetensors", {TO_K: one})
    assert not list(tmp_path.iterdir())


def test_a_failed_write_leaves_the_old_file_and_nothing_beside_it(tmp_path, monkeypatch):
    path = tmp_path / "a.safetensors"
    write_lora(path, {TO_K: factors(TO_K)})
    before = path.read_bytes()

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CraftError, match=r"a\.safetensors cannot be written.*No space left"):
        write_lora(path, {TO_K: factors(TO_K, rank=5)})
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("links", [True, False])
def test_an_exclusive_write_never_takes_another_files_place(tmp_path, monkeypatch, links):
    def refused(*given):
        raise OSError(errno.EPERM, "Operation not permitted")

    if not links:
        monkeypatch.setattr(os, "link", refused)
    path, layers = tmp_path / "a.safetensors", {"a": Factors(noise(2, 4), noise(3, 2))}
    write_lora(path, layers, exclusive=True)
    before = path.read_bytes()
    with pytest.raises(Taken, match="is there already"):
        write_lora(path, {"a": Factors(noise(1, 4), noise(3, 1))}, exclusive=True)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]
    write_lora(path, {"a": Factors(noise(1, 4), noise(3, 1))})
    assert path.read_bytes() != before and list(tmp_path.iterdir()) == [path]


def test_a_place_that_cannot_be_written_is_one_clear_sentence(tmp_path):
    (tmp_path / "folder.safetensors").mkdir()
    for path in (tmp_path / "none" / "a.safetensors", tmp_path / "folder.safetensors"):
        with pytest.raises(CraftError, match="cannot be written"):
            write_lora(path, {TO_K: factors(TO_K)})
    with pytest.raises(CraftError, match="Choose a name that ends in .safetensors"):
        write_lora(tmp_path / "a.ckpt", {TO_K: factors(TO_K)})


def test_two_layers_never_share_a_stored_name(tmp_path):
    one = Factors(noise(2, 3), noise(4, 2))
    with pytest.raises(AssertionError, match="two layers are called lora_unet_a_b_c"):
        write_lora(tmp_path / "a.safetensors", {"a.b_c": one, "a_b.c": one})
