"""What is explained from: slides, their features, genes and labels of the cases, as a model takes them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from pipeline.training.dataset import Bags, Dataset, dataset_for, known_covariates, with_covariates
from pipeline.training.model_folder import TrainedModel
from preprocessing.omics.matrix import OmicsMatrix


@dataclass(frozen=True)
class Material:
    """What models are shown, and where the pictures come from.

    Attributes:
        store: the feature store.
        omics: file of the joined molecular features.
        labels: labels and covariates of the cases, indexed by case id.
        slides: `slide_id, case_id, path, tiles, features` of every slide that has features, as in `slides.csv`; a case's
            slides in the order of their ids.
        max_missing: share of a gene group beyond which the group counts as absent; see `dataset_for`.
    """

    store: str
    omics: Path
    labels: pd.DataFrame
    slides: pd.DataFrame
    max_missing: float = 1.0

    @classmethod
    def of_run(cls, folder: Path, store: str, labels: pd.DataFrame, *, max_missing: float = 1.0) -> "Material":
        """Of a run that has joined its slides and genes."""
        slides = pd.read_csv(folder / "slides.csv", dtype=str, keep_default_na=False)
        slides = slides[slides["features"] != ""].sort_values("slide_id")
        return cls(store, folder / "omics.npz", labels, slides, max_missing)

    def of_case(self, case: str) -> pd.DataFrame:
        """The slides of a case."""
        return self.slides[self.slides["case_id"] == case]

    def matrix(self, trained: TrainedModel, cases: Sequence[str]) -> OmicsMatrix:
        """The unscaled features, covariates among them, of those of the cases that have any."""
        known = trained.scaler.features if trained.scaler else None
        columns = known_covariates(self.labels, trained.facts.get("covariates", ()))
        matrix = with_covariates(OmicsMatrix.load(self.omics), self.labels, columns, features=known)
        there = set(matrix.case_ids)
        return matrix.take([case for case in dict.fromkeys(cases) if case in there])

    def slides_alone(self, trained: TrainedModel, cases: Sequence[str]) -> Dataset:
        """The slides of the cases as a model takes them; it keeps the bags that it has read."""
        bags = Bags(self.store, {case: tuple(self.of_case(case)["features"]) for case in cases})
        dims = trained.scaler.group_dims if trained.scaler else []
        nobody = [np.zeros((1, width), np.float32) for width in dims]  # a row that no case has
        return Dataset(bags, trained.patch_dim, {}, nobody)

    def dataset(self, trained: TrainedModel, cases: Sequence[str], matrix: OmicsMatrix) -> Dataset:
        """The cases as a model takes them, with the genes that are in the matrix."""
        data = self.slides_alone(trained, cases)
        if not matrix.case_ids:
            return data
        return dataset_for(trained.scaler, matrix, data.bags, patch_dim=trained.patch_dim, max_missing=self.max_missing)
