"""Transforms of what clients send, chained like optax's: compression, clipping, noise, attacks."""
