"""Other implementations to measure against, each in an environment and a process of its own."""
