"""Flax modules: the only importers of flax."""
