"""Attacks that a user runs against a configuration or a model of their own."""
