"""Model folders: a trained model with all that prediction needs, and its model card."""
