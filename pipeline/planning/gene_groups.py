"""The gene groups that each candidate of a run reads: the run's gene sets, or those that the model requires."""

import logging
from collections.abc import Mapping

from models.catalogue import MODELS
from pipeline.config.candidates import ModelCandidate
from pipeline.config.schema import Config
from preprocessing.omics.gene_sets import read_gene_sets
from preprocessing.omics.matrix import OmicsMatrix
from preprocessing.omics.subspaces import FLAGS, Subspaces, check_subspaces, choose_subspaces

log = logging.getLogger(__name__)


def gene_groups(
    config: Config, omics: OmicsMatrix, candidate: ModelCandidate
) -> tuple[Mapping[str, list[str]] | None, tuple[str, ...]]:
    """Genes by group, None where the training cases decide, and notes on them.

    Raises:
        InputError: see `preprocessing.omics.subspaces`.
    """
    if MODELS[candidate.model].subspaces:
        chosen = _subspaces(config, omics)
        return (chosen.genes, chosen.notes) if chosen else (None, ())
    return (read_gene_sets(config.gene_sets) if config.gene_sets else None), ()


def check_gene_groups(config: Config, omics: OmicsMatrix) -> None:
    """Raise InputError where the subspaces cannot be; warn where they are named and no model requires them."""
    if any(MODELS[candidate.model].subspaces for candidate in config.candidates()):
        _subspaces(config, omics)
    elif config.tumour_genes or config.microenvironment_genes:
        log.warning("%s: no model of this run uses them", " and ".join(FLAGS.values()))


def _subspaces(config: Config, omics: OmicsMatrix) -> Subspaces | None:
    sets = read_gene_sets(config.gene_sets) if config.gene_sets else None
    chosen = choose_subspaces(sets, tumour=config.tumour_genes, microenvironment=config.microenvironment_genes)
    return check_subspaces(chosen, omics.features, omics.kinds, table=str(config.genes or "the tables"))
