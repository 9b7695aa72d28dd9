"""Dask: workers on this machine, on a cluster or behind a scheduler, and the jobs mapped over them."""
