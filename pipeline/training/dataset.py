"""Cases as batches: bags as they are in the store, genes scaled by the training cases."""

import logging
import zlib
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Float32, Float64, Int32, Int64

from models.types import Batch
from pipeline.training.bag_files import BagFiles
from preprocessing.features.store import FeatureStore
from preprocessing.omics.matrix import COVARIATE, OmicsMatrix, concatenate, covariates
from preprocessing.omics.scaler import OmicsScaler

log = logging.getLogger(__name__)
CACHE_BYTES = 4 << 30  # bags kept in memory by one process, unless that is more than its share of the memory


@dataclass
class Bags:
    """The bags of a cohort, read when they are wanted and kept while memory lasts.

    Attributes:
        store: the feature store.
        keys: the feature groups of each case's slides; a case without slides has none.
        keep_bytes: what may be kept; the bag that was read last always is.
        max_patches: of larger bags, models read a random sample of this size: in a training step a new one, else always the
            same of a case. None: all patches.
        files: where bags go that are not kept any longer, to be read again from there; None: they are read from the store.
    """

    store: str | Path
    keys: Mapping[str, tuple[str, ...]]
    keep_bytes: int = CACHE_BYTES
    max_patches: int | None = None
    files: BagFiles | None = None
    _kept: "OrderedDict[str, tuple[np.ndarray, np.ndarray]]" = field(default_factory=OrderedDict)
    _bytes: int = 0

    def width(self) -> int:
        """P, width of a patch feature; 1 where no case has a slide."""
        for case in self.keys:
            features, _ = self.read(case)
            if len(features):
                return int(features.shape[1])
        return 1

    def read(self, case: str) -> tuple[Float[np.ndarray, "N P"], Int32[np.ndarray, "N 3"]]:
        """All patch features of a case, in the type that they are stored in, and their cells: slide number, column, row."""
        if case in self._kept:
            self._kept.move_to_end(case)
            return self._kept[case]
        keys = self.keys.get(case, ())
        bag = (self.files.read(keys) if self.files else None) or self._of_store(keys)
        self._keep(case, bag)
        return bag

    def _of_store(self, keys: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        bags = [FeatureStore(self.store).read_features(key) for key in keys]
        if not bags:
            return np.zeros((0, 1), np.float16), np.zeros((0, 3), np.int32)
        numbers = np.repeat(np.arange(len(bags), dtype=np.int32), [len(bag.features) for bag in bags])
        cells = np.column_stack([numbers, np.concatenate([bag.cells for bag in bags])])
        return np.concatenate([bag.features for bag in bags]), cells

    def _keep(self, case: str, bag: tuple[np.ndarray, np.ndarray]) -> None:
        self._kept[case] = bag
        self._bytes += bag[0].nbytes + bag[1].nbytes
        while self._bytes > self.keep_bytes and len(self._kept) > 1:
            oldest, (features, cells) = self._kept.popitem(last=False)
            self._bytes -= features.nbytes + cells.nbytes
            if self.files:
                self.files.write(self.keys.get(oldest, ()), (features, cells))


@dataclass(frozen=True)
class Dataset:
    """Cases as a model takes them.

    Attributes:
        bags: where patch features come from.
        patch_dim: their width.
        rows: row of each case in `omics`; a case without genes has none.
        omics: of each gene group the g scaled columns of n cases.
        covariates: number of the group that holds clinical covariates, if there is one.
    """

    bags: Bags
    patch_dim: int
    rows: Mapping[str, int]
    omics: Sequence[Float32[np.ndarray, "n g"]]
    covariates: int | None = None

    def batch(
        self, cases: Sequence[str], *, max_patches: int | None = None, rng: np.random.Generator | None = None
    ) -> Batch:
        """The cases, in that order. Bags are views of what is kept in memory, in the type that they are stored in.

        Args:
            cases: ids.
            max_patches: a smaller bound than that of the bags.
            rng: draws the samples of bags that are cut; without one, a case is always cut to the same sample.
        """
        bound = min((size for size in (max_patches, self.bags.max_patches) if size is not None), default=None)
        bags = [_sampled(self.bags.read(case), bound, rng or _generator_of(case)) for case in cases]
        rows = [self.rows.get(case, -1) for case in cases]
        has_omics = torch.tensor([row >= 0 for row in rows])
        return Batch(
            bags=tuple(torch.from_numpy(features) for features, _ in bags),
            cells=tuple(torch.from_numpy(cells) for _, cells in bags),
            omics=tuple(torch.from_numpy(group[rows]) * has_omics[:, None] for group in self.omics),
            has_omics=has_omics,
        )

    def cut(self, cases: Sequence[str]) -> list[str]:
        """The cases with more tiles than are read at once: a sample of them is read."""
        bound = self.bags.max_patches
        return [] if bound is None else [case for case in cases if len(self.bags.read(case)[0]) > bound]

    @property
    def group_dims(self) -> list[int]:
        """Width of each gene group."""
        return [group.shape[1] for group in self.omics]

    def genes(self, cases: Sequence[str]) -> Float64[np.ndarray, "n k"]:
        """All groups side by side, k the sum of their widths g; a case without genes stands at the mean, which is zero."""
        rows = np.array([self.rows.get(case, -1) for case in cases])
        return np.concatenate([group[rows] for group in self.omics], axis=1).astype(float) * (rows >= 0)[:, None]


def _sampled(
    bag: tuple[np.ndarray, np.ndarray], size: int | None, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    features, cells = bag
    if size is None or len(features) <= size:
        return bag
    _warn_of_samples(size)
    chosen = _sample(len(features), size, rng)
    return features[chosen], cells[chosen]


def rows_read(case: str, n: int, max_patches: int | None) -> Int64[np.ndarray, " m"]:
    """The numbers of the tiles of a case that a model reads outside of training: all n, or always the same sample.

    Args:
        case: its id.
        n: number of its tiles.
        max_patches: see `Bags`.
    """
    return np.arange(n) if max_patches is None or n <= max_patches else _sample(n, max_patches, _generator_of(case))


def _sample(n: int, size: int, rng: np.random.Generator) -> Int64[np.ndarray, " size"]:
    return np.sort(rng.choice(n, size, replace=False))


@cache
def _warn_of_samples(size: int) -> None:
    log.warning("of cases with more than %s tiles, a random sample of that size is read", f"{size:,}")


def _generator_of(case: str) -> np.random.Generator:
    """A generator that is the same for a case in every run."""
    return np.random.default_rng(zlib.crc32(case.encode()))


def with_covariates(
    omics: OmicsMatrix, labels: pd.DataFrame, columns: Sequence[str], *, features: Sequence[str] | None = None
) -> OmicsMatrix:
    """The molecular features, and beside them those of clinical columns; where there are no molecular ones, of all cases.

    Args:
        omics: unscaled; of some of the cases.
        labels: the clinical columns, indexed by case id.
        columns: which of them.
        features: a trained model's features; see `preprocessing.omics.matrix.covariates`. A column without a value is then missing.
    """
    with_genes = set(omics.case_ids)
    known = [case for case in labels.index if case in with_genes] or list(labels.index)
    if features is not None:
        columns = known_covariates(labels.loc[known], columns)
    if not columns:
        return omics
    clinical = covariates(labels.loc[known], columns, features=features)
    return concatenate([omics.take(known), clinical]) if omics.features else clinical


def known_covariates(labels: pd.DataFrame, columns: Sequence[str]) -> list[str]:
    """The covariates of a model that some case has; the others are missing, like missing genes."""
    return [column for column in columns if column in labels and labels[column].notna().any()]


def dataset_for(
    scaler: OmicsScaler | None, omics: OmicsMatrix, bags: Bags, *, patch_dim: int, max_missing: float = 1.0
) -> Dataset:
    """The cases as a model with this scaler takes them; without one, it was trained without genes.

    Args:
        scaler: fitted on the model's training cases.
        omics: unscaled features of the cases that have genes, covariates among them.
        bags: their patch features.
        patch_dim: width of a patch feature.
        max_missing: share of a gene group beyond which the group counts as absent; see `absent_groups`.
    """
    if scaler is None:
        return Dataset(bags, patch_dim, {}, ())
    absent = absent_groups(scaler, omics, max_missing)
    groups = scaler.transform(omics)
    for group, lost, average in zip(groups, absent.T, scaler.average(), strict=True):
        group[lost] = average
    there = _has_genes(absent, list(scaler.groups))
    rows = {case: i for i, case in enumerate(omics.case_ids) if there[i]}
    return Dataset(bags, patch_dim, rows, groups, scaler.covariates)


def absent_groups(scaler: OmicsScaler, omics: OmicsMatrix, max_missing: float) -> Bool[np.ndarray, "cases groups"]:
    """The gene groups of which a case lacks more than that share: their value is the training cases' average."""
    return scaler.missing_share(omics) > max_missing


def _has_genes(absent: Bool[np.ndarray, "cases groups"], groups: Sequence[str]) -> Bool[np.ndarray, " cases"]:
    """Whether at least half of the groups of genes are there; of a model that has covariates alone, whether they are."""
    of_genes = np.array([name != COVARIATE for name in groups])
    return absent[:, of_genes if of_genes.any() else ~of_genes].mean(axis=1) <= 1 / 2
