"""Tiny random models of the host's own classes, by the family of the registry they stand for."""

from .image import IMAGE
from .more import MORE
from .unet import UNET
from .video import VIDEO

TINY = {**UNET, **IMAGE, **VIDEO, **MORE}
