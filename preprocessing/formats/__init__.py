"""Formats of other tools: HDF5 features, GeoJSON, heatmaps."""
