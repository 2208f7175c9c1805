"""Ultrasound phantoms: a federation of simulated institutions with known truth.

Nothing is imported here, so that settings can read ``MIN_SIZE`` without the simulator's packages.
"""

MIN_SIZE = 32
"""The shortest side of a phantom's canvas, pixels."""
