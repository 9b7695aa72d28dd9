"""Patch encoders: tiles become patch features."""
