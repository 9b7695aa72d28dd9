"""Tables of genes and labels: reading, case ids, which columns are what, one row per case."""
