"""Progress and log messages in the terminal."""
