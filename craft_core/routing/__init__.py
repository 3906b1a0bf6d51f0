"""Which branch acts where: markers in the prompt, layer sets of the model (CRAFT-LoRA)."""

from .auto import split_by_energy
from .layer_sets import LayerSets, LayerSetSpec, parse_layer_sets, resolve
from .markers import MarkedPrompt, Phrase, gammas, parse, phrase_text
from .presets import PRESETS, Preset
from .resolution import latent_resolutions

__all__ = [
    "PRESETS",
    "LayerSetSpec",
    "LayerSets",
    "MarkedPrompt",
    "Phrase",
    "Preset",
    "gammas",
    "latent_resolutions",
    "parse",
    "parse_layer_sets",
    "phrase_text",
    "resolve",
    "split_by_energy",
]
