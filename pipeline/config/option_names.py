"""Options of the command line by the key that they set, for messages about a key."""

OPTIONS = {
    "clinical": "--clinical",
    "cohorts": "--cohort",
    "defining_features": "--defining-features",
    "encoder.name": "--encoder",
    "encoder.weights": "--encoder-weights",
    "further_tables": "--omics",
    "gene_sets": "--gene-sets",
    "model": "--model",
    "out": "--out",
    "slide_hash": "--hash",
    "slide_kind": "--slide-kind",
    "splits": "--splits",
    "tiles.mpp": "--mpp",
    "tiles.stain.method": "--stain",
    "tiles.tile_px": "--tile-px",
    "tiles.tissue.masks": "--tissue-masks",
    "train.epochs": "--epochs",
    "train.joint": "--joint",
    "trained": "--trained",
}
