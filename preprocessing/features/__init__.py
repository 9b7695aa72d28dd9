"""Patch features: encoders, embedding, and the Zarr store that holds them."""
