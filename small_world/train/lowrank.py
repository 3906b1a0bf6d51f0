"""Trainable low-rank branches on the UNet's layers, and their file in kohya's names."""

import re
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional

ATTENTION = re.compile(r"\.(transformer_blocks\.|proj_in$|proj_out$)")
RESIDUAL = re.compile(r"\.(in_layers\.2|out_layers\.3)$")


class Branch(nn.Module):
    """out + alpha/rank * up(down(x)) on one linear or convolution layer; `up` starts at zero."""

    def __init__(self, layer: nn.Module, rank: int, alpha: float):
        super().__init__()
        self.scale, self.alpha = alpha / rank, alpha
        self.is_convolution = isinstance(layer, nn.Conv2d)
        if self.is_convolution:
            self.options = {"stride": layer.stride, "padding": layer.padding}
            down = torch.empty(rank, layer.in_channels, *layer.kernel_size)
            up = torch.zeros(layer.out_channels, rank, 1, 1)
        else:
            down, up = (
                torch.empty(rank, layer.in_features),
                torch.zeros(layer.out_features, rank),
            )
        nn.init.kaiming_uniform_(down, a=5**0.5)
        self.down, self.up = nn.Parameter(down), nn.Parameter(up)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.is_convolution:
            return self.scale * functional.conv2d(
                functional.conv2d(x, self.down, **self.options), self.up
            )
        return self.scale * functional.linear(functional.linear(x, self.down), self.up)


class Branches:
    """A branch on every matching layer of a UNet, attached with forward hooks."""

    def __init__(self, unet: nn.Module, rank: int, alpha: float):
        self.rank, self.by_path, self.hooks = rank, {}, []
        for path, layer in unet.named_modules():
            if not isinstance(layer, nn.Linear | nn.Conv2d):
                continue
            if ATTENTION.search(path) or RESIDUAL.search(path):
                branch = self.by_path[path] = Branch(layer, rank, alpha)
                self.hooks.append(layer.register_forward_hook(_adding(branch)))

    def parameters(self) -> list[nn.Parameter]:
        return [p for branch in self.by_path.values() for p in branch.parameters()]

    def detach(self) -> None:
        """Take the branches off the UNet again."""
        for hook in self.hooks:
            hook.remove()
        self.hooks.clear()

    def save(self, path: Path, metadata: dict[str, str]) -> None:
        """`lora_unet_<module path with _>.lora_down.weight`, `.lora_up.weight`, `.alpha`; fp16."""
        tensors = {}
        for module_path, branch in self.by_path.items():
            stem = "lora_unet_" + module_path.replace(".", "_")
            tensors[f"{stem}.lora_down.weight"] = branch.down.detach().half().contiguous()
            tensors[f"{stem}.lora_up.weight"] = branch.up.detach().half().contiguous()
            tensors[f"{stem}.alpha"] = torch.tensor(float(branch.alpha)).half()
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, path, metadata)
        path.chmod(0o644)  # safetensors writes for the owner alone


def _adding(branch: Branch):
    return lambda layer, inputs, output: output + branch(inputs[0])
