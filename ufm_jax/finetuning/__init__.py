"""From an encoder to a trained task."""
