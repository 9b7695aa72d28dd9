"""Tables with one row per case: which columns are ids, genes, labels, and how rows become cases."""
