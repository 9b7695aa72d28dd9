"""Tiles of a slide: tissue, masks, the grid, quality, stain, slide statistics."""
