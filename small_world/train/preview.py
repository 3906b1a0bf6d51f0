"""The sample grid of the README, drawn by the host's own nodes from the written files."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

CONTENTS = ("cat", "house", "rocket", "mushroom", "crown", "dog", "guitar")
STYLES = ("flat", "comic", "blueprint", "neon", "sunset", "crimson dotted outlined")
MAGNIFIED = 2


class HostPipeline:
    """Checkpoint, optional LoRA and sampling through the stock nodes."""

    def __init__(self):
        import nodes

        from ..register import register

        register()
        self.nodes = nodes
        loader = nodes.CheckpointLoaderSimple()
        self.model, self.clip, self.vae = loader.load_checkpoint("craft_small_world.safetensors")

    def with_lora(self, name: str, strength: float = 1.0):
        """The model with one of our LoRA files at a strength."""
        file = f"craft_small_world_{name}.safetensors"
        return self.nodes.LoraLoader().load_lora(self.model, self.clip, file, strength, strength)[0]

    def picture(self, prompt: str, seed: int, model=None, steps: int = 20, cfg: float = 4.0):
        """One (64, 64, 3) uint8 picture; euler on the normal schedule."""
        encode = self.nodes.CLIPTextEncode().encode
        with torch.inference_mode():
            latent = self.nodes.EmptyLatentImage().generate(64, 64)[0]
            positive, negative = encode(self.clip, prompt)[0], encode(self.clip, "")[0]
            model = self.model if model is None else model
            sampled = self.nodes.KSampler().sample(
                model, seed, steps, cfg, "euler", "normal", positive, negative, latent
            )[0]
            image = self.nodes.VAEDecode().decode(self.vae, sampled)[0][0]
        return (image.clamp(0, 1) * 255).round().byte().numpy()


def write_preview(path: Path, seed: int) -> None:
    """Rows: objects, then the content LoRA; columns: styles, then the style LoRA."""
    pipeline = HostPipeline()
    content_model, style_model = pipeline.with_lora("content"), pipeline.with_lora("style")
    rows = []
    for name in tqdm(CONTENTS, desc="preview"):
        row = [pipeline.picture(f"a {name} in {s} style", seed) for s in STYLES]
        row.append(pipeline.picture(f"a {name} in zwx style", seed, style_model))
        rows.append(np.concatenate(row, axis=1))
    row = [pipeline.picture(f"a sks animal in {s} style", seed, content_model) for s in STYLES]
    row.append(np.full_like(row[0], 255))
    rows.append(np.concatenate(row, axis=1))
    sheet = Image.fromarray(np.concatenate(rows, axis=0))
    size = sheet.width * MAGNIFIED, sheet.height * MAGNIFIED
    sheet.resize(size, Image.Resampling.LANCZOS).quantize(256, dither=Image.Dither.NONE).save(
        path, optimize=True
    )
