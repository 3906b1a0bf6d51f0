"""Raw LoRA tensors in every naming, for a small layer list."""

import torch

ENDINGS = {
    "kohya": (".lora_down.weight", ".lora_up.weight"),
    "old diffusers": ("_lora.down.weight", "_lora.up.weight"),
    "diffusers": (".lora.down.weight", ".lora.up.weight"),
    "diffusers linear layer": (".lora_linear_layer.down.weight", ".lora_linear_layer.up.weight"),
    "PEFT": (".lora_A.weight", ".lora_B.weight"),
    "PEFT default": (".lora_A.default.weight", ".lora_B.default.weight"),
    "PEFT named": (".lora_A.my_style.weight", ".lora_B.my_style.weight"),
    "bare PEFT": (".lora_A", ".lora_B"),
}


def noise(*shape, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed + sum(shape))
    return torch.randn(*shape, generator=generator).to(dtype)


def pair(stem, shape, rank=2, ending="kohya", seed=0, dtype=torch.float32):
    """The down and up tensors of one layer under its stem; conv factors get four axes."""
    down_end, up_end = ENDINGS[ending]
    ones = (1,) * (len(shape) - 2)
    return {
        stem + down_end: noise(rank, *shape[1:], seed=seed, dtype=dtype),
        stem + up_end: noise(shape[0], rank, *ones, seed=seed + 1, dtype=dtype),
    }
