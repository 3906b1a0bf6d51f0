"""Presets: method, layer sets, strengths, schedule and guidance in one go."""

from .reader import SHIPPED, NodeValues, node_values

__all__ = ["SHIPPED", "NodeValues", "node_values"]
