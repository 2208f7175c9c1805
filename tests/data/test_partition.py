"""Invariants of every partition: each record once, groups whole, none empty, same twice."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ufm_jax.data import partition
from ufm_jax.errors import DataError


@st.composite
def federations(draw):
    """Labels, groups (some None) and a number of clients that is possible."""
    sizes = draw(st.lists(st.integers(1, 6), min_size=1, max_size=40))
    groups, labels = [], []
    for unit, size in enumerate(sizes):
        named = size > 1 or draw(st.booleans())
        groups += [f"g{unit}" if named else None] * size
        labels += [draw(st.integers(0, 3))] * size
    order = draw(st.permutations(range(len(groups))))
    count = draw(st.integers(1, len(sizes)))
    return np.array(labels)[list(order)], [groups[i] for i in order], count


PARTITIONS = {
    "iid": lambda labels, groups, k, seed: partition.sized(groups, k, 0.0, seed, "iid"),
    "lognormal": lambda labels, groups, k, seed: partition.sized(groups, k, 1.5, seed),
    "dirichlet_sharp": lambda labels, groups, k, seed: partition.dirichlet(
        labels, groups, k, 0.05, seed
    ),
    "dirichlet_flat": lambda labels, groups, k, seed: partition.dirichlet(
        labels, groups, k, 100.0, seed
    ),
    "split_site": lambda labels, groups, k, seed: partition.split_sites(
        ["s"] * len(groups), groups, {"s": k}, 1.0, seed
    )[1],
}


@pytest.mark.parametrize("kind", PARTITIONS)
@settings(max_examples=40)
@given(federation=federations(), seed=st.integers(0, 2**32))
def test_every_record_once_groups_whole_none_empty_same_twice(kind, federation, seed):
    labels, groups, count = federation
    owner = PARTITIONS[kind](labels, groups, count, seed)
    assert owner.shape == (len(groups),)
    assert set(owner.tolist()) == set(range(count))
    holders: dict[str, set[int]] = {}
    for group, client in zip(groups, owner.tolist(), strict=True):
        if group is not None:
            holders.setdefault(group, set()).add(client)
    assert all(len(clients) == 1 for clients in holders.values())
    np.testing.assert_array_equal(owner, PARTITIONS[kind](labels, groups, count, seed))


@pytest.mark.parametrize("kind", PARTITIONS)
def test_another_seed_gives_another_partition(kind):
    labels, groups = np.arange(200) % 4, [None] * 200
    first, second = (PARTITIONS[kind](labels, groups, 5, seed) for seed in (0, 1))
    assert (first != second).any()


@pytest.mark.parametrize("kind", PARTITIONS)
def test_fewer_groups_than_clients_is_an_error_that_names_the_remedy(kind):
    with pytest.raises(DataError, match=r"3 clients need .* 2 groups: ask for fewer clients"):
        PARTITIONS[kind](np.zeros(4, int), ["a", "a", "b", "b"], 3, 0)


def test_even_sizes_differ_by_one_record_without_groups():
    sizes = np.bincount(partition.sized([None] * 103, 10, 0.0, 0, "iid"))
    assert sizes.max() - sizes.min() <= 1


def test_log_normal_sizes_have_the_spread_asked_for():
    """Over 400 clients the standard deviation of the log sizes is within 15 % of sigma."""
    sizes = np.bincount(partition.sized([None] * 400_000, 400, 0.8, 0))
    assert np.log(sizes).std() == pytest.approx(0.8, rel=0.15)


def label_skew(owner: np.ndarray, labels: np.ndarray) -> float:
    """Mean total variation distance between a client's labels and everybody's, 0..1."""
    table = np.zeros((owner.max() + 1, labels.max() + 1))
    np.add.at(table, (owner, labels), 1)
    own = table / table.sum(1, keepdims=True)
    return float(np.abs(own - table.sum(0) / table.sum()).sum(1).mean() / 2)


def test_dirichlet_approaches_iid_as_alpha_grows():
    labels, groups = np.random.default_rng(0).integers(0, 4, 4000), [None] * 4000
    skews = [
        label_skew(partition.dirichlet(labels, groups, 8, alpha, 0), labels)
        for alpha in (0.05, 0.5, 5.0, 1e6)
    ]
    assert skews == sorted(skews, reverse=True)
    assert skews[0] > 0.5
    assert skews[-1] < label_skew(partition.sized(groups, 8, 0.0, 0, "iid"), labels) + 0.01
    sizes = np.bincount(partition.dirichlet(labels, groups, 8, 1e6, 0))
    assert sizes.max() - sizes.min() <= 0.02 * sizes.mean()


def test_dirichlet_refuses_unlabelled_records_and_a_senseless_alpha():
    with pytest.raises(DataError, match="1 of 3 images have none"):
        partition.dirichlet(np.array([0, -1, 1]), [None] * 3, 2, 1.0, 0)
    with pytest.raises(DataError, match="alpha"):
        partition.dirichlet(np.zeros(3, int), [None] * 3, 2, 0.0, 0)


def test_value_that_tears_a_group_is_an_error_that_names_both_values():
    names, owner = partition.by_site(["b", "a", "b"], ["g", None, "g"])
    assert names == ("b", "a")
    np.testing.assert_array_equal(owner, [0, 1, 0])
    with pytest.raises(DataError, match=r"group 'g' would be torn apart.*'b' and 'a'"):
        partition.by_site(["b", "a"], ["g", "g"])


def test_split_sites_never_mix_and_unnamed_sites_stay_whole():
    sites = ["x"] * 10 + ["y"] * 7 + ["z"] * 5
    names, owner = partition.split_sites(sites, [None] * 22, {"x": 3, "z": 2}, 0.0, 0)
    assert names == ("x-0", "x-1", "x-2", "y", "z-0", "z-1")
    for site, client in zip(sites, owner, strict=True):
        assert names[client].split("-")[0] == site
    with pytest.raises(DataError, match=r"cannot split \['w'\]"):
        partition.split_sites(sites, [None] * 22, {"w": 2}, 0.0, 0)
    with pytest.raises(DataError, match=r"site 'z'.*fewer clients"):
        partition.split_sites(sites, [None] * 22, {"z": 6}, 0.0, 0)


def test_split_of_one_site_does_not_depend_on_the_others():
    groups = [None] * 12
    _, alone = partition.split_sites(["x"] * 12, groups, {"x": 3}, 1.0, 5)
    _, beside = partition.split_sites(["w"] + ["x"] * 12, [None, *groups], {"x": 3}, 1.0, 5)
    np.testing.assert_array_equal(alone, beside[1:] - 1)
