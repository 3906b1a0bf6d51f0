"""What came along that was not asked for: likeness to the *other* role's reference.

Ours. An encoder that looks at one role alone (content or style) sees in the other role's reference
something that the picture should not have: the style reference's object, or the content
reference's style. With one encoder for both roles this number is the other role's similarity, so
it says something only where each role has an encoder of its own.
"""

from __future__ import annotations

from torch import Tensor

from .similarity import similarity


def leakage(pictures: Tensor, other_references: Tensor) -> Tensor:
    """One role's features of the pictures (B, width) and of the other role's references (n, width)
    -> (B,) mean cosines in [-1, 1]; lower is better.

    AssertionError as in similarity.
    """
    return similarity(pictures, other_references)
