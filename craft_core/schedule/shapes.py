"""The family of schedule shapes: how much content and style a noise level gets.

A shape is a function (noise, *, knobs) -> (content, style). noise is u, 1 at the first step of
sampling and 0 at the last; both results lie in [0, 1]. Knobs that mean a time are in progress,
1 - u, so that they read from left to right. To add one: a file named after it, one import in
__init__.py, a test.
"""

from __future__ import annotations

from ..registry import Registry

SHAPES = Registry("schedule shape")
