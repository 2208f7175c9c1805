"""What a run's folder holds: names, history, checkpoints, the noise key, exported weights."""
