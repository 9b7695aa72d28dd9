"""Gene tables: which side holds the cases, which columns are genes, and how rows become cases."""
