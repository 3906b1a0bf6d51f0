"""Exact gradients through the host's models: what they need is kept, what has none is replaced."""
