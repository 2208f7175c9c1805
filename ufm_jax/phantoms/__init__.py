"""Ultrasound phantoms: a federation of simulated institutions with known truth.

Nothing is imported here, so that what a phantom must be told costs nobody the simulator's packages.
"""

MIN_SIZE = 32
"""Pixels of a side that a phantom has at least."""
