"""From stored pixels to a loss: reconstruction, diagnosis, segmentation."""
