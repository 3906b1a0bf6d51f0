"""Pretrain the text encoder on words alone, then encode captions with it.

The host's transformer layer adds in place, which autograd refuses, so training walks the same
modules out of place.
"""

from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from tqdm import trange

from ..architecture import TEXT_HEADS, TEXT_LENGTH, TEXT_WIDTH
from ..vocabulary import END, build_words, padded_ids
from ..world import captions
from ..world.composed import COMPOSED, GROUNDS, PALETTES, TECHNIQUES
from ..world.objects import DRAWN, FAMILIES, OBJECTS
from ..world.styles import STYLES

STEPS, TEACHER_WEIGHT = 1500, 20.0
NONE = "none"
PARTS_OF_A_CAPTION = ("object", "named style", "palette", "ground", "technique")
# What the pooled state has to tell apart: the object or its family, every part of the style.
LABELS = (
    [*OBJECTS, *FAMILIES],
    [*STYLES, captions.STYLE_TOKEN, NONE],
    *([*words, NONE] for words in (PALETTES, GROUNDS, TECHNIQUES)),
)


def build_text_model() -> nn.Module:
    """The host's CLIP text model in our size, initialised, float32."""
    import comfy.ops

    from ..text_encoder import CONFIG, SmallTextModel

    model = SmallTextModel(dict(CONFIG), torch.float32, "cpu", comfy.ops.disable_weight_init)
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.Linear.reset_parameters(module)
        elif isinstance(module, nn.LayerNorm):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=0.5 if module.num_embeddings > TEXT_LENGTH else 0.1)
    nn.init.eye_(model.text_projection.weight)
    return model


def token_ids(texts: list[str], words: dict[str, int]) -> torch.Tensor:
    """(B, TEXT_LENGTH) int64, see `padded_ids`."""
    return torch.tensor([padded_ids(text, words) for text in texts])


def forward(model: nn.Module, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Hidden states (B, TEXT_LENGTH, TEXT_WIDTH) and the state at the first end token (B, W)."""
    text = model.text_model
    x = text.embeddings(ids)
    causal = torch.full((TEXT_LENGTH, TEXT_LENGTH), float("-inf"), device=ids.device).triu_(1)
    for layer in text.encoder.layers:
        x = x + layer.self_attn(layer.layer_norm1(x), causal, _attention)
        x = x + layer.mlp(layer.layer_norm2(x))
    x = text.final_layer_norm(x)
    return x, x[torch.arange(len(ids), device=ids.device), (ids == END).int().argmax(-1)]


def _attention(q, k, v, heads, mask):
    q, k, v = (t.unflatten(-1, (heads, -1)).transpose(1, 2) for t in (q, k, v))
    scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5 + mask
    return (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)


def pretrain(
    seed: int, teacher: nn.Module | None = None, steps: int = STEPS, batch: int = 128
) -> nn.Module:
    """Teach the encoder to tell object, family and style from a caption, and every word apart.

    With a `teacher`, an encoder trained on fewer words, it starts from the teacher's weights and is
    held to the teacher's outputs on captions of hand-drawn objects in named styles, so that a UNet
    trained with the teacher goes on understanding them.
    """
    assert TEXT_WIDTH % TEXT_HEADS == 0
    torch.manual_seed(seed)
    rng, words = np.random.default_rng(seed), build_words()
    model, rate = build_text_model(), 2e-3
    if teacher is not None:
        model.load_state_dict(teacher.state_dict())
        rate = 1e-3
    heads = nn.ModuleList(nn.Linear(TEXT_WIDTH, len(known)) for known in LABELS)
    spelling = nn.Linear(TEXT_WIDTH, len(words))
    parameters = [*model.parameters(), *heads.parameters(), *spelling.parameters()]
    optimiser = torch.optim.AdamW(parameters, rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, steps)
    with trange(steps, desc="text") as bar:
        for _ in bar:
            texts, labels = _labelled(rng, batch)
            ids = token_ids(texts, words)
            hidden, pooled = forward(model, ids)
            loss = functional.cross_entropy(spelling(hidden).flatten(0, 1), ids.flatten())
            for head, label in zip(heads, labels.T, strict=True):
                loss = loss + functional.cross_entropy(head(pooled), label)
            if teacher is not None:
                apart = _apart(model, teacher, token_ids(_old_captions(rng, batch // 2), words))
                loss = loss + TEACHER_WEIGHT * apart
                bar.set_postfix(apart=f"{apart.item():.5f}", refresh=False)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            bar.set_postfix(loss=f"{loss.item():.3f}", refresh=False)
    if teacher is not None:
        print("text: mean squared distance from the teacher at the end", round(apart.item(), 6))
    return model.requires_grad_(False)


def write_text(folder: Path, seed: int, steps: int | None = None) -> Path:
    """Pretrain an encoder, print how well its outputs tell the words apart, and save it."""
    model = pretrain(seed, steps=steps or STEPS)
    for name, share in separability(model).items():
        print(f"text: {name}: {100 * share:.1f} % right")
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(model.state_dict(), folder / "text.pt")
    return folder / "text.pt"


@torch.no_grad()
def separability(model: nn.Module, seed: int = 0, count: int = 4000) -> dict[str, float]:
    """How well linear classifiers on the outputs tell every word, on captions they have not seen.

    Two classifiers: of the pooled state, and of the mean over the words' own states; the classes
    are the lists of LABELS.
    """
    rng, words = np.random.default_rng(seed), build_words()
    texts, labels = _labelled(rng, 2 * count)
    hidden, pooled = forward(model, token_ids(texts, words))
    shares = {}
    for state, features in (("pooled", pooled), ("words", hidden.mean(1))):
        features = torch.cat([features, torch.ones(len(features), 1)], 1)
        for name, known, label in zip(PARTS_OF_A_CAPTION, LABELS, labels.T, strict=True):
            wanted = functional.one_hot(label, len(known)).float()
            gram = features[:count].T @ features[:count]
            gram = gram + 1e-2 * torch.eye(len(gram))
            reading = torch.linalg.solve(gram, features[:count].T @ wanted[:count])
            right = (features[count:] @ reading).argmax(1) == label[count:]
            shares[f"{name}, {state}"] = float(right.float().mean())
    return shares


def _apart(model, teacher, ids) -> torch.Tensor:
    """Mean squared difference of the two encoders' hidden states; the pooled one is among them."""
    with torch.no_grad():
        wanted = forward(teacher, ids)[0]
    return functional.mse_loss(forward(model, ids)[0], wanted)


def _old_captions(rng, count: int) -> list[str]:
    contents, styles = list(DRAWN), list(STYLES)
    texts = [captions.sample(rng.choice(contents), rng.choice(styles), rng) for _ in range(count)]
    return ["", *texts[1:]]  # the empty caption is what guidance starts from


def _labelled(rng, batch) -> tuple[list[str], torch.Tensor]:
    """Captions over all words (also the held-out ones: the word is known, its picture is not).

    Labels (batch, 5): each the place in its list of LABELS of the word that the caption names.
    """
    texts, labels = [], []
    for _ in range(batch):
        content = str(rng.choice(list(OBJECTS)))
        style = str(rng.choice(COMPOSED if rng.random() < 0.5 else list(STYLES)))
        text = captions.sample(content, style, rng)
        named = set(text.replace(",", "").split())
        content = content if content in named else OBJECTS[content].family
        asked = [content, *style.split(), captions.STYLE_TOKEN]
        asked = [word for word in asked if word in named]
        texts.append(text)
        labels.append(
            [known.index(next((w for w in asked if w in known), NONE)) for known in LABELS]
        )
    return texts, torch.tensor(labels)


class CaptionEncoder:
    """The frozen encoder: captions, or their token ids -> what the UNet is conditioned on."""

    def __init__(self, text_model: nn.Module, model: nn.Module, device: torch.device):
        self.text_model, self.words = text_model.to(device), build_words()
        self.device = device
        # The host takes a latent cell for eight pixels, so 64x64 reaches the model as 512x512.
        vector = model.encode_adm(pooled_output=torch.zeros(1, TEXT_WIDTH), width=512, height=512)
        self.sizes = vector[:, TEXT_WIDTH:].to(device)

    def __call__(self, texts: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
        return self.encode(self.ids(texts))

    def ids(self, texts: list[str]) -> torch.Tensor:
        return token_ids(texts, self.words).to(self.device)

    @torch.no_grad()
    def encode(self, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Context (B, TEXT_LENGTH, TEXT_WIDTH) and vector (B, TEXT_WIDTH + 6*256)."""
        hidden, pooled = forward(self.text_model, ids)
        return hidden, torch.cat([pooled, self.sizes.expand(len(ids), -1)], dim=1)
