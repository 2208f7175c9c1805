"""Federated algorithms: one algorithm, one file."""
