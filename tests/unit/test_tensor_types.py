"""Files of every type of numbers that safetensors knows: read, or refused in words."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import safetensors
import torch
from safetensors import safe_open
from toy_denoiser import Pulled

from craft_core import tensor_file
from craft_core.encoder import Concept, ExpertEncoder, read_encoder, write_encoder
from craft_core.errors import CraftError, lacks_memory
from craft_core.lora import read_lora
from craft_core.lora.storage import read_tensors
from craft_core.lora.text_encoder import merge_text_encoders
from craft_core.lora.without_model import read_together
from craft_core.projection import Basis, LayerBasis, read_basis, write_basis
from craft_core.tensor_file import Kind, read
from craft_core.training import Pace, Training
from craft_core.training.perceptual import _CONVOLUTIONS, read_vgg

BITS = {
    "BOOL": 8, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8,
    "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8, "I16": 16, "U16": 16, "F16": 16, "BF16": 16,
    "I32": 32, "U32": 32, "F32": 32, "C64": 64, "F64": 64, "I64": 64, "U64": 64,
}  # fmt: skip
PLAIN = ("F16", "BF16", "F32", "F64")
BYTES = {"zeros": b"\0", "ones": b"\x01", "high": b"\x7f", "all": b"\xff"}
ANY = Kind("test file", "Make it again")


def training(optimiser: str = "adamw") -> Training:
    return Training(Pulled(4, 2), Pace(4, 0.1, optimiser=optimiser))


def state(path: Path) -> None:
    begun = training()
    begun.advance()
    begun.advance()
    begun.save(path)


def basis(path: Path) -> None:
    q = torch.eye(8, 2)
    write_basis(path, Basis({"a": LayerBasis(q, None)}, "output"))


def encoder(path: Path) -> None:
    write_encoder(path, ExpertEncoder({"content": ["a"], "style": []}, 8, [Concept((), ())]))


def lora(path: Path) -> None:
    stems = ("diffusion_model.a.to_q", "lora_te1_text_model_encoder_layers_0_mlp_fc1")
    shapes = {f"{stem}.lora_down.weight": (2, 8) for stem in stems}
    shapes |= {f"{stem}.lora_up.weight": (8, 2) for stem in stems}
    shapes |= {f"{stem}.alpha": () for stem in stems}
    tensors = {name: torch.ones(shape) for name, shape in shapes.items()}
    tensor_file.save(path, tensors, {}, "A LoRA")


def read_the_lora(path: Path) -> None:
    both = [read_lora(path, {"a.to_q": (8, 8)}, allow=allow) for allow in (False, True)]
    merge_text_encoders(both, [1.0, 1.0], torch.float16)
    read_together([(path.name, *read_tensors(path))])


KINDS: dict[str, tuple[Callable[[Path], None], Callable[[Path], object]]] = {
    "state": (state, lambda path: training().resume(path)),
    "basis": (basis, read_basis),
    "encoder": (encoder, read_encoder),
    "LoRA": (lora, read_the_lora),
    "tensors": (lora, lambda path: read(path, ANY)),
    "mapped": (lora, lambda path: read(path, ANY, mapped=True)),
}


def contents(path: Path) -> tuple[dict[str, tuple[int, ...]], dict[str, bytes], dict[str, str]]:
    """(the shapes of a sound float file's tensors, their bytes, its metadata)"""
    with safe_open(path, framework="pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        metadata = dict(file.metadata() or {})
    shapes = {key: tuple(one.shape) for key, one in tensors.items()}
    return shapes, {key: one.numpy().tobytes() for key, one in tensors.items()}, metadata


def write_as(path: Path, chosen: str, dtype: str, fill: bytes) -> None:
    """The file again, with the tensors whose name begins so in another type."""
    shapes, held, metadata = contents(path)
    header: dict[str, object] = {"__metadata__": metadata}
    data = b""
    for key, shape in shapes.items():
        piece, stored = held[key], {4: "F32", 8: "F64"}[len(held[key]) // math.prod(shape)]
        if key.startswith(chosen):
            size = -(-math.prod(shape) * BITS[dtype] // 8)
            stored, piece = dtype, (fill * size)[:size]
        span = [len(data), len(data) + len(piece)]
        header[key] = {"dtype": stored, "shape": shape, "data_offsets": span}
        data += piece
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def names(kind: str) -> list[str]:
    """Beginnings of names of tensors: all of them, and one at a time of a training state."""
    return ["", *(("parameter", "exp_avg.", "exp_avg_sq", "losses") if kind == "state" else ())]


@pytest.mark.parametrize("dtype", BITS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_file_of_any_type_is_read_or_refused_in_words(tmp_path, kind, dtype):
    write, read_it = KINDS[kind]
    for chosen in names(kind):
        for fill in BYTES.values():
            path = tmp_path / "given.safetensors"
            write(path)
            write_as(path, chosen, dtype, fill)
            try:
                read_it(path)
            except CraftError as error:
                assert error.given and error.possible and error.action


@pytest.mark.parametrize("dtype", [one for one in BITS if one not in PLAIN])
@pytest.mark.parametrize("kind", ["basis", "encoder"])
def test_what_is_no_plain_float_is_damaged(tmp_path, kind, dtype):
    """Zeros: of a basis they are refused by any type, of an encoder by none that is read."""
    write, read_it = KINDS[kind]
    path = tmp_path / "given.safetensors"
    write(path)
    write_as(path, "", dtype, b"\0")
    if kind == "encoder" and dtype.startswith("F8"):
        read_it(path)  # one number an element, which float32 holds
        return
    with pytest.raises(CraftError):
        read_it(path)


def test_float4_is_read_by_this_safetensors_or_refused_by_it(tmp_path):
    """Two numbers in an element: the ranks are those of the header, or of what is read."""
    path = tmp_path / "given.safetensors"
    entry = {"dtype": "F4", "shape": [8, 2], "data_offsets": [0, 8]}
    metadata = {"format": "craft-basis", "format_version": "1", "side": "output",
                "layers": '["a"]', "ranks": '{"a": [1, 0]}'}  # fmt: skip
    for ranks in ('{"a": [1, 0]}', '{"a": [2, 0]}'):
        header = {"__metadata__": {**metadata, "ranks": ranks}, "a.content": entry}
        text = json.dumps(header).encode()
        path.write_bytes(len(text).to_bytes(8, "little") + text + b"\x11" * 8)
        with pytest.raises(CraftError, match="damaged"):
            read_basis(path)


@pytest.mark.parametrize("dtype", BITS)
def test_a_vgg_of_any_type_is_read_or_refused_in_words(tmp_path, dtype):
    """The first convolution's alone is in the type; then the others are missing."""
    path = tmp_path / "vgg.safetensors"
    out, n = _CONVOLUTIONS[0]
    tensors = {"features.0.weight": torch.zeros(out, n, 3, 3), "features.0.bias": torch.zeros(out)}
    tensor_file.save(path, tensors, {}, "VGG-19")
    for fill in BYTES.values():
        write_as(path, "features", dtype, fill)
        with pytest.raises(CraftError):
            read_vgg(path)
        tensor_file.save(path, tensors, {}, "VGG-19")


@pytest.mark.parametrize("error", [NotImplementedError, torch.linalg.LinAlgError, RuntimeError,
                                   AttributeError, TypeError])  # fmt: skip
def test_what_torch_makes_nothing_of_is_damaged(tmp_path, monkeypatch, error):
    path = tmp_path / "given.safetensors"
    lora(path)
    monkeypatch.setattr(torch.Tensor, "clone", raising(error("no kernel for this type")))
    with pytest.raises(CraftError, match="no kernel for this type") as raised:
        read(path, ANY)
    assert "damaged" in raised.value.given and ANY.again in raised.value.action


@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("CUDA out of memory"), MemoryError(), KeyboardInterrupt(),
     RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")],
    ids=lambda one: type(one).__name__,
)  # fmt: skip
def test_lack_of_memory_and_interrupts_are_not_the_files(tmp_path, monkeypatch, error):
    path = tmp_path / "given.safetensors"
    lora(path)
    monkeypatch.setattr(torch.Tensor, "clone", raising(error))
    with pytest.raises(type(error)) as raised:
        read(path, ANY)
    assert raised.value is error
    assert lacks_memory(error) is not isinstance(error, KeyboardInterrupt)


def raising(error: BaseException) -> Callable:
    def fail(*_: object, **__: object) -> None:
        raise error

    return fail


def test_every_type_of_the_library_is_tried():
    """The library lists the types that it knows where it is given another one."""
    with pytest.raises(safetensors.SafetensorError) as raised:
        safetensors.deserialize(_header({"a": {"dtype": "X", "shape": [], "data_offsets": [0, 0]}}))
    said = str(raised.value)
    listed = {word.strip("`") for word in said.split() if word.startswith("`")}
    known = {one.strip("`,") for one in listed} - {"X"}
    assert len(known) > 10 and known <= set(BITS), said


def _header(entries: Mapping[str, object]) -> bytes:
    text = json.dumps(entries).encode()
    return len(text).to_bytes(8, "little") + text


# A training state's own numbers


def spoilt(path: Path, **changes: torch.Tensor) -> None:
    state(path)
    with safe_open(path, framework="pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        metadata = dict(file.metadata())
    tensor_file.save(path, tensors | changes, metadata, "A training state")


WIDE = torch.full((4, 2), 1e300, dtype=torch.float64)
SPOILT = {
    "a parameter beyond float32": {"parameter.a": WIDE},
    "an average beyond float32": {"exp_avg.a": WIDE},
    "a square beyond float32": {"exp_avg_sq.a": WIDE},
    "a negative square": {"exp_avg_sq.a": torch.full((4, 2), -1.0)},
    "a step beyond float32": {
        "exp_avg.a": torch.full((4, 2), 1e35), "exp_avg_sq.a": torch.zeros(4, 2)
    },
    "no numbers of a step": {"losses": torch.zeros(0, dtype=torch.float64)},
    "more steps than asked for": {"losses": torch.zeros(99, dtype=torch.float64)},
}  # fmt: skip


@pytest.mark.parametrize("changes", SPOILT.values(), ids=SPOILT)
def test_a_state_that_would_end_in_nan_is_refused_and_changes_nothing(tmp_path, changes):
    path = tmp_path / "state.safetensors"
    spoilt(path, **changes)
    resumed = training()
    before = resumed.recipe.value.detach().clone()
    with pytest.raises(CraftError, match="is damaged|holds NaN or infinity|has done 99 steps"):
        resumed.resume(path)
    assert resumed.step == 0 and not resumed.optimiser.state
    assert torch.equal(resumed.recipe.value, before)


def test_a_state_without_the_averages_of_its_steps_is_refused(tmp_path):
    """AdamW would begin them anew, and the training would end in other numbers."""
    path = tmp_path / "state.safetensors"
    state(path)
    with safe_open(path, framework="pt") as file:
        tensors = {key: file.get_tensor(key) for key in ("parameter.a", "losses")}
        metadata = dict(file.metadata())
    tensor_file.save(path, tensors, metadata, "A training state")
    with pytest.raises(CraftError, match="not those of this training"):
        training().resume(path)


@pytest.mark.parametrize("optimiser", ["adamw", "sgd"])
@pytest.mark.parametrize("steps", [0, 1, 3])
def test_what_a_training_saves_it_resumes(tmp_path, optimiser, steps):
    path = tmp_path / "state.safetensors"
    begun, resumed = training(optimiser), training(optimiser)
    for _ in range(steps):
        begun.advance()
    begun.save(path)
    resumed.resume(path)
    begun.run()
    resumed.run()
    assert torch.equal(begun.recipe.value, resumed.recipe.value)
    assert begun.losses == resumed.losses


def test_losses_of_any_size_leave_a_curve_of_numbers(tmp_path):
    path = tmp_path / "state.safetensors"
    spoilt(path, losses=torch.full((4,), 1.5e308, dtype=torch.float64))
    written: dict[str, str] = {}
    resumed = training()
    resumed.resume(path)
    resumed.losses *= 100  # several to a point
    resumed.recipe.write = lambda _, metadata: written.update(metadata)
    resumed.write(path)
    curve = json.loads(written["loss_curve"])
    assert len(curve) == 200 and all(map(math.isfinite, curve))
