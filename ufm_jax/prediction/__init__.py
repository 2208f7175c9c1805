"""A trained model on images: on a split, on a folder."""
