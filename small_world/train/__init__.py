"""Training with the host's own model class: `python -m small_world.train`."""
