"""Probes of features: logistic regressions and nearest neighbours, on arrays."""
