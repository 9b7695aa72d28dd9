"""Cohorts from Python: slides, genes and labels as a run reads them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline.config.loading import load_config
from pipeline.config.paths import Paths
from pipeline.config.schema import Config
from preprocessing.cohort import Cohort
from preprocessing.io.errors import InputError, count
from workflows.api.pages import table_page
from workflows.api.processes import hidden_main
from workflows.cohorts import read_cohort


@dataclass(frozen=True)
class InputCohort:
    """The cases of slides and tables, as a run reads them; nothing is embedded yet.

    Attributes:
        settings: values by dotted key of the configuration, from which a run reads the same cohort.
        config: the resolved configuration.
        cohort: slides, genes and labels of all cases.
    """

    settings: Mapping[str, Any]
    config: Config
    cohort: Cohort

    @cached_property
    def cases(self) -> pd.DataFrame:
        """A row for each case of any input, by case id: `slides` (how many), `has_genes`, `used`, and its labels."""
        cohort = self.cohort
        by_case, used = cohort.slides_by_case(), set(cohort.used_cases())
        index = pd.Index(cohort.named_cases(), name="case_id")
        columns = {
            "slides": [len(by_case.get(case, ())) for case in index],
            "has_genes": index.isin(cohort.omics.case_ids),
            "used": index.isin(list(used)),
        }
        return pd.DataFrame(columns, index=index).join(cohort.labels)

    @cached_property
    def slides(self) -> pd.DataFrame:
        """A row for each usable slide, by slide id: `case_id`, `path`, `mpp` (µm per level-0 pixel), `width_px`, `height_px`."""
        rows = {
            slide.slide_id: (slide.case_id, str(slide.path), slide.mpp, *slide.size_px) for slide in self.cohort.slides
        }
        columns = ["case_id", "path", "mpp", "width_px", "height_px"]
        table = pd.DataFrame.from_dict(rows, orient="index", columns=columns)
        return table.rename_axis("slide_id")

    @cached_property
    def genes(self) -> pd.DataFrame:
        """Molecular features, unscaled: cases × features; NaN where a value is missing."""
        omics = self.cohort.omics
        return pd.DataFrame(omics.values, index=pd.Index(omics.case_ids, name="case_id"), columns=list(omics.features))

    def __len__(self) -> int:
        """Number of cases that a run uses."""
        return len(self.cohort.used_cases())

    def _repr_html_(self) -> str:
        cohort = self.cohort
        text = f"{len(self)} usable cases of {len(self.cases)}; {count(len(cohort.slides), 'slide')}; {self.genes.shape[1]} genes"
        return table_page("Cohort", text, self.cases)


Slides = str | Path | Sequence[str | Path] | None


def input_paths(slides: Slides, genes: str | Path | None) -> dict[str, str | list[str]]:
    """Return slides and genes as values of the configuration.

    Raises:
        InputError: something else than paths, such as a data frame.
    """
    several = [] if slides is None or isinstance(slides, str | Path) else list(slides)
    values: list[tuple[str, object]] = [("slides", one) for one in several] or [("slides", slides)]
    for name, value in [*values, ("genes", genes)]:
        if value is not None and not isinstance(value, str | Path):
            raise InputError(f"{name}: give the path of a file or folder, not {type(value).__name__}")
    return {"slides": [str(one) for one in several] or str(slides or "none"), "genes": str(genes or "none")}


def open_cohort(slides: Slides, genes: str | Path | None, **settings: Any) -> InputCohort:
    """Read the slides and tables of a cohort, everything but pixels.

    Args:
        slides: folder, slide or several, or manifest CSV; None: genes only.
        genes: gene table; None: slides only.
        settings: further keys of the configuration, such as `clinical="clinical.tsv"` or `default_mpp=0.5`. Keys with a dot are
            given as `**{"tiles.mpp": 0.25}`.

    Raises:
        InputError: whatever is wrong with slides, tables or settings.
    """
    given = {**input_paths(slides, genes), **settings}
    config = load_config(given)
    paths = Paths.from_config(config, absolute=False)
    with hidden_main():
        cohort = read_cohort(config, paths, trained=True)
    return InputCohort(given, config, cohort)
