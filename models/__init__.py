"""Torch models, their losses and the mathematics behind them; nothing here knows of files, tables or slides."""
