"""The file of CSD, an encoder of style, from a safetensors file or a torch checkpoint.

CSD, Contrastive Style Descriptors (Somepalli et al. 2024, arXiv:2404.01292), is CLIP's picture
tower trained further, with two matrices in place of its projection:

    style = normalised(class token @ last_layer_style), content likewise by last_layer_content.

The release is a training's checkpoint: weights under `model_state_dict`, their names under
`module.`, and beside them its optimisers and settings. Conversions hold the weights alone. Names
and shapes are OpenAI's; all sizes are read from the shapes.
"""

from __future__ import annotations

import re
import struct
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from math import isqrt
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor

from ...errors import CraftError, lacks_memory, listed
from ...tensor_file import Kind, read

SAFETENSORS = (".safetensors", ".sft")
STYLE, CONTENT, TOWER = "last_layer_style", "last_layer_content", "backbone."
HEAD_WIDTH = 64  # of the tower's attention, in all of OpenAI's towers
_KIND = Kind("CSD file", "Download it again, or choose another file")
_INSIDE = ("model_state_dict", "state_dict")  # where a checkpoint keeps the weights
_BLOCKS = TOWER + "transformer.resblocks"
_UNUSED = TOWER + "proj"  # CLIP's own projection, which some conversions keep
_LAYERS = range(2, 49)  # the host looks at the last layer but one, and renames 48
_WIDTHS = range(HEAD_WIDTH, 4097, HEAD_WIDTH)
_MOST_PIXELS = 1024  # of a side of what the tower sees
_BROKEN = (
    OSError, RuntimeError, ValueError, TypeError, AttributeError, LookupError, AssertionError,
    ArithmeticError, EOFError, UnpicklingError, struct.error,
)  # fmt: skip
# What torch allows in checkpoints, it allows in the whole process, so one thread reads at a time.
_ALLOWING = threading.Lock()


@dataclass(frozen=True)
class CSDSizes:
    """Of the tower: width of its tokens, number of layers, pixels of a patch's side, patches of a
    picture's side. Of the matrices: features of style and content."""

    width: int
    layers: int
    patch: int
    grid: int
    style: int
    content: int

    @property
    def image(self) -> int:
        """Pixels of a side of the picture that the tower sees."""
        return self.grid * self.patch


@dataclass(frozen=True)
class CSDFile:
    """What is in a CSD file. tensors: by the release's names, `backbone.` and the two matrices."""

    sizes: CSDSizes
    tensors: Mapping[str, Tensor]


def read_csd(path: Path, mapped: bool = True) -> CSDFile:
    """The file, its names and shapes checked. No code that a file holds is run.

    mapped: the tensors are the file itself, mapped into memory; otherwise copies. CraftError for
    what is no CSD file, or is damaged.
    """
    given = _in_safetensors(path) if _is_safetensors(path) else _in_checkpoint(path)
    tensors = _by_release_name(path, given)
    sizes = _sizes(path, {name: tuple(one.shape) for name, one in tensors.items()})
    if sum(one.nbytes for one in tensors.values()) > path.stat().st_size:
        raise _KIND.damaged(path, "it says that it has more numbers than fit into it")
    if not mapped:
        tensors = {name: one.clone() for name, one in tensors.items()}
    return CSDFile(sizes, tensors)


def _is_safetensors(path: Path) -> bool:
    return path.name.lower().endswith(SAFETENSORS)


def _in_safetensors(path: Path) -> Mapping[str, Tensor]:
    return read(path, _KIND, mapped=True)[0]


def _in_checkpoint(path: Path) -> Mapping[str, Tensor]:
    """The weights of a torch checkpoint by the names they have there, mapped into memory."""
    with _unpickling(path):
        found: Any = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        for name in _INSIDE:
            if isinstance(found, Mapping) and isinstance(found.get(name), Mapping):
                found = found[name]
        if not isinstance(found, Mapping):
            raise _no_csd(path, "it holds no weights by name")
        for name, one in found.items():
            if not isinstance(name, str) or not _holds_numbers(one):
                shown = name[:100] if isinstance(name, str) else type(name).__name__
                raise _no_csd(path, f"{shown} is no tensor of numbers")
        # A Parameter of a file may have attributes of its own in the place of a Tensor's methods.
        return {name: Tensor.detach(one) for name, one in found.items()}


def _holds_numbers(value: Any) -> bool:
    return (
        isinstance(value, Tensor)
        and value.layout == torch.strided
        and not value.is_nested
        and value.device.type == "cpu"
    )


class _Unread:
    """In the place of what a checkpoint holds beside weights: takes anything, keeps nothing."""

    def __init__(self, *_: Any) -> None: ...

    def __setstate__(self, _: Any) -> None: ...


# The release's settings (a Namespace), and its rates of learning (numbers of numpy).
_BESIDE_WEIGHTS = tuple(
    type(name, (_Unread,), {"__module__": module})
    for module, name in (
        ("argparse", "Namespace"), ("numpy", "dtype"), ("numpy.dtypes", "Float64DType"),
        ("numpy.core.multiarray", "scalar"), ("numpy._core.multiarray", "scalar"),
    )
)  # fmt: skip


@contextmanager
def _unpickling(path: Path) -> Iterator[None]:
    """Where torch reads a checkpoint: CraftError for what it refuses or cannot read."""
    if not path.is_file():
        raise CraftError(
            f"There is no file {path}", "A CSD file is a file of models/clip_vision",
            "Check the name, and refresh the page",
        )  # fmt: skip
    if not all(hasattr(torch.serialization, one) for one in ("get_safe_globals", "safe_globals")):
        raise CraftError(
            f"{path.name} is not read: torch {torch.__version__} cannot read checkpoints safely",
            "It takes torch 2.5 or later, or a safetensors conversion of the file",
            "Update torch, or convert the file",
        )
    try:
        with _allowing():
            yield
    except CraftError:
        raise
    except UnpicklingError as error:
        raise CraftError(
            f"{path.name} is refused: {_refused(error)}",
            "Of a torch checkpoint only weights are read, since anything else may run code",
            "Use the file of CSD's release, or a safetensors conversion of it",
        ) from error
    except _BROKEN as error:
        if lacks_memory(error):
            raise
        raise CraftError(
            f"{path.name} cannot be read: it is damaged, or no torch checkpoint ({_said(error)})",
            f"{_KIND.one} is whole or not used",
            _KIND.again,
        ) from error


@contextmanager
def _allowing() -> Iterator[None]:
    """Where torch passes over what the release has beside its weights. One thread at a time."""
    with _ALLOWING:
        known = {_full_name(one) for one in torch.serialization.get_safe_globals()}
        added = [one for one in _BESIDE_WEIGHTS if _full_name(one) not in known]
        with torch.serialization.safe_globals(added):
            yield


def _full_name(one: Any) -> str:
    return one[1] if isinstance(one, tuple) else f"{one.__module__}.{one.__qualname__}"


def _said(error: Exception) -> str:
    """An error in words; its type alone where it carries what a file holds, since a small file may
    hold what has a text without end."""
    plain = all(isinstance(one, str | int | bytes | None) for one in error.args)
    return (str(error)[:200] if plain else "") or type(error).__name__


def _refused(error: UnpicklingError) -> str:
    """What torch refused, without its advice on how to load a file that is trusted."""
    asked = re.search(r"GLOBAL (\S+)", str(error))
    return f"it asks for {asked[1]}" if asked else "its list of contents is damaged"


def _by_release_name(path: Path, given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors without what stands before all names, such as `module.`."""
    prefixes = [
        name.removesuffix(STYLE)
        for name in given
        if name == STYLE or name.endswith(f".{STYLE}")
    ]  # fmt: skip
    if len(prefixes) != 1:
        raise _no_csd(path, f"it has no {STYLE}" if not prefixes else f"it has several {STYLE}")
    strange = [name for name in given if not name.startswith(prefixes[0])]
    if strange:
        raise _no_csd(path, f"it also has {listed(strange, 3)}")
    named = {name.removeprefix(prefixes[0]): one for name, one in given.items()}
    named.pop(_UNUSED, None)
    for name, one in named.items():
        if not one.is_floating_point() or one.itemsize < 2:
            raise _no_csd(path, f"{name} is of {one.dtype}")
    return named


def _sizes(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> CSDSizes:
    """The sizes of a file whose names and shapes are exactly those of a CSD file."""
    width, _, _, patch = _axes(path, shapes, f"{TOWER}conv1.weight", 4)
    positions, _ = _axes(path, shapes, f"{TOWER}positional_embedding", 2)
    style, content = (_axes(path, shapes, name, 2)[1] for name in (STYLE, CONTENT))
    blocks = {name.split(".")[3] for name in shapes if name.startswith(f"{_BLOCKS}.")}
    sizes = CSDSizes(width, len(blocks), patch, isqrt(max(0, positions - 1)), style, content)
    if sizes.layers not in _LAYERS or width not in _WIDTHS or not 0 < sizes.image <= _MOST_PIXELS:
        raise _no_csd(
            path,
            f"its tower has {sizes.layers} layers of width {width} for pictures of {sizes.image} "
            "pixels",
        )
    expected = _shapes(sizes)
    missing = [name for name in expected if name not in shapes]
    strange = [name for name in shapes if name not in expected]
    if missing or strange:
        too_much = f"it also has {listed(strange, 3)}"
        raise _no_csd(path, f"it has no {listed(missing, 3)}" if missing else too_much)
    for name, shape in expected.items():
        if shapes[name] != shape or 0 in shape:
            raise _no_csd(path, f"{name} has the shape {shapes[name]} in place of {shape}")
    return sizes


def _axes(
    path: Path, shapes: Mapping[str, tuple[int, ...]], name: str, number: int
) -> tuple[int, ...]:
    """The shape of a tensor that says sizes; CraftError unless it has that number of axes."""
    if name not in shapes:
        raise _no_csd(path, f"it has no {name}")
    if len(shapes[name]) != number:
        raise _no_csd(path, f"{name} has the shape {shapes[name]} and not {number} axes")
    return shapes[name]


def _shapes(sizes: CSDSizes) -> dict[str, tuple[int, ...]]:
    """The shape of every tensor of a CSD file by its name."""
    width, wide = sizes.width, 4 * sizes.width
    found = {
        STYLE: (width, sizes.style),
        CONTENT: (width, sizes.content),
        f"{TOWER}class_embedding": (width,),
        f"{TOWER}positional_embedding": (sizes.grid**2 + 1, width),
        f"{TOWER}conv1.weight": (width, 3, sizes.patch, sizes.patch),
    }
    norms = [f"{TOWER}ln_pre", f"{TOWER}ln_post"]
    linears: dict[str, tuple[int, int]] = {}
    for block in (f"{_BLOCKS}.{index}" for index in range(sizes.layers)):
        norms += [f"{block}.ln_1", f"{block}.ln_2"]
        found[f"{block}.attn.in_proj_weight"] = (3 * width, width)
        found[f"{block}.attn.in_proj_bias"] = (3 * width,)
        linears[f"{block}.attn.out_proj"] = (width, width)
        linears[f"{block}.mlp.c_fc"] = (wide, width)
        linears[f"{block}.mlp.c_proj"] = (width, wide)
    for name in norms:
        found[f"{name}.weight"] = found[f"{name}.bias"] = (width,)
    for name, shape in linears.items():
        found[f"{name}.weight"], found[f"{name}.bias"] = shape, shape[:1]
    return found


def _no_csd(path: Path, reason: str) -> CraftError:
    return CraftError(
        f"{path.name} is no CSD file: {reason}",
        f"A CSD file has CLIP's picture tower under {TOWER}, {STYLE} and {CONTENT}",
        "Choose the file of CSD's release or a conversion of it; CLIP, SigLIP and DINO are loaded "
        "by Load CLIP Vision",
    )
