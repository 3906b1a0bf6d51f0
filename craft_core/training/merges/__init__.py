"""Merges of LoRAs that are learned, one a file."""
