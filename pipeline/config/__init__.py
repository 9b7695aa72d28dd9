"""The configuration of a run: its schema, its presets, and how it is read."""
