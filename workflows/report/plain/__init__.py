"""The parts of the report in plain words: the question and the answer of each task, and one panel for each case."""
