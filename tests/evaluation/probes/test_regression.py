"""Regressions as heads: scikit-learn agrees, and what cannot be fitted has a stated answer."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from ufm_jax.evaluation.probes.regression import fit_heads


@pytest.mark.parametrize(("balance", "named"), [(0.0, None), (1.0, "balanced")])
def test_class_weights_are_those_of_scikit_learn(balance, named):
    rng = np.random.default_rng(2)
    numbers = np.repeat([0, 1, 2], [40, 12, 4])
    inputs = rng.normal(size=(56, 5)) + np.eye(5)[numbers]
    peer = make_pipeline(
        StandardScaler(), LogisticRegression(C=0.1, tol=1e-8, class_weight=named)
    ).fit(inputs, numbers)
    head = fit_heads(inputs, np.eye(3)[numbers], "single", (0.01, 0.1), balance)[1]
    found = head.probabilities(inputs, "single")
    np.testing.assert_allclose(found, peer.predict_proba(inputs), rtol=0, atol=1e-5)


def test_features_that_do_not_vary_do_not_change_the_head():
    rng = np.random.default_rng(3)
    numbers = np.arange(30) % 2
    inputs = (rng.normal(size=(30, 4)) + numbers[:, None]).astype(np.float32)
    flat = np.full((30, 2), 3, np.float32) + rng.normal(size=(30, 2)).astype(np.float32) * 1e-6
    with_flat = np.concatenate([inputs, flat], axis=1)
    plain = fit_heads(inputs, np.eye(2)[numbers], "single", (1.0,), 0.0)[0]
    head = fit_heads(with_flat, np.eye(2)[numbers], "single", (1.0,), 0.0)[0]
    assert (head.kernel[4:] == 0).all()
    np.testing.assert_allclose(head.kernel[:4], plain.kernel, rtol=0, atol=1e-5)


def test_an_absent_class_has_next_to_no_probability_and_the_others_are_as_without_it():
    rng = np.random.default_rng(1)
    numbers = np.arange(40) % 3
    inputs = rng.normal(size=(40, 6)) + np.eye(6)[numbers]
    with_gap = np.eye(4)[np.array([0, 2, 3])[numbers]]
    head, alone = (
        fit_heads(inputs, targets, "single", (1.0,), 0.0)[0].probabilities(inputs, "single")
        for targets in (with_gap, np.eye(3)[numbers])
    )
    assert (head[:, 1] > 0).all()
    assert (head[:, 1] < 1e-12).all()
    np.testing.assert_allclose(head[:, [0, 2, 3]], alone, rtol=0, atol=1e-6)


def test_findings_that_all_rows_share_have_the_shared_answer():
    rng = np.random.default_rng(1)
    inputs = rng.normal(size=(20, 4))
    targets = np.stack(
        [inputs[:, 0] > 0, np.zeros(20), np.ones(20), np.full(20, np.nan)], axis=1
    ).astype(np.float32)
    head = fit_heads(inputs, targets, "multi", (1.0,), 0.0)[0].probabilities(inputs, "multi")
    assert (head[:, 1] < 1e-12).all()
    assert (head[:, 2] > 1 - 1e-12).all()
    np.testing.assert_array_equal(head[:, 3], 0.5)
