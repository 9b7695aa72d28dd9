"""The slides of a run: found in folders, listed in manifests, selected by kind, sample type and resolution."""
