"""The federation engine. It knows no model and no image: it is given a loss function."""
