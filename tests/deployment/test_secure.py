"""The protocol over letters: the exact sum of those that came, and no second sum of others."""

import json

import numpy as np
import pytest

pytest.importorskip("cryptography", reason="the protocol needs ufm-jax[privacy]")

from ufm_jax.deployment.messages import Counted, Letter
from ufm_jax.deployment.secure import COUNTING, RestartedError, SecureSite, secure_sum_of
from ufm_jax.errors import RunError

NUMBERS = {"A": 0, "B": 1, "C": 2}
VECTORS = dict(
    zip(NUMBERS, np.random.default_rng(0).integers(0, 2**32, (3, 9), np.uint32), strict=True)
)


class Sites:
    """Three sites, of which some are lost before they answer letters of a kind."""

    def __init__(self, folder):
        self.sites = {s: SecureSite(k, 3, folder / s, {}) for s, k in NUMBERS.items()}
        self.lost, self.seen = {}, []

    def __call__(self, letters):
        letters = json.loads(
            json.dumps({site: [x.kind, dict(x.facts)] for site, x in letters.items()})
        )
        lost = {
            site for site, kind in self.lost.items() if any(k == kind for k, _ in letters.values())
        }
        answers = {s: self.answer(s, Letter(*x)) for s, x in letters.items() if s not in lost}
        self.seen += answers.items()
        return answers

    def answer(self, name, letter):
        site = self.sites[name]
        return {
            "keys": lambda: site.keys(),
            "shares": lambda: site.shares(letter),
            "masked": lambda: site.masked(letter, VECTORS[name]),
            "unmask": lambda: site.unmask(letter),
        }[letter.kind]()

    def sum(self, round_index=0):
        letters = dict.fromkeys(NUMBERS, Letter("masked", {"round": round_index}))
        return secure_sum_of(letters, NUMBERS, round_index, self)


def added(names):
    return np.sum([VECTORS[name] for name in names], axis=0, dtype=np.uint32)


def test_the_sum_is_exact_and_no_vector_is_sent(tmp_path):
    sites = Sites(tmp_path)
    words, came = sites.sum()
    assert came == ["A", "B", "C"]
    np.testing.assert_array_equal(words, added("ABC"))
    sent = [x.arrays["words"] for _, x in sites.seen if x.kind == "masked"]
    assert len(sent) == 3
    for masked in sent:
        assert not any((masked == vector).any() for vector in VECTORS.values())


@pytest.mark.parametrize("kind", ["shares", "masked"])
@pytest.mark.parametrize("lost", NUMBERS)
def test_one_of_three_may_be_lost(kind, lost, tmp_path):
    sites = Sites(tmp_path)
    sites.lost = {lost: kind}
    words, came = sites.sum()
    others = [site for site in NUMBERS if site != lost]
    assert came == others
    np.testing.assert_array_equal(words, added(others))


def test_two_of_three_may_not(tmp_path):
    sites = Sites(tmp_path)
    sites.lost = {"A": "masked", "B": "masked"}
    with pytest.raises(RunError, match="round 0: 1 clients sent a masked vector"):
        sites.sum()


def test_a_round_is_unmasked_again_for_the_same_sites_alone(tmp_path):
    sites = Sites(tmp_path)
    sites.lost = {"C": "masked"}
    first, _ = sites.sum(5)
    again, _ = sites.sum(5)
    np.testing.assert_array_equal(again, first)
    sites.lost = {}
    with pytest.raises(RunError, match="give one site's update away"):
        sites.sum(5)
    with pytest.raises(RunError, match="give one site's update away"):
        sites.sum(4)
    np.testing.assert_array_equal(sites.sum(6)[0], added("ABC"))


def test_examples_are_counted_over_all_sites_or_not_at_all(tmp_path):
    sites = Sites(tmp_path)
    sites.lost = {"C": "masked"}
    with pytest.raises(RunError, match="over all sites, or not at all"):
        sites.sum(COUNTING)
    sites.lost = {}
    sites.sum(3)
    np.testing.assert_array_equal(sites.sum(COUNTING)[0], added("ABC"))  # A server starts again.


def test_a_site_that_is_started_again_has_lost_its_secrets(tmp_path):
    sites = Sites(tmp_path)
    sites.sum()
    again = SecureSite(0, 3, tmp_path / "A", {})
    with pytest.raises(RestartedError, match="started again"):
        again.unmask(Letter("unmask", {"arrived": [1, 2, 3]}))
    lost = Counted(lambda letters: {"A": Letter("lost", {"error": "started again"})})
    assert lost({"A": Letter("unmask")}) == {}


def test_bytes_are_counted_and_an_error_names_its_site():
    exchange = Counted(lambda letters: {"A": Letter("train", {}, {"w": np.zeros(3, np.float32)})})
    exchange({"A": Letter("train", {"round": 1})})
    assert (exchange.down, exchange.up) == (len('{"round": 1}'), 12 + len("{}"))
    with pytest.raises(RunError, match=r"^site B: no images$"):
        Counted(lambda letters: {"B": Letter("error", {"error": "no images"})})({})
