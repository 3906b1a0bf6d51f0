import json

import pytest
import safetensors.torch
import torch

from craft_core.errors import CraftError
from craft_core.projection import (
    Basis,
    LayerBasis,
    export_lora,
    match_layers,
    merge,
    orthonormal,
    project_out,
    read_basis,
    read_header,
    write_basis,
)

SHAPES = {"out.0": (12, 20), "conv": (8, 6, 3, 3), "a.proj": (16, 16)}


def q(rows, rank, seed):
    return orthonormal(torch.randn(rows, rank, generator=torch.Generator().manual_seed(seed)))


def example(**changes) -> Basis:
    """Three layers in an order that is not alphabetical; the last has no style basis."""
    layers = {
        "out.0": LayerBasis(q(12, 3, 1), q(12, 2, 2)),
        "conv": LayerBasis(q(8, 2, 3), q(8, 2, 4)),
        "a.proj": LayerBasis(content=q(16, 1, 5)),
    }
    return Basis(**{"layers": layers, "base_model": "abc", "metadata": {"steps": "7"}} | changes)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "basis.safetensors"


def test_what_is_written_is_read(path):
    basis = example()
    write_basis(path, basis)
    again = read_basis(path)
    assert (again.side, again.base_model, again.metadata) == ("output", "abc", {"steps": "7"})
    assert list(again.layers) == list(basis.layers)  # depth order survives
    for name, pair in basis.layers.items():
        assert torch.equal(again.layers[name].content, pair.content)
        assert (pair.style is None) == (again.layers[name].style is None)
    assert torch.equal(again.layers["conv"].style, basis.layers["conv"].style)


def test_one_tensor_may_serve_several_layers(path):
    shared = q(4, 2, 1)
    write_basis(
        path, Basis({"a": LayerBasis(shared, shared), "b": LayerBasis(style=shared[:, :1])})
    )
    assert torch.equal(read_basis(path).layers["b"].style, shared[:, :1])


def test_the_header_tells_the_ranks_without_the_tensors(path):
    write_basis(path, example(side="output"))
    header = read_header(path)
    assert header.ranks == {"out.0": (3, 2), "conv": (2, 2), "a.proj": (1, 0)}
    assert header.has("content") and header.has("style") and header.has("both")
    write_basis(path, Basis({"a.proj": LayerBasis(content=q(16, 1, 5))}))
    assert not read_header(path).has("style") and read_header(path).has("both")


def test_any_safetensors_reader_finds_the_promised_names(path):
    write_basis(path, example())
    tensors = safetensors.torch.load_file(path)
    assert sorted(tensors) == [
        "a.proj.content",
        "conv.content",
        "conv.style",
        "out.0.content",
        "out.0.style",
    ]
    with safetensors.safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    assert metadata["format"] == "craft-basis" and metadata["format_version"] == "1"
    assert json.loads(metadata["layers"]) == ["out.0", "conv", "a.proj"]
    assert json.loads(metadata["ranks"])["out.0"] == [3, 2]


def test_the_same_basis_is_the_same_bytes(path):
    texts = {"z": "1", "ä": "ä\n", "m": "2"}
    layers = {"b": LayerBasis(q(4, 2, 1), q(4, 2, 2)), "ä": LayerBasis(q(3, 1, 3))}
    written = []
    for metadata in [texts, dict(reversed(texts.items())), texts, texts]:
        write_basis(path, Basis(layers, metadata=metadata))
        written.append(path.read_bytes())
    assert len(set(written)) == 1  # safetensors alone shuffles its metadata on every call
    again = read_basis(path)
    assert again.metadata == texts and list(again.layers) == ["b", "ä"]


def test_a_failed_write_leaves_the_old_file_and_nothing_else(path, monkeypatch):
    write_basis(path, example())
    before = path.read_bytes()
    with pytest.raises(CraftError):
        write_basis(path, example(layers={"a": LayerBasis(torch.ones(4, 2))}))

    def no_disk(descriptor):
        raise OSError("no space")

    monkeypatch.setattr("os.fsync", no_disk)  # the data is written, but does not reach the disk
    with pytest.raises(CraftError, match=r"cannot be written \(no space\)"):
        write_basis(path, example())
    assert path.read_bytes() == before and list(path.parent.iterdir()) == [path]


def test_which_selects_content_style_or_the_merged_basis():
    basis = example()
    layer = basis.layers["out.0"]
    assert set(basis.select("style")) == {"out.0", "conv"}
    assert torch.equal(basis.select("content")["out.0"], layer.content)
    both = basis.select("both")
    assert torch.equal(both["out.0"], merge(layer.content, layer.style))
    assert torch.equal(both["a.proj"], basis.layers["a.proj"].content)
    with pytest.raises(CraftError, match="no style basis"):
        Basis({"a": LayerBasis(content=q(4, 1, 1))}).select("style")
    with pytest.raises(CraftError, match="content, style, both"):
        basis.select("all")


def test_matching_checks_every_size_and_names_what_is_missing():
    chosen = example().select("both")
    assert list(match_layers(chosen, SHAPES)) == list(chosen)
    fewer = {path: shape for path, shape in SHAPES.items() if path != "conv"}
    with pytest.raises(CraftError, match=r"lacks 1 of the basis's 3 layers: conv.*allow_missing"):
        match_layers(chosen, fewer)
    assert list(match_layers(chosen, fewer, allow_missing=True)) == ["out.0", "a.proj"]
    with pytest.raises(CraftError, match="lacks 3") as nothing:
        match_layers(chosen, {"other": (4, 4)}, allow_missing=True)
    assert "allow_missing" not in str(nothing.value)
    with pytest.raises(CraftError, match=r"other sizes.*conv"):
        match_layers(chosen, SHAPES | {"conv": (12, 6, 3, 3)}, allow_missing=True)
    with pytest.raises(CraftError, match=r"other sizes.*out\.0, conv"):
        match_layers(chosen, SHAPES, side="input")  # a.proj is square


@pytest.mark.parametrize("which", ["content", "style", "both"])
@pytest.mark.parametrize("side", ["output", "input"])
def test_the_exported_lora_is_the_projection(which, side):
    rows = {"output": (12, 8, 16), "input": (20, 54, 16)}[side]
    layers = {
        name: LayerBasis(q(size, 3, 1), q(size, 2, 2))
        for name, size in zip(SHAPES, rows, strict=True)
    }
    basis = Basis(layers, side=side)
    weights = {name: torch.randn(shape) for name, shape in SHAPES.items()}
    exported = export_lora(basis, weights, which, 0.7)
    for name, basis_q in basis.select(which).items():
        (factors,) = exported[name]
        expected = project_out(weights[name], basis_q, side, 0.7)
        torch.testing.assert_close(weights[name] + factors.delta(), expected, atol=1e-5, rtol=0)


def test_export_needs_the_weights_of_every_layer():
    with pytest.raises(CraftError, match=r"2 layers: conv, a\.proj"):
        export_lora(example(), {"out.0": torch.randn(12, 20)})


@pytest.mark.parametrize(
    ("basis", "message"),
    [
        (Basis({}), "no layers"),
        (Basis({"a": LayerBasis()}), "a has no basis"),
        (Basis({"a": LayerBasis(q(4, 1, 1), q(5, 1, 1))}), "different sizes"),
        (Basis({"a": LayerBasis(style=torch.ones(4, 2))}), "style basis of a is not orthonormal"),
        (Basis({"a": LayerBasis(torch.full((4, 1), float("nan")))}), "not finite"),
        (Basis({"a": LayerBasis(torch.eye(4)[0])}), "matrix"),
        (Basis({"a": LayerBasis(torch.eye(4))}, side="up"), "'output'"),
        (Basis({"a": LayerBasis(torch.eye(4))}, metadata={"ranks": ""}), "format's own"),
    ],
)
def test_an_invalid_basis_is_not_written(path, basis, message):
    with pytest.raises(CraftError, match=message):
        write_basis(path, basis)
    assert not path.exists()


def rewrite(path, change_tensors=None, **metadata):
    """The example as another writer might have spoiled it."""
    write_basis(path, example())
    tensors = safetensors.torch.load_file(path)
    with safetensors.safe_open(path, framework="pt") as file:
        texts = file.metadata() | metadata
    if change_tensors:
        change_tensors(tensors)
    safetensors.torch.save_file(
        tensors, path, {key: text for key, text in texts.items() if text is not None}
    )


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        ({"format": None}, "no basis file"),
        ({"format_version": "2"}, "format version 2"),
        ({"side": "sideways"}, "'output'"),
        ({"ranks": None}, "layers and ranks"),
        ({"ranks": "[1"}, "layers and ranks"),
        ({"layers": '["gone"]'}, "layers and ranks"),
        ({"layers": '["conv", "a.proj"]'}, "not those its metadata lists"),
        ({"change_tensors": lambda t: t.pop("conv.style")}, "not those its metadata lists"),
        ({"change_tensors": lambda t: t.update(x=torch.ones(1))}, "not those its metadata"),
        ({"change_tensors": lambda t: t["conv.style"].mul_(2)}, "style basis of conv is not"),
        ({"change_tensors": lambda t: t["conv.style"].fill_(float("nan"))}, "not finite"),
    ],
)
def test_a_spoiled_file_is_refused_by_name(path, spoil, message):
    rewrite(path, **spoil)
    with pytest.raises(CraftError, match=message):
        read_basis(path)


def test_other_files_are_refused(path):
    with pytest.raises(CraftError, match="no file"):
        read_basis(path)
    path.write_bytes(b"no safetensors at all")
    with pytest.raises(CraftError, match="damaged"):
        read_basis(path)
    write_basis(path, example())
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(CraftError, match="damaged"):
        read_basis(path)
    safetensors.torch.save_file({"lora_unet_x.lora_up.weight": torch.ones(4, 1)}, path)
    with pytest.raises(CraftError, match="LoRAs have their own loader"):
        read_header(path)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("again", [False, True])
def test_a_file_in_half_precision_is_used_as_if_it_were_exact(path, dtype, again):
    """again: it was saved once more, in float32."""
    content = q(320, 16, 1)
    turn = q(16, 16, 2)
    write_basis(path, Basis({"a": LayerBasis(content, content @ turn), "b": LayerBasis(content)}))
    tensors = {key: t.to(dtype) for key, t in safetensors.torch.load_file(path).items()}
    with safetensors.safe_open(path, framework="pt") as file:
        safetensors.torch.save_file(tensors, path, file.metadata())
    if again:
        write_basis(path, read_basis(path))
    basis = read_basis(path)
    for which, layers in (("content", "ab"), ("style", "a"), ("both", "ab")):
        chosen = basis.select(which)
        assert set(chosen) == set(layers)
        for one in chosen.values():
            assert one.shape == (320, 16)
            torch.testing.assert_close(one.T @ one, torch.eye(16), atol=2e-6, rtol=0)
    (factors,) = export_lora(basis, {"a": torch.randn(320, 9), "b": torch.randn(320, 9)})["a"]
    assert factors.rank == 16


def test_half_precision_bases_are_read_as_float32(path):
    def halve(tensors):
        tensors.update({key: value.half() for key, value in tensors.items()})

    rewrite(path, halve)
    assert read_basis(path).layers["conv"].content.dtype == torch.float32
