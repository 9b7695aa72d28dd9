"""The feature store: tiles and patch features in Zarr, complete and unaltered or not used."""
