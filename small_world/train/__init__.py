"""Training of the small world with the host's own model class; run `python -m small_world.train`."""
