"""What a run shows while it works: progress and machine usage."""
