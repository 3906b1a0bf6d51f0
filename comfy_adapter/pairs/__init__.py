"""Pairs of content and style pictures: given, mixed by frequency, or generated."""
