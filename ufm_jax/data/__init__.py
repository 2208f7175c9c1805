"""Sources, decoding, partition and synthetic data: numpy only, no jax."""
