"""What explanations are computed from: slides, patch features, genes and labels of the cases, as a model reads them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pandas as pd

from pipeline.model_folders.model_folder import TrainedModel
from pipeline.training.dataset import Bags, Dataset, dataset_for, known_covariates, with_covariates
from preprocessing.io.outputs import read_text_table
from preprocessing.omics.harmonisation.batch import CohortScales
from preprocessing.omics.matrix import OmicsMatrix


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
    """

    store: str
    omics: Path
    labels: pd.DataFrame
    slides: pd.DataFrame
    device: str
    max_missing: float = 1.0
    cohort_of: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of_run(
        cls,
        folder: Path,
        store: str,
        labels: pd.DataFrame,
        *,
        device: str,
        max_missing: float = 1.0,
        cohort_of: Mapping[str, str] = MappingProxyType({}),
    ) -> "ExplanationInputs":
        """Read `slides.csv` of a run that has joined its slides and genes.

        Args:
            folder: the run folder.
            store: the feature store.
            labels: labels and covariates, indexed by case id.
            device: "cpu" or "cuda".
            max_missing: as above.
            cohort_of: as above.
        """
        slides = read_text_table(folder / "slides.csv", "slide_id", "case_id", "features")
        slides = slides[slides["features"] != ""].sort_values("slide_id")
        return cls(store, folder / "omics.npz", labels, slides, device, max_missing, cohort_of)

    def slides_of(self, case: str) -> pd.DataFrame:
        """Select the slides of a case."""
        return self.slides[self.slides["case_id"] == case]

    def omics_matrix(self, trained: TrainedModel, cases: Sequence[str]) -> OmicsMatrix:
        """Join the unscaled genes and covariates that a model reads, of those of the cases that have any."""
        known = trained.scaler.features if trained.scaler else None
        columns = known_covariates(self.labels, trained.metadata.get("covariates", ()))
        matrix = OmicsMatrix.load(self.omics)
        if self.cohort_of and (scales := trained.metadata.get("cohort_scales")):
            matrix = matrix.take([case for case in matrix.case_ids if case in self.cohort_of])
            matrix = CohortScales.from_json(scales).apply(matrix, self.cohort_of)
        matrix = with_covariates(matrix, self.labels, columns, features=known)
        available = set(matrix.case_ids)
        return matrix.take([case for case in dict.fromkeys(cases) if case in available])

    def slides_only(self, trained: TrainedModel, cases: Sequence[str]) -> Dataset:
        """Make a dataset of the cases' slides, without genes; it keeps in memory the bags that it has read."""
        bags = Bags(self.store, {case: tuple(self.slides_of(case)["features"]) for case in cases})
        dims = trained.scaler.group_dims if trained.scaler else []
        no_case = [np.zeros((1, width), np.float32) for width in dims]  # a row of genes that belongs to no case
        return Dataset(bags, trained.patch_dim, {}, no_case)

    def dataset(self, trained: TrainedModel, cases: Sequence[str], matrix: OmicsMatrix) -> Dataset:
        """Make a dataset of the cases' slides and of the genes in the matrix, scaled as the model reads them."""
        data = self.slides_only(trained, cases)
        if not matrix.case_ids:
            return data
        return dataset_for(trained.scaler, matrix, data.bags, patch_dim=trained.patch_dim, max_missing=self.max_missing)
