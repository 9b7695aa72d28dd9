"""Whole-slide images: discovery, manifests, probing, resolution, reading."""
