"""Votes of nearest neighbours, against a search by hand."""

import numpy as np
import pytest

from ufm_jax.evaluation.probes.neighbours import vote


def test_votes_agree_with_a_search_by_hand():
    rng = np.random.default_rng(0)
    bank, queries = rng.normal(size=(30, 5)), rng.normal(size=(7, 5))
    targets = rng.integers(0, 2, (30, 3)).astype(np.float32)
    targets[rng.random(30) < 0.5, 1] = np.nan
    counts = (1, 4, 29)
    found = vote(bank, targets, queries, counts)
    for position, count in enumerate(counts):
        for q, query in enumerate(queries):
            for c in range(3):
                known = [i for i in range(30) if not np.isnan(targets[i, c])]
                cosine = {
                    i: bank[i] @ query / np.linalg.norm(bank[i]) / np.linalg.norm(query)
                    for i in known
                }
                nearest = sorted(known, key=lambda i, s=cosine: -s[i])[:count]
                weights = np.exp([cosine[i] / 0.07 for i in nearest])
                expected = weights @ targets[nearest, c] / weights.sum()
                assert found[position, q, c] == pytest.approx(expected, abs=1e-9)


def test_an_absent_class_has_no_votes_and_an_unknown_finding_one_half():
    rng = np.random.default_rng(1)
    bank = rng.normal(size=(20, 4))
    targets = np.eye(4)[np.arange(20) % 3]
    found = vote(bank, targets, bank, (5,))[0]
    np.testing.assert_array_equal(found[:, 3], 0)
    np.testing.assert_allclose(found.sum(1), 1)
    targets[:, 1] = np.nan
    np.testing.assert_array_equal(vote(bank, targets, bank, (5,))[0, :, 1], 0.5)
