"""Which branch acts where: markers in the prompt, layer sets of the model (CRAFT-LoRA)."""

from .auto import split_by_energy
from .encoder import Concept, ExpertEncoder, Phrases, phrase_text, scale_table
from .encoder_file import read_encoder, write_encoder
from .layer_sets import LayerSets, LayerSetSpec, parse_layer_sets, resolve
from .markers import MarkedPrompt, Phrase, gammas, parse
from .presets import PRESETS, Preset
from .resolution import latent_resolutions

__all__ = [
    "PRESETS",
    "Concept",
    "ExpertEncoder",
    "LayerSetSpec",
    "LayerSets",
    "MarkedPrompt",
    "Phrase",
    "Phrases",
    "Preset",
    "gammas",
    "latent_resolutions",
    "parse",
    "parse_layer_sets",
    "phrase_text",
    "read_encoder",
    "resolve",
    "scale_table",
    "split_by_energy",
    "write_encoder",
]
