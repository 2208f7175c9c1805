"""Simulated federated pretraining of medical foundation models."""
