"""Scores of pictures from the features of any encoder, with intervals."""

from .cross_influence import product_influence, relative_drop
from .crossed_bootstrap import crossed_interval
from .encoders.picture_encoder import PictureEncoder
from .encoders.text_encoder import TextEncoder
from .frontier import Point, frontier, surely_below
from .harmonic_mean import harmonic_mean
from .holm import holm
from .leakage import leakage
from .pair_columns import RoleFeatures, pair_columns
from .score import Score, mean_score
from .share_of_way import share_of_way
from .similarity import similarity
from .text_similarity import text_similarity

__all__ = [
    "PictureEncoder",
    "Point",
    "RoleFeatures",
    "Score",
    "TextEncoder",
    "crossed_interval",
    "frontier",
    "harmonic_mean",
    "holm",
    "leakage",
    "mean_score",
    "pair_columns",
    "product_influence",
    "relative_drop",
    "share_of_way",
    "similarity",
    "surely_below",
    "text_similarity",
]
