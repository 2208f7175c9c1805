"""Images decoded once, and kept as rows of one size."""
