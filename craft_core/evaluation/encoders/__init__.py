"""Encoders of pictures and texts: what scores need of them, and the files that the pack reads."""
