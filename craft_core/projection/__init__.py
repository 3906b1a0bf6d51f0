"""Rank-limited backbones: subspaces, their ranks by depth, and the files that hold them."""

from .backbone import (
    Projected,
    backbone_lines,
    backbone_metadata,
    stated_backbone,
    trained_backbone,
)
from .basis_file import (
    WHICH,
    Basis,
    Header,
    LayerBasis,
    Which,
    export_lora,
    match_layers,
    read_basis,
    read_header,
    write_basis,
)
from .decompositions import decomposed, solution_of
from .rank_schedule import RankSchedule, rank_schedule
from .subspace import (
    SIDES,
    Side,
    component,
    dimension,
    low_rank_patch,
    merge,
    orthonormal,
    project_out,
    refined,
    require_orthonormal,
    require_strength,
)

__all__ = [
    "SIDES",
    "WHICH",
    "Basis",
    "Header",
    "LayerBasis",
    "Projected",
    "RankSchedule",
    "Side",
    "Which",
    "backbone_lines",
    "backbone_metadata",
    "component",
    "decomposed",
    "dimension",
    "export_lora",
    "low_rank_patch",
    "match_layers",
    "merge",
    "orthonormal",
    "project_out",
    "rank_schedule",
    "read_basis",
    "read_header",
    "refined",
    "require_orthonormal",
    "require_strength",
    "solution_of",
    "stated_backbone",
    "trained_backbone",
    "write_basis",
]
