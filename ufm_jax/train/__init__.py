"""Training loops, checkpoints, metrics and reports."""
