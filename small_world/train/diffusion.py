"""The v-prediction loss on the host's own noise levels, and a small sampler to look at progress."""

import torch
from torch.nn import functional

from . import device as devices

NOISE = ("uniform", "lognormal", "min-snr")
# Of lognormal: ln sigma in the first half of a training, from where it falls to that of its end.
# What an object is shows in the loss at sigma >= 2 alone, how its edges look below that.
CENTRES, SPREAD, EVERYWHERE = (1.5, 0.3), 1.3, 0.15  # the last: the share left uniform
SNR_LIMIT = 5.0


class NoiseLevels:
    """How often each of the host's noise levels is trained on, and how much it counts.

    `uniform`: every step of the host's schedule equally often.  `lognormal`: ln sigma is normal
    around one of CENTRES (Karras et al. 2022, arXiv:2206.00364), with a uniform rest.  `min-snr`:
    uniform, with the loss of v weighted by min(SNR, 5) / (SNR + 1) (Hang et al. 2023,
    arXiv:2303.09556).
    """

    def __init__(self, kind: str, sigmas: torch.Tensor, device: torch.device):
        assert kind in NOISE
        sigmas = sigmas.double().cpu()
        often = [torch.ones_like(sigmas)] * len(CENTRES)
        weight = torch.ones_like(sigmas)
        if kind == "lognormal":
            often = [_lognormal(sigmas.log(), centre) for centre in CENTRES]
        elif kind == "min-snr":
            snr = sigmas**-2
            weight = snr.clamp(max=SNR_LIMIT) / (snr + 1)
            weight = weight / weight.mean()
        self.cumulated = [(one.cumsum(0) / one.sum()).float().to(device) for one in often]
        self.weight, self.sigmas = weight.float().to(device), sigmas.float().to(device)

    def draw(self, size: int, generator: torch.Generator, progress: float = 0.0) -> torch.Tensor:
        """(B,) indices of noise levels, stratified. progress: of the training, 0 to 1."""
        first, last = self.cumulated
        cumulated = first.lerp(last, min(1.0, max(0.0, 2 * progress - 1)))
        spread = torch.rand(size, generator=generator, device=first.device)
        spread = (spread + torch.arange(size, device=first.device)) / size
        return torch.searchsorted(cumulated, spread).clamp(max=len(self.sigmas) - 1)


def _lognormal(level: torch.Tensor, centre: float) -> torch.Tensor:
    """How often each ln sigma of `level` is drawn; sums to 1."""
    normal = (-0.5 * ((level - centre) / SPREAD) ** 2).exp() * torch.gradient(level)[0]
    return (1 - EVERYWHERE) * normal / normal.sum() + EVERYWHERE / len(level)


def v_loss(
    predict: "Predictor", levels: NoiseLevels, images: torch.Tensor, context: torch.Tensor,
    vector: torch.Tensor, steps: torch.Tensor, noise: torch.Tensor,
) -> torch.Tensor:  # fmt: skip
    """Mean squared error of v at the noise levels `steps` (B,); images (B, 3, H, W) in [-1, 1].

    With x = image + sigma * noise, alpha = 1 / sqrt(1 + sigma^2):
    input alpha * x, target v = alpha * (noise - sigma * image), as the host's V_PREDICTION.
    """
    sigma = levels.sigmas[steps].view(-1, 1, 1, 1)
    alpha = (1 + sigma**2).rsqrt()
    output = predict(alpha * (images + sigma * noise), steps, context, vector)
    error = (output.float() - alpha * (noise - sigma * images)).square().mean((1, 2, 3))
    return (error * levels.weight[steps]).mean()


class Predictor:
    """The UNet's v under autocast: (x, step indices, context, vector) -> (B, 3, H, W)."""

    def __init__(self, unet: torch.nn.Module, device: torch.device):
        self.unet, self.device, self.dtype = unet, device, devices.precision(device)
        self.attention = explicit_attention if device.type == "cpu" else fused_attention

    def __call__(self, x, steps, context, vector) -> torch.Tensor:
        options = {"optimized_attention_override": self.attention}
        with devices.autocast(self.device, self.dtype):
            return self.unet._forward(
                x, steps.float(), context=context, y=vector, transformer_options=options
            )


def explicit_attention(_original, q, k, v, heads, *_args, mask=None, **_options):
    """Softmax attention written out: on a CPU its backward pass is faster than the fused one.

    q, k, v: (B, tokens, heads * width) -> (B, tokens, heads * width).
    """
    assert mask is None
    q, k, v = (t.unflatten(-1, (heads, -1)).transpose(1, 2) for t in (q, k, v))
    with torch.autocast("cpu", enabled=False):  # autocast would take the softmax to float32
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)  # (B, heads, tokens, tokens)
        return (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)


def fused_attention(_original, q, k, v, heads, *_args, mask=None, **_options):
    """The same by torch's own kernel."""
    assert mask is None
    q, k, v = (t.unflatten(-1, (heads, -1)).transpose(1, 2) for t in (q, k, v))
    return functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


@torch.no_grad()
def sample(predict, sigmas, encode, texts, seed: int, steps=20, cfg=3.0, side=64) -> torch.Tensor:
    """Euler sampling with classifier-free guidance: captions -> (B, 3, side, side) in [-1, 1].

    `sigmas` are the host's noise levels; the result is on the CPU.
    """
    generator, device = torch.Generator().manual_seed(seed), encode.device
    indices = torch.linspace(len(sigmas) - 1, 0, steps).long()
    levels = torch.cat([sigmas.cpu()[indices], torch.zeros(1)])
    context, vector = encode([*texts, *[""] * len(texts)])
    x = torch.randn(len(texts), 3, side, side, generator=generator).to(device) * levels[0].item()
    for index, sigma, following in zip(indices, levels.tolist(), levels.tolist()[1:], strict=False):
        alpha = (1 + sigma**2) ** -0.5
        repeated = index.repeat(2 * len(texts)).to(device)
        v = predict((alpha * x).repeat(2, 1, 1, 1), repeated, context, vector).float()
        cond, uncond = v.chunk(2)
        v = uncond + cfg * (cond - uncond)
        denoised = alpha**2 * x - sigma * alpha * v
        x = x + (x - denoised) / sigma * (following - sigma)
    return x.clamp(-1, 1).cpu()
