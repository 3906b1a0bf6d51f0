"""Write what the host loads, in half precision, and save or restore an unfinished training."""

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from ..architecture import CLIP_PREFIX, MARKER, UNET_PREFIX, V_PREDICTION, VAE_KEY


def write(path: Path, unet: dict, text_model: torch.nn.Module, metadata: dict[str, str]) -> None:
    """A checkpoint in SDXL's key names with our marker: UNet, text encoder, image-is-latent VAE."""
    tensors = {UNET_PREFIX + name: value for name, value in unet.items()}
    for name, value in text_model.state_dict().items():
        tensors[f"{CLIP_PREFIX}transformer.{name}"] = value
    tensors |= {key: torch.ones(()) for key in (MARKER, V_PREDICTION, VAE_KEY)}
    half = {name: value.detach().cpu().half().contiguous() for name, value in tensors.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(half, path, metadata)
    path.chmod(0o644)  # safetensors writes for the owner alone


def read(path: Path, model: torch.nn.Module, text_model: torch.nn.Module) -> None:
    """Load a written checkpoint back into the training modules."""
    if not path.is_file():
        raise SystemExit(f"{path} does not exist: train the base model first (`base`)")
    tensors = {name: value.float() for name, value in load_file(path).items()}
    for module, prefix in (
        (model.diffusion_model, UNET_PREFIX),
        (text_model, f"{CLIP_PREFIX}transformer."),
    ):
        own = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
        module.load_state_dict(own)
