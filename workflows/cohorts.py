"""The cohort of a run: read from slides and tables, several of them pooled and brought to one scale."""

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.config.paths import Paths
    from pipeline.config.schema import Config
    from preprocessing.cohort import Cohort
    from preprocessing.slide_lists.discovery import SlideSource

log = logging.getLogger("run_pipeline")


def read_cohort(
    config: "Config",
    paths: "Paths",
    *,
    trained: bool,
    features: Sequence[str] = (),
    named: Sequence[str] = (),
    tasks: Sequence[str] = (),
) -> "Cohort":
    """Read slides, with paths as the workers see them, and tables; several cohorts are pooled.

    Args:
        config: the run's.
        paths: the paths that workers use.
        trained: whether the run predicts with trained models, which may start with slides that have no genes yet.
        features: genes that these read.
        named: columns that these read as labels or covariates.
        tasks: of these, and labels by which the cohort is brought to their scale.
    """
    from preprocessing.cohort import CohortFiles, CohortOptions, load_cohort, pool_cohorts
    from preprocessing.features.store import FeatureStore
    from preprocessing.io.errors import InputError

    def load(slides: "SlideSource | None", inputs: "Config") -> "Cohort":
        options = CohortOptions(
            cases=config.cases,
            slides=config.slide_options(masks=paths.masks),
            tables=inputs.table_options(named, tasks),
            features=frozenset(features),
            must_share=not trained,
            identity=inputs.identity_scheme(),
        )
        files = CohortFiles(slides, inputs.genes, inputs.clinical, inputs.further_tables)
        return load_cohort(files, options, store=FeatureStore(paths.store), isolated=config.workers != 0)

    def load_one(name: str) -> "Cohort":
        try:
            return load(paths.cohorts[name], config.for_cohort(name))
        except InputError as error:
            raise InputError(f"cohort {name}: {error}") from None

    if not config.cohorts:
        return load(paths.slides, config)
    return pool_cohorts({name: load_one(name) for name in config.cohorts}, cases=config.cases)


def with_batch(config: "Config", cohort: "Cohort") -> "Config":
    """Return the configuration with `omics.batch` settled: whether genes of several cohorts are brought to one scale."""
    from preprocessing.cohort import cohorts_by_case
    from preprocessing.io.errors import InputError, count
    from preprocessing.omics.harmonisation.batch import MIN_CASES, scales_differ, small_cohorts

    if not config.cohorts or config.omics.batch == "none" or not cohort.omics.case_ids:
        return config
    cohort_of = cohorts_by_case(cohort.labels)
    per_cohort = config.omics.batch == "per-cohort"
    reason = "" if per_cohort else scales_differ(cohort.omics, cohort_of)
    small = small_cohorts(cohort.omics, cohort_of)
    for name, cases in small.items():
        if per_cohort or reason:
            raise InputError(
                f"--cohort {name}: {count(cases, 'case')} with genes, too few to bring them to the scale of the other cohorts "
                f"(at least {MIN_CASES}{'; ' + reason if reason else ''}); give genes on one scale and "
                "--set omics.batch=none, or leave the cohort out"
            )
        log.warning(
            "cohort %s: %s with genes, too few to compare their scale closely; they stay as they are",
            *(name, count(cases, "case")),
        )
    if per_cohort:
        return config
    if reason:
        log.info(
            "genes of the cohorts are on different scales (%s), and are brought to one (omics.batch: per-cohort)",
            reason,
        )
    elif len(config.cohorts) - len(small) > 1:
        log.info("genes of the cohorts are on one scale, and stay as they are (omics.batch: none)")
    omics = config.omics.model_copy(update={"batch": "per-cohort" if reason else "none"})
    return config.model_copy(update={"omics": omics})
