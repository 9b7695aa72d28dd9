"""The cohort: slides, molecular features and labels of all cases."""

from collections.abc import Collection, Mapping, Set
from dataclasses import dataclass, field, replace
from typing import Literal

import pandas as pd

from preprocessing.case_tables.case_rows import Dropped
from preprocessing.features.precomputed import PrecomputedRecipe
from preprocessing.labels.tumour import GLIOMA
from preprocessing.omics.harmonisation.rescale import Method, Target, rescale
from preprocessing.omics.matrix import OmicsMatrix
from preprocessing.slides.slide import LeftOut, Slide, SlideFile
from preprocessing.tables.identity import IdentityScheme

COHORT = "cohort"  # column of the labels: which of several cohorts a case is from


def cohorts_by_case(labels: pd.DataFrame) -> dict[str, str]:
    """Return the cohort of each case, where several are pooled; of a single one, nothing."""
    return {str(case): str(name) for case, name in labels[COHORT].items()} if COHORT in labels else {}


@dataclass(frozen=True)
class Cohort:
    """Slides, molecular features and labels of all cases of the input.

    Attributes:
        found: every slide file, before any was opened.
        slides: usable slides.
        left_out: slides that are not used, with the reason.
        omics: unscaled molecular features of every case in the tables; missing values are NaN.
        labels: labels and covariates by case id, of every case in any table.
        annotations: the columns from which labels were read, as in the file.
        rows_dropped: unused table rows (other samples of a case, …), with the reason.
        notes: every decision made in reading the tables, one sentence each.
        needs: what a case needs to be used: "both" slides and genes, "any" of them, or the only input of the run.
        gaps: by case id, why a label is missing: columns grade, subtype, survival_months.
        excluded: cases all of whose samples are of a type that is not used, with the reason.
        endpoint: survival endpoint of the labels.
        tumour: glioma or other, see `preprocessing.labels.tumour`.
        label_source: name of the file with the labels, in messages.
        identity: how ids of slides, samples and tables are spelt.
        precomputed: recipe of the features where the manifest lists precomputed features instead of slides.
    """

    found: tuple[SlideFile, ...]
    slides: tuple[Slide, ...]
    left_out: tuple[LeftOut, ...]
    omics: OmicsMatrix
    labels: pd.DataFrame
    annotations: pd.DataFrame
    rows_dropped: tuple[Dropped, ...]
    notes: tuple[str, ...]
    needs: Literal["both", "any", "slides", "genes"]
    precomputed: PrecomputedRecipe | None = None
    gaps: pd.DataFrame = field(default_factory=pd.DataFrame)
    excluded: Mapping[str, str] = field(default_factory=dict)
    endpoint: str = "OS"
    tumour: str = GLIOMA
    label_source: str = "the table of labels"
    identity: IdentityScheme = field(default_factory=IdentityScheme)

    def slides_by_case(self, usable: Collection[str] | None = None) -> dict[str, list[Slide]]:
        """Slides of each case, sorted by id; only those in `usable` if given."""
        found: dict[str, list[Slide]] = {}
        for slide in sorted(self.slides, key=lambda slide: slide.slide_id):
            if usable is None or slide.slide_id in usable:
                found.setdefault(slide.case_id, []).append(slide)
        return found

    def named_cases(self) -> list[str]:
        """All cases of slides and tables, those of unused rows included, sorted."""
        slides, rows = {file.case_id for file in self.found}, {row.case_id for row in self.rows_dropped}
        return sorted(slides | rows | {*self.omics.case_ids, *map(str, self.labels.index)})

    def without_labels_of(self, cases: Set[str]) -> "Cohort":
        """Return the cohort without the labels of these cases, of which it has neither slides nor genes."""

        def others(table: pd.DataFrame) -> pd.DataFrame:
            return table[~table.index.astype(str).isin(cases)]

        return replace(
            self,
            labels=others(self.labels),
            annotations=others(self.annotations),
            gaps=others(self.gaps),
            rows_dropped=tuple(row for row in self.rows_dropped if row.case_id not in cases),
            excluded={case: why for case, why in self.excluded.items() if case not in cases},
        )

    def rescaled(self, targets: Mapping[str, Target], method: Method) -> "Cohort":
        """Return the cohort with its expression on the scale of a training cohort, see `rescale`."""
        return replace(self, omics=rescale(self.omics, targets, method)) if method != "none" else self

    def used_cases(self, usable: Collection[str] | None = None) -> list[str]:
        """Cases with the inputs that the run needs, sorted; only slides in `usable` count if given."""
        with_slides = set(self.slides_by_case(usable)) - self.excluded.keys()
        with_genes = set(self.omics.case_ids) - self.excluded.keys()
        if self.needs == "slides":
            return sorted(with_slides)
        if self.needs == "genes":
            return sorted(with_genes)
        return sorted(with_slides & with_genes if self.needs == "both" else with_slides | with_genes)
