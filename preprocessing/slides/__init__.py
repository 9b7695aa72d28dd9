"""Whole-slide images: discovery, reading, tissue, tiles, stain."""
