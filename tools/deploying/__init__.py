"""What `python -m tools.deploy` writes."""
