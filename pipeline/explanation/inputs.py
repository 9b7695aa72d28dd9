"""What explanations are computed from: slides, patch features, genes and labels of the cases, as a model reads them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Int32, Int64

from pipeline.config.schema import Config
from pipeline.inference.prediction import BAG_BYTES
from pipeline.model_folders.model_folder import TrainedModel
from pipeline.training.dataset import Bags, Dataset, dataset_for, rows_read, with_covariates
from preprocessing.features.store import FeatureStore
from preprocessing.io.outputs import read_text_table
from preprocessing.omics.harmonisation.batch import CohortScales
from preprocessing.omics.matrix import OmicsMatrix


@dataclass(frozen=True)
class ReadTiles:
    """The tiles of a slide that a model reads: all, or those that are in the sample of a larger case.

    Attributes:
        slide_id: the slide.
        path: its file.
        tiles: key of its tiles in the store; empty for imported features.
        rows: numbers of the read tiles among all tiles of the slide, from 0.
        coords: their upper left corners, level-0 pixels (x, y).
        cells: their columns and rows on the tile grid.
    """

    slide_id: str
    path: Path
    tiles: str
    rows: Int64[np.ndarray, " n"]
    coords: Int32[np.ndarray, "n 2"]
    cells: Int32[np.ndarray, "n 2"]


@dataclass(frozen=True)
class ExplanationInputs:
    """The cohort of a run, read from its files when needed, and the device that models run on.

    Attributes:
        store: the feature store.
        omics: file of the joined molecular features, unscaled.
        labels: labels and covariates of the cases, indexed by case id.
        slides: `slide_id`, `case_id`, `path`, `tiles` and `features` of every slide with features, as in `slides.csv`; the
            slides of a case sorted by id.
        device: "cpu" or "cuda".
        max_missing: share of missing genes, 0 to 1, above which a gene group counts as absent; see `dataset_for`.
        cohort_of: the cohort of each case, of several cohorts whose genes each model has brought to one scale.
        max_patches: tiles that models read of a case; see `Bags`.
    """

    store: str
    omics: Path
    labels: pd.DataFrame
    slides: pd.DataFrame
    device: str
    max_missing: float = 1.0
    cohort_of: Mapping[str, str] = field(default_factory=dict)
    max_patches: int | None = None

    @classmethod
    def of_run(
        cls,
        folder: Path,
        config: Config,
        labels: pd.DataFrame,
        *,
        device: str,
        max_missing: float = 1.0,
        cohort_of: Mapping[str, str] = MappingProxyType({}),
    ) -> "ExplanationInputs":
        """Read `slides.csv` of a run that has joined its slides and genes.

        Args:
            folder: the run folder.
            config: the configuration of the run.
            labels: labels and covariates, indexed by case id.
            device: "cpu" or "cuda".
            max_missing: as above.
            cohort_of: as above.
        """
        slides = read_text_table(folder / "slides.csv", "slide_id", "case_id", "features")
        slides = slides[slides["features"] != ""].sort_values("slide_id")
        bound = config.train.max_patches
        return cls(config.store, folder / "omics.npz", labels, slides, device, max_missing, cohort_of, bound)

    def slides_of(self, case: str) -> pd.DataFrame:
        """Select the slides of a case."""
        return self.slides[self.slides["case_id"] == case]

    def tiles_of(self, case: str) -> list[ReadTiles]:
        """Find the tiles of each slide of a case that models read, in the order of its bag."""
        slides: list[Any] = list(self.slides_of(case).itertuples())
        bags = [FeatureStore(self.store).read_features(slide.features) for slide in slides]
        starts = np.cumsum([0, *(len(bag.coords) for bag in bags)])
        read = rows_read(case, int(starts[-1]), self.max_patches)
        found = []
        for slide, bag, start in zip(slides, bags, starts, strict=False):
            rows = read[(read >= start) & (read < start + len(bag.coords))] - start
            tiles = ReadTiles(slide.slide_id, Path(slide.path), slide.tiles, rows, bag.coords[rows], bag.cells[rows])
            found.append(tiles)
        return found

    def omics_matrix(self, trained: TrainedModel, cases: Sequence[str]) -> OmicsMatrix:
        """Join the unscaled genes and covariates that a model reads, of those of the cases that have any."""
        known = trained.scaler.features if trained.scaler else None
        columns = trained.metadata.get("covariates", ()) if trained.scaler else ()
        matrix = OmicsMatrix.load(self.omics)
        if self.cohort_of and (scales := trained.metadata.get("cohort_scales")):
            matrix = matrix.take([case for case in matrix.case_ids if case in self.cohort_of])
            matrix = CohortScales.from_json(scales).apply(matrix, self.cohort_of)
        matrix = with_covariates(matrix, self.labels, columns, features=known)
        available = set(matrix.case_ids)
        return matrix.take([case for case in dict.fromkeys(cases) if case in available])

    def slides_only(self, trained: TrainedModel, cases: Sequence[str]) -> Dataset:
        """Make a dataset of the cases' slides, without genes; it keeps in memory the bags that it has read."""
        keys = {case: tuple(self.slides_of(case)["features"]) for case in cases}
        bags = Bags(self.store, keys, keep_bytes=BAG_BYTES, max_patches=self.max_patches)
        dims = trained.scaler.group_dims if trained.scaler else []
        no_case = [np.zeros((1, width), np.float32) for width in dims]  # a row of genes that belongs to no case
        return Dataset(bags, trained.patch_dim, {}, no_case)

    def dataset(self, trained: TrainedModel, cases: Sequence[str], matrix: OmicsMatrix) -> Dataset:
        """Make a dataset of the cases' slides and of the genes in the matrix, scaled as the model reads them."""
        data = self.slides_only(trained, cases)
        if not matrix.case_ids:
            return data
        return dataset_for(trained.scaler, matrix, data.bags, patch_dim=trained.patch_dim, max_missing=self.max_missing)
