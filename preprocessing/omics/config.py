"""Settings of the molecular features."""

from typing import Literal

from pydantic import Field

from models.settings import Settings


class OmicsConfig(Settings):
    """Scaling and grouping of molecular features (keys under `omics`)."""

    scaling: Literal["standard", "minmax-gene", "minmax-table"] = Field(
        default="standard",
        description="standard: each gene by its mean and sd; minmax-gene: each gene to [−1, 1], zeros kept; minmax-table: the "
        "whole table to [−1, 1] by one minimum and maximum, zeros kept, where a single outlier squeezes all other values to a "
        "point",
    )
    clip: float = Field(default=5.0, gt=0, description="standard scaling: largest distance from the mean, in sd")
    axes: Literal["principal", "genes"] = Field(
        default="principal",
        description="model input of a group: the scores of its genes on their principal axes, or the genes themselves",
    )
    log: Literal["auto", "always", "never"] = Field(
        default="auto", description="log2(x + 1) of expression; auto: if the values are counts"
    )
    batch: Literal["auto", "per-cohort", "none"] = Field(
        default="auto",
        description="with several cohorts: per-cohort brings mean and sd of each gene in each cohort to those of the largest "
        "one, by its training cases, or by all its cases if it is left out. none: values stay as they are. auto: per-cohort if "
        "the cohorts are on different scales",
    )
    ungrouped: Literal["group", "drop"] = Field(
        default="group", description="genes in no set: they form a group, or are dropped"
    )
    empty_sets: Literal["error", "drop"] = Field(
        default="error", description="gene sets without a gene in the table: an error, or dropped"
    )
    n_clusters: int = Field(default=6, ge=1, description="number of groups if no gene sets are given")
    max_missing: float = Field(
        default=0.5,
        ge=0,
        le=1,
        description="features that are missing in a larger share of the training cases are left out",
    )
    keep: tuple[str, ...] = Field(
        default=(), description="columns of the gene tables that are features, whatever they are called"
    )
    ignore: tuple[str, ...] = Field(default=(), description="columns of the gene tables to leave out")
