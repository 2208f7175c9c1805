"""Predictions for the files of a folder."""
