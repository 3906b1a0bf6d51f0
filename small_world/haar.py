"""The orthonormal 2x Haar transform: images to four half-size bands per channel, and back.

Being orthonormal it leaves white noise white with the same variance, so a denoiser may work on
the bands while sampler, noise schedule and latent stay in image space.
"""

import torch

# Rows are the bands (mean, horizontal, vertical, diagonal); columns the pixels of a 2x2 cell.
CELL = (
    (0.5, 0.5, 0.5, 0.5),
    (0.5, -0.5, 0.5, -0.5),
    (0.5, 0.5, -0.5, -0.5),
    (0.5, -0.5, -0.5, 0.5),
)


def to_bands(image: torch.Tensor) -> torch.Tensor:
    """(B, C, H, W) with even H and W -> (B, 4C, H/2, W/2), bands outermost in the channel axis."""
    batch, channels, height, width = image.shape
    if height % 2 or width % 2:
        raise ValueError(f"the small world needs even image sides, got {height}x{width}")
    cells = image.reshape(batch, channels, height // 2, 2, width // 2, 2)
    cells = cells.permute(0, 3, 5, 1, 2, 4).reshape(batch, 4, -1)  # (B, pixel of cell, C*H/2*W/2)
    matrix = torch.tensor(CELL, dtype=image.dtype, device=image.device)
    return (matrix @ cells).reshape(batch, 4 * channels, height // 2, width // 2)


def from_bands(bands: torch.Tensor) -> torch.Tensor:
    """(B, 4C, h, w) -> (B, C, 2h, 2w); the inverse of `to_bands`."""
    batch, channels, height, width = bands.shape
    matrix = torch.tensor(CELL, dtype=bands.dtype, device=bands.device).T
    cells = (matrix @ bands.reshape(batch, 4, -1)).reshape(
        batch, 2, 2, channels // 4, height, width
    )
    return cells.permute(0, 3, 4, 1, 5, 2).reshape(batch, channels // 4, 2 * height, 2 * width)
