"""Patch features as a torch dataset, for training a head of one's own."""

import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.data import Dataset

from preprocessing.features.store import FeatureStore


class SlideDataset(Dataset[tuple[Float[Tensor, "N D"], Any]]):
    """Cases with the patch features of all their slides and a label; read when an item is requested, and not kept.

    Args:
        store: the feature store.
        keys: of the features of each case's slides, by case id.
        labels: by case id.
        max_tiles: tiles of a case; of a larger one always the same random sample. None: all.
    """

    def __init__(
        self,
        store: FeatureStore,
        keys: Mapping[str, Sequence[str]],
        labels: Mapping[str, Any],
        *,
        max_tiles: int | None = None,
    ) -> None:
        self.store, self.keys, self.labels, self.max_tiles = store, dict(keys), dict(labels), max_tiles
        self.cases = list(self.keys)

    def __len__(self) -> int:
        """Number of cases."""
        return len(self.cases)

    def __getitem__(self, index: int) -> tuple[Float[Tensor, "N D"], Any]:
        """Return the features of a case, float32, and its label."""
        case = self.cases[index]
        features = np.concatenate([self.store.read_features(key).features for key in self.keys[case]])
        if self.max_tiles is not None and len(features) > self.max_tiles:
            rng = np.random.default_rng(zlib.crc32(case.encode()))
            features = features[np.sort(rng.choice(len(features), self.max_tiles, replace=False))]
        return torch.from_numpy(features.astype(np.float32)), self.labels[case]
