"""The expert encoder: its network and its file (CRAFT-LoRA)."""

from .file import read_encoder, write_encoder
from .network import Concept, ExpertEncoder, PhraseEmbeddings, scale_table

__all__ = [
    "Concept",
    "ExpertEncoder",
    "PhraseEmbeddings",
    "read_encoder",
    "scale_table",
    "write_encoder",
]
