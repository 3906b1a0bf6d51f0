"""Scores of pictures by the encoders that the host loads."""
