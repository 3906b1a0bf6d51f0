"""Captions: what a picture is called in training, and how a user should call it."""

import numpy as np

from .objects import OBJECTS, TRAINED_OBJECTS
from .styles import TRAINED_STYLES

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
    return template.format(content=content, style=style)


def trained_pair(rng: np.random.Generator) -> tuple[str, str]:
    """A random object and a random style of those the base model sees."""
    return (
        TRAINED_OBJECTS[rng.integers(len(TRAINED_OBJECTS))],
        TRAINED_STYLES[rng.integers(len(TRAINED_STYLES))],
    )
