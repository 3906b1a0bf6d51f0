"""A small real network behind the Denoiser contract: convolutions, a block's linears, bias and all.

x -> conv_in -> blocks.0 (two linears over the channels) -> middle_block.0 (strided, with a text
input) -> conv_out. `denoised = x - sigma * network(x)`, as a flow or epsilon model has it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional

from craft_core.training import Dataset, Edit, Example, LayerCall

CHANNELS, WIDTH, TEXT = 3, 8, 5


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(CHANNELS, WIDTH, 3, padding=1)
        self.blocks = nn.ModuleList([nn.ModuleDict({"q": nn.Linear(WIDTH, WIDTH), "out":
                                     nn.Linear(WIDTH, WIDTH, bias=False)})])  # fmt: skip
        self.text = nn.Linear(TEXT, WIDTH)
        strided = nn.Conv2d(WIDTH, WIDTH, 3, stride=2, padding=1)
        self.middle_block = nn.ModuleList([strided])
        self.conv_out = nn.Conv2d(WIDTH, CHANNELS, 3, padding=1)

    def forward(self, x: Tensor, text: Tensor) -> Tensor:
        size = x.shape[-2:]
        x = functional.silu(self.conv_in(x))
        block = self.blocks[0]
        tokens = x.flatten(2).transpose(1, 2)  # (B, pixels, WIDTH)
        tokens = tokens + block["out"](functional.silu(block["q"](tokens)))
        x = tokens.transpose(1, 2).reshape(x.shape)
        x = functional.silu(self.middle_block[0](x) + self.text(text)[..., None, None])
        return self.conv_out(functional.interpolate(x, size=size))


class ToyDenoiser:
    """See craft_core.training.Denoiser; conditions are vectors (TEXT,)."""

    def __init__(self, seed: int = 0, dtype: torch.dtype = torch.float32) -> None:
        torch.manual_seed(seed)
        self.network = Network().to(dtype).requires_grad_(False)
        self.dtype, self.device = dtype, torch.device("cpu")
        modules = self.network.named_modules()
        self.layers = {p: tuple(m.weight.shape) for p, m in modules if hasattr(m, "weight")}
        self.sigmas = torch.linspace(0.1, 4.0, 50)

    def noised(self, latent: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
        return latent + sigma.view(-1, 1, 1, 1) * noise

    def denoise(self, x: Tensor, sigma: Tensor, conditions: Sequence[Tensor]) -> Tensor:
        x, sigma = x.to(self.dtype), sigma.to(self.dtype).view(-1, 1, 1, 1)
        text = torch.stack(list(conditions)).to(self.dtype)
        return x - sigma * self.network(x / (1 + sigma**2).sqrt(), text)

    def needs_single_rows(self, layers: Iterable[str]) -> bool:
        return False

    def loss_weight(self, sigma: Tensor) -> Tensor:
        return 1 / sigma**2

    @contextmanager
    def edited(self, edits: Mapping[str, Edit]):
        with ExitStack() as stack:
            for path, edit in edits.items():
                handle = self.network.get_submodule(path).register_forward_hook(_hook(edit))
                stack.callback(handle.remove)
            yield

    def decode(self, latent: Tensor) -> Tensor:
        return latent.sigmoid()


def _hook(edit: Edit):
    def hook(layer, args, output):
        is_convolution = isinstance(layer, nn.Conv2d)

        def product(x: Tensor, weight: Tensor) -> Tensor:
            weight = weight.to(x.dtype)
            if is_convolution:
                return functional.conv2d(x, weight, None, layer.stride, layer.padding)
            return functional.linear(x, weight)

        return edit(
            LayerCall(args[0], output, layer.bias, lambda: layer.weight, product, is_convolution)
        )

    return hook


def dataset(count: int = 2, seed: int = 0, size: tuple[int, int] = (6, 8)) -> Dataset:
    """Random pictures, their own latents, with random conditions; an empty condition of zeros."""
    generator = torch.Generator().manual_seed(seed)
    examples = []
    for i in range(count):
        picture = torch.randn(CHANNELS, *size, generator=generator)
        text = torch.randn(TEXT, generator=generator)
        examples.append(Example(picture, text, f"picture {i}", mirrored=picture.flip(-1)))
    return Dataset(tuple(examples), torch.zeros(TEXT))


class Pulled:
    """A recipe without randomness, whose one parameter `a`, ones of any shape, is
    pulled to 0."""

    def __init__(self, *shape: int) -> None:
        self.value = torch.ones(shape, requires_grad=True)

    def parameters(self):
        return {"a": self.value}

    def backward(self, draw, share):
        loss = self.value.square().sum()
        (share * loss).backward()
        return {"loss": float(loss.detach())}

    def settings(self):
        return {}

    def write(self, path, metadata): ...
