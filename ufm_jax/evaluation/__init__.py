"""How good a model is: metrics, intervals, comparisons. numpy, scipy and scikit-learn, no jax."""
