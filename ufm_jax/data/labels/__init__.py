"""Labelled images: from tables, folders and sets to splits of rows with targets."""
