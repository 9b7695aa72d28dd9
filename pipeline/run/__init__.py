"""The run folder: opening, auditing, reading it back; what is printed of it."""
