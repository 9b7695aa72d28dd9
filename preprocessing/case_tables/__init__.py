"""Tables with one row a case: which columns are ids, genes, labels, and how rows become cases."""
