"""Where an image shows tissue, and the probe's geometry that it was scanned with."""
