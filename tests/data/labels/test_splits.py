"""Splits and label fractions: whole groups, drawn by name, nested, with every class."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ufm_jax.data.labels.settings import SplitSettings
from ufm_jax.data.labels.splits import drawn_splits, given_splits, make_groups
from ufm_jax.data.labels.subsets import nested_subset
from ufm_jax.data.records import Record
from ufm_jax.errors import DataError, UserError


def record(name: str, group: str | None, **columns: str) -> Record:
    return Record("site", image=name, group=group, attributes=columns)


def placed(records, **changes):
    names = [r.image for r in records]
    found, issues = given_splits(records, names, SplitSettings(**changes))
    return [r.split for r in found], issues


@st.composite
def populations(draw):
    """Groups of some size and one or two classes: names and presence [R, C] of their images."""
    num_classes = draw(st.integers(1, 4))
    count = draw(st.integers(1, 30))
    names, shown = [], []
    for index in range(count):
        for _ in range(draw(st.integers(1, 6))):
            names.append(f"g{index}")
            shown.append(draw(st.integers(-1, num_classes - 1)))
    presence = np.array(shown)[:, None] == np.arange(num_classes)
    return names, presence


@settings(max_examples=60)
@given(populations(), st.integers(0, 3), st.randoms(use_true_random=False))
def test_drawn_splits_keep_groups_whole_and_ignore_the_order_of_files(population, seed, random):
    names, presence = population
    policy = SplitSettings("fractions", seed=seed)
    splits = drawn_splits(np.full(len(names), "", "<U5"), make_groups(names, presence), policy)
    assert set(splits) <= {"train", "val", "test"}
    of_group = dict(zip(names, splits, strict=True))
    assert [of_group[name] for name in names] == splits.tolist()
    order = list(range(len(names)))
    random.shuffle(order)
    shuffled = make_groups([names[i] for i in order], presence[order])
    again = drawn_splits(np.full(len(names), "", "<U5"), shuffled, policy)
    assert again.tolist() == splits[order].tolist()


@settings(max_examples=60)
@given(populations(), st.integers(0, 3))
def test_fractions_of_labels_are_nested_whole_and_show_every_class(population, seed):
    names, presence = population
    groups = make_groups(names, presence)
    rows = np.arange(len(names))
    before: set[int] = set()
    for fraction in (0.01, 0.05, 0.1, 0.2, 0.5, 1.0):
        subset = nested_subset(groups, fraction, seed)
        assert before <= set(subset.tolist())
        before = set(subset.tolist())
        chosen = {names[i] for i in subset}
        assert subset.tolist() == [i for i in rows if names[i] in chosen]
        assert (presence[subset].any(0) == presence.any(0)).all()
    assert before == set(rows.tolist())


def test_fractions_of_labels_ignore_the_order_of_files_and_depend_on_the_seed():
    names = [f"g{i // 2}" for i in range(200)]
    presence = np.eye(2, dtype=bool)[np.array([i // 2 % 5 == 0 for i in range(200)], int)]
    one = nested_subset(make_groups(names, presence), 0.2, 0)
    backwards = make_groups(names[::-1], presence[::-1])
    two = 199 - nested_subset(backwards, 0.2, 0)
    assert sorted(two.tolist()) == one.tolist()
    other = nested_subset(make_groups(names, presence), 0.2, 1)
    assert set(other.tolist()) != set(one.tolist())
    # 20 % of 160 and of 40 images, in pairs.
    assert presence[one].sum(0).tolist() == [32, 8]


def test_class_that_is_nowhere_the_rarest_is_in_every_fraction():
    names = [f"g{i}" for i in range(10)] + ["g9"] * 20
    presence = np.zeros((30, 2), bool)
    presence[:10, 0] = True
    presence[10:, 1] = True
    groups = make_groups(names, presence)
    assert (groups.strata == 0).all()
    for seed in range(10):
        assert presence[nested_subset(groups, 0.01, seed)].any(0).all()


@pytest.mark.parametrize("fraction", [0, -0.1, 1.01])
def test_senseless_fraction_of_labels_is_refused(fraction):
    with pytest.raises(DataError, match="at most 1"):
        nested_subset(make_groups(["a"], np.ones((1, 1), bool)), fraction, 0)


def test_drawn_shares_are_near_their_targets_in_each_class():
    names = [f"g{i // 3}" for i in range(900)]
    presence = np.eye(2, dtype=bool)[np.array([i // 3 % 10 == 0 for i in range(900)], int)]
    groups = make_groups(names, presence)
    policy = SplitSettings("fractions", val_fraction=0.1, test_fraction=0.3)
    splits = drawn_splits(np.full(900, "", "<U5"), groups, policy)
    for split, share in (("test", 0.3), ("val", 0.1), ("train", 0.6)):
        np.testing.assert_allclose(
            presence[splits == split].sum(0), share * presence.sum(0), atol=3
        )


def test_rare_class_of_three_groups_is_in_every_split():
    names = [f"g{i}" for i in range(53)]
    presence = np.eye(2, dtype=bool)[np.array([i >= 50 for i in range(53)], int)]
    policy = SplitSettings("fractions", val_fraction=0.1, test_fraction=0.1)
    splits = drawn_splits(np.full(53, "", "<U5"), make_groups(names, presence), policy)
    for split in ("train", "test"):
        assert presence[splits == split].any(0).all(), split


def test_column_says_the_split_and_validation_is_drawn_from_training_only():
    records = [record(f"{i}.png", f"g{i}", split="test" if i < 20 else "train") for i in range(100)]
    found, issues = placed(records)
    assert not issues
    groups = make_groups([r.group for r in records], np.ones((100, 1), bool))
    splits = drawn_splits(np.array(found), groups, SplitSettings(val_fraction=0.25))
    assert (splits[:20] == "test").all()
    assert (splits == "val").sum() == 20
    marked, _ = placed([*records, record("v.png", None, split="valid")])
    assert marked[-1] == "val"


def test_folds_give_test_validation_and_the_rest():
    records = [record(f"{i}.png", f"g{i}", fold5=str(i % 5)) for i in range(10)]
    found, _ = placed(records, policy="fold", test_fold=4)
    assert found == ["val", "train", "train", "train", "test"] * 2
    all_train, _ = placed(records, policy="fold", test_fold=4, val_fraction=0.0)
    assert all_train == ["train", "train", "train", "train", "test"] * 2


@pytest.mark.parametrize(
    ("columns", "changes", "message"),
    [
        ({"split": "holdout"}, {}, r"0\.png: split='holdout' means no split"),
        ({}, {}, "means no split.*policy='fractions'"),
        ({"fold5": "a"}, {"policy": "fold"}, r"fold5='a' is not the number.*\['fold5'\]"),
        ({"fold5": "9" * 5000}, {"policy": "fold"}, r"fold5='9+' is not the number of a fold"),
        ({"fold5": "-1"}, {"policy": "fold"}, r"fold5='-1' is not the number of a fold"),
        ({"fold5": ""}, {"policy": "fold"}, r"fold5='' is not the number of a fold"),
        ({"fold5": "1"}, {"policy": "fold", "test_fold": 1}, r"the folds are \[1\]"),
    ],
)
def test_value_that_means_no_split_is_named(columns, changes, message):
    with pytest.raises(DataError, match=message):
        placed([record("0.png", None, **columns)], **changes)


def test_group_in_two_splits_is_an_error_or_moves_whole():
    records = [
        record("a.png", "p1", split="test"),
        record("b.png", "p1", split="train"),
        record("c.png", "p2", split="test"),
        record("d.png", "p1", split="val"),
    ]
    with pytest.raises(DataError, match=r"'p1' is in two splits: a\.png in 'test' and b\.png in"):
        placed(records)
    found, issues = placed(records, torn_groups="move")
    assert found == ["train", "train", "test", "train"]
    assert [(i.kind, i.path) for i in issues] == [
        ("split_group", "a.png"),
        ("split_group", "d.png"),
    ]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"policy": "random"}, "policy='random': choose one of"),
        ({"val_fraction": 1.0}, "val_fraction=1.0"),
        ({"val_fraction": 0.5, "test_fraction": 0.5}, "nothing to train on"),
        ({"test_fold": -1}, "test_fold=-1: use a number from 0"),
        ({"test_values": ("train",)}, r"\['train'\] mean two splits"),
        ({"required": ("dev",)}, "required"),
    ],
)
def test_senseless_split_settings_are_refused_by_name(changes, message):
    with pytest.raises(UserError, match=message):
        SplitSettings(**changes)
