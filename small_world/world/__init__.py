"""The procedural world: objects times drawing styles, rendered by code."""
