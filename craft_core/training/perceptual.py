"""The perceptual term: how far two pictures are apart in what VGG-19 sees.

CRAFT-LoRA (2026), arXiv:2602.18936, App. A, Eq. 16, after Johnson et al. 2016, arXiv:1603.08155:
the sum over j of ||F_j(a) - F_j(b)||^2 / N_j, F_j the maps "relu1_1 to relu5_1" of VGG-19
(arXiv:1409.1556) and N_j the numbers in one. The paper names neither the maps between these two
nor any weights for them: the first map of each of the five scales, all with weight 1, is our
reading. A batch gives the mean over its pictures.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..errors import CraftError
from ..lora.factors import is_plain_float
from ..tensor_file import Kind, decoding, opened

_USE = "Use model.safetensors of timm/vgg19.tv_in1k, or set perceptual_weight to 0"
KIND = Kind("VGG-19 file", _USE)
# torchvision's `features`: index of a convolution -> (out, n); each is 3x3, then a relu.
_CONVOLUTIONS = {
    0: (64, 3), 2: (64, 64),
    5: (128, 64), 7: (128, 128),
    10: (256, 128), 12: (256, 256), 14: (256, 256), 16: (256, 256),
    19: (512, 256), 21: (512, 512), 23: (512, 512), 25: (512, 512),
    28: (512, 512),
}  # fmt: skip
_POOLED_BEFORE = {5, 10, 19, 28}
_COMPARED = {0, 5, 10, 19, 28}  # relu1_1, relu2_1, relu3_1, relu4_1, relu5_1
_SMALLEST = 16  # four halvings leave the last map one cell
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's


class PerceptualLoss(nn.Module):
    """(pictures, targets) -> the term, a float32 scalar; the gradient reaches the pictures only.

    Both (B, 3, H, W) in [0, 1], at least 16 x 16. Frozen; `.to(device)` moves it.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, weights: dict[str, Tensor]) -> None:
        """weights: `N.weight` and `N.bias` of each convolution of _CONVOLUTIONS."""
        super().__init__()
        layers = {}
        for index, (out, n) in _CONVOLUTIONS.items():
            layer = nn.Conv2d(n, out, 3, padding=1, device="meta")
            layer.weight = nn.Parameter(weights[f"{index}.weight"], requires_grad=False)
            layer.bias = nn.Parameter(weights[f"{index}.bias"], requires_grad=False)
            layers[str(index)] = layer
        self.convolutions = nn.ModuleDict(layers)
        self.register_buffer("mean", torch.tensor(_MEAN).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(_STD).view(1, 3, 1, 1))

    def forward(self, pictures: Tensor, targets: Tensor) -> Tensor:
        _require_pictures(pictures, targets)
        with torch.no_grad():
            wanted = list(self._maps(targets))
        pairs = zip(self._maps(pictures), wanted, strict=True)
        return torch.stack([functional.mse_loss(seen, want) for seen, want in pairs]).sum()

    def _maps(self, pictures: Tensor) -> Iterator[Tensor]:
        """The compared maps, (B, 64..512, H / 1..16, W / 1..16)."""
        x = (pictures.to(self.mean) - self.mean) / self.std
        for index in _CONVOLUTIONS:
            if index in _POOLED_BEFORE:
                x = functional.max_pool2d(x, 2)
            x = functional.relu(self.convolutions[str(index)](x), inplace=True)
            if index in _COMPARED:
                yield x


def read_vgg(path: str | Path) -> PerceptualLoss:
    """VGG-19's convolutions from a safetensors file in torchvision's names, in float32.

    `features.N.weight` and `features.N.bias`, all behind the same prefix if any (timm's and
    torchvision's files have none); other keys, a classifier's for one, are not read. CraftError
    for anything else than such a file.
    """
    path = Path(path)
    with opened(path, KIND) as file, torch.inference_mode(False):
        prefix = _prefix(path, list(file.keys()))
        return PerceptualLoss(dict(_convolutions(path, file, prefix)))


def _prefix(path: Path, keys: list[str]) -> str:
    """What stands before `features.`, the same for every key."""
    first = "features.0.weight"
    found = [k.removesuffix(first) for k in keys if f".{k}".endswith(f".{first}")]
    if len(found) != 1:
        count = "no" if not found else f"{len(found)} different"
        raise _unusable(f"{path.name} has {count} keys that end in {first}")
    return found[0]


def _convolutions(path: Path, file: Any, prefix: str) -> Iterator[tuple[str, Tensor]]:
    """(`N.weight` or `N.bias`, its tensor) of each convolution, sizes checked before reading."""
    present = set(file.keys())
    for index, (out, n) in _CONVOLUTIONS.items():
        for name, shape in ((f"{index}.weight", [out, n, 3, 3]), (f"{index}.bias", [out])):
            key = f"{prefix}features.{name}"
            if key not in present:
                raise _unusable(f"{path.name} lacks {key}")
            stored = file.get_slice(key).get_shape()
            if stored != shape:
                raise _unusable(f"{key} of {path.name} has the shape {stored}, not {shape}")
            with decoding(path, KIND):
                tensor = file.get_tensor(key)
                if not is_plain_float(tensor):
                    stored = str(tensor.dtype).removeprefix("torch.")
                    raise _unusable(f"{key} of {path.name} holds {stored} numbers")
                weight = tensor.float().clone()
            if not bool(weight.isfinite().all()):
                raise _unusable(f"{key} of {path.name} holds NaN or infinity")
            yield name, weight


def _unusable(given: str) -> CraftError:
    return CraftError(
        given,
        "The perceptual term needs VGG-19 as a safetensors file in torchvision's names, "
        "features.0.weight to features.28.bias",
        _USE,
    )


def _require_pictures(pictures: Tensor, targets: Tensor) -> None:
    assert pictures.ndim == 4 and pictures.shape[1] == 3, pictures.shape
    assert pictures.shape == targets.shape, (pictures.shape, targets.shape)
    height, width = pictures.shape[2:]
    if min(height, width) < _SMALLEST:
        raise CraftError(
            f"The perceptual term got pictures of {width} x {height} pixels",
            f"VGG-19's fifth scale needs at least {_SMALLEST} x {_SMALLEST}",
            "Train on larger pictures, or set perceptual_weight to 0",
        )
