"""Figures read as text."""

import numpy as np

from ufm_jax.evaluation.results import Estimate


def test_an_estimate_reads_as_text():
    assert str(Estimate(0.91234, 0.85, 0.95, 10)) == "0.912 (0.850 to 0.950)"
    assert str(Estimate(0.91234, np.nan, np.nan, 10)) == "0.912"
