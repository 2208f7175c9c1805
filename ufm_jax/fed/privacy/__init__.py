"""Differential privacy, its accounting, and secure aggregation."""
