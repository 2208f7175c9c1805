"""Fine-tuning, probing, evaluation and prediction: what an encoder is worth for a clinic's task."""
