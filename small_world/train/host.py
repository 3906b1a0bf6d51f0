"""Find the host and build its model class in the small world's shape, for training."""

import sys
from pathlib import Path

import torch

from ..architecture import TEXT_WIDTH, UNET_REST, UNET_SHAPE

REPOSITORY = Path(__file__).resolve().parents[2]


def prepare(comfyui: Path, threads: int) -> None:
    """Make the host importable ahead of this repository on the search path.

    The host itself stays on the CPU; a training moves the model to its device.
    """
    if not (comfyui / "comfy" / "supported_models.py").is_file():
        raise SystemExit(
            f"{comfyui} is not a ComfyUI folder (it has no comfy/supported_models.py). "
            "Give one with --comfyui PATH or the environment variable COMFYUI_PATH."
        )
    ours = {"", str(REPOSITORY), str(Path.cwd())}
    sys.path[:] = [str(comfyui), *(entry for entry in sys.path if entry not in ours)]
    sys.path.append(str(REPOSITORY))
    from comfy.cli_args import args

    args.cpu = True
    torch.set_num_threads(threads)


def build_model() -> torch.nn.Module:
    """The host's model around an initialised UNet, in float32, ready for gradients."""
    from ..model_class import CraftSmallWorld

    config = CraftSmallWorld(
        {
            **UNET_SHAPE,
            **UNET_REST,
            "use_linear_in_transformer": True,
            "use_temporal_attention": False,
            "context_dim": TEXT_WIDTH,
            "adm_in_channels": TEXT_WIDTH + 6 * 256,
        }
    )
    config.set_inference_dtype(torch.float32, None)
    model = config.get_model({"v_pred": torch.zeros(1)}, device=torch.device("cpu"))
    _initialise(model.diffusion_model)
    return model.requires_grad_(True)


def _initialise(unet: torch.nn.Module) -> None:
    """Torch's default weights (the host's layers come uninitialised), residual ends at zero."""
    for module in unet.modules():
        if isinstance(module, torch.nn.Linear):
            torch.nn.Linear.reset_parameters(module)
        elif isinstance(module, torch.nn.modules.conv._ConvNd):
            torch.nn.modules.conv._ConvNd.reset_parameters(module)
        elif isinstance(module, torch.nn.GroupNorm | torch.nn.LayerNorm):
            torch.nn.init.ones_(module.weight)
            torch.nn.init.zeros_(module.bias)
    for name, parameter in unet.named_parameters():
        if ".out_layers.3." in name or ".proj_out." in name or name.startswith("out.2."):
            torch.nn.init.zeros_(parameter)
