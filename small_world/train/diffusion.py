"""The v-prediction loss on the host's own noise levels, and a small sampler to look at progress."""

import torch

from .host import explicit_attention


def v_loss(unet, sampling, images, context, vector, generator) -> torch.Tensor:
    """Mean squared error of v at stratified random noise levels; images (B, 3, H, W) in [-1, 1].

    With x = image + sigma * noise, alpha = 1 / sqrt(1 + sigma^2):
    input alpha * x, target v = alpha * (noise - sigma * image), as the host's V_PREDICTION.
    """
    size = len(images)
    spread = (torch.rand(size, generator=generator) + torch.arange(size)) / size
    steps = (spread * len(sampling.sigmas)).long().clamp(max=len(sampling.sigmas) - 1)
    sigma = sampling.sigmas[steps].view(-1, 1, 1, 1)
    alpha = (1 + sigma**2).rsqrt()
    noise = torch.randn(images.shape, generator=generator)
    output = predict_v(unet, alpha * (images + sigma * noise), steps, context, vector)
    return (output.float() - alpha * (noise - sigma * images)).square().mean()


def predict_v(unet, x, steps, context, vector) -> torch.Tensor:
    """The UNet's output under bfloat16 autocast with attention written out."""
    options = {"optimized_attention_override": explicit_attention}
    with torch.autocast("cpu", torch.bfloat16):
        return unet(x, steps.float(), context=context, y=vector, transformer_options=options)


@torch.no_grad()
def sample(model, encode, texts, seed: int, steps=20, cfg=3.0, side=64) -> torch.Tensor:
    """Euler sampling with classifier-free guidance: captions -> (B, 3, side, side) in [-1, 1]."""
    sampling, generator = model.model_sampling, torch.Generator().manual_seed(seed)
    indices = torch.linspace(len(sampling.sigmas) - 1, 0, steps).long()
    sigmas = torch.cat([sampling.sigmas[indices], torch.zeros(1)])
    context, vector = encode([*texts, *[""] * len(texts)])
    x = torch.randn(len(texts), 3, side, side, generator=generator) * sigmas[0]
    for index, sigma, following in zip(indices, sigmas, sigmas[1:], strict=False):
        alpha = (1 + sigma**2).rsqrt()
        v = predict_v(
            model.diffusion_model,
            (alpha * x).repeat(2, 1, 1, 1),
            index.repeat(2 * len(texts)),
            context,
            vector,
        ).float()
        cond, uncond = v.chunk(2)
        v = uncond + cfg * (cond - uncond)
        denoised = alpha**2 * x - sigma * alpha * v
        x = x + (x - denoised) / sigma * (following - sigma)
    return x.clamp(-1, 1)
