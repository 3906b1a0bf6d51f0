"""Captions: random ones for training, and the plain one to prompt with."""

import numpy as np

from .objects import OBJECTS

CONTENT_TOKEN = "sks"
STYLE_TOKEN = "zwx"

TEMPLATES = (
    "a {content} in {style} style",
    "a {content} in {style} style",
    "{content} in {style} style",
    "a {style} drawing of a {content}",
    "{style} style, {content}",
    "a picture of a {content}, {style}",
    "a {content} with {style} background",
    "{style} {content}",
)


def plain(content: str, style: str) -> str:
    """The caption to prompt with."""
    return TEMPLATES[0].format(content=content, style=style)


def sample(content: str, style: str, rng: np.random.Generator) -> str:
    """A random caption of a picture; both names may be replaced by less specific ones.

    A composed style is now and then called by two of its three words.

    The placeholder words occur here as words for "some object of this family" and "some style",
    so that a LoRA starts from a meaning and not from noise.
    """
    template = TEMPLATES[rng.integers(len(TEMPLATES))]
    roll = rng.random()
    if roll < 0.06:
        content = f"{CONTENT_TOKEN} {OBJECTS[content].family}"
    elif roll < 0.09:
        content = OBJECTS[content].family
    elif roll < 0.13:
        content = f"{CONTENT_TOKEN} {content}"
    roll = rng.random()
    if roll < 0.08:
        style = STYLE_TOKEN
    elif roll < 0.12:
        return f"a {content}"
    elif roll < 0.24 and " " in style:
        left_out = rng.integers(3)
        style = " ".join(word for k, word in enumerate(style.split()) if k != left_out)
    return template.format(content=content, style=style)
