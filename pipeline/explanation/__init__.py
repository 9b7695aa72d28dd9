"""What models see in a case."""
