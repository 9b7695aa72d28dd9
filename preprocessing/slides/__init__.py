"""Whole-slide images: files, probing, resolution, reading."""
