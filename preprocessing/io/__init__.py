"""Files of every kind: errors that name them, opening, writing whole or not at all, fingerprints."""
