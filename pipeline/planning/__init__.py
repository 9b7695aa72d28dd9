"""What is trained: tasks, their folds and the gene groups of each model."""
