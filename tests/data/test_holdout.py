"""Held-out images: never trained on, by group and by pixels, near the share that was asked for."""

import csv

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from ufm_jax.data.cache.store import ArrayStore
from ufm_jax.data.federated import FederatedData
from ufm_jax.data.holdout import describe, hold_out, load_with_holdout
from ufm_jax.data.settings import PretrainingSettings
from ufm_jax.errors import DataError


def federation(sizes, groups=(), contents=(), splits=()):
    """Clients of so many images each, named by the number of their row."""
    total = sum(sizes)
    store = ArrayStore(
        np.zeros((total, 1, 1, 1), np.uint8),
        np.ones((total, 2), np.int32),
        np.zeros((total, 7), np.float32),
        np.zeros(total, np.int32),
    )
    return FederatedData(
        tuple(f"c{k}" for k in range(len(sizes))),
        np.cumsum([0, *sizes]),
        store,
        groups=np.array(groups, np.int64),
        contents=np.array(contents, np.uint64),
        splits=np.array(splits, str),
        fingerprint="x",
    )


def settings(fraction=0.05, seed=0, **changes):
    return PretrainingSettings(holdout_fraction=fraction, seed=seed, **changes)


def rows_of(data):
    """The rows of the whole that a part holds."""
    assert len(data.store) == len(data.images)
    return set(map(int, data.images))


def parted(data, chosen):
    """The rows that are trained on, and those that are held out."""
    found = hold_out(data, chosen)
    return found, rows_of(found), set() if found.held_out is None else rows_of(found.held_out)


@st.composite
def federations(draw):
    sizes = draw(st.lists(st.integers(1, 40), min_size=1, max_size=6))
    total = sum(sizes)
    owner = np.repeat(np.arange(len(sizes)), sizes)
    # Groups lie within a client, as every partition has them; copies lie anywhere.
    within = np.array(draw(st.lists(st.integers(0, 9), min_size=total, max_size=total)))
    copies = draw(st.lists(st.integers(0, 3 * total), min_size=total, max_size=total))
    return federation(sizes, owner * 10 + within, copies)


@given(data=federations(), fraction=st.floats(0, 0.6), seed=st.integers(0, 3))
def test_no_group_and_no_pixels_are_on_both_sides_and_no_client_is_emptied(data, fraction, seed):
    found, trained, held = parted(data, settings(fraction, seed))
    assert trained | held == set(range(data.num_rows))
    assert not trained & held
    assert found.names == data.names
    for of_rows in (data.groups, data.contents):
        assert not {of_rows[row] for row in trained} & {of_rows[row] for row in held}
    kept = dict(zip(found.names, found.sizes, strict=True))
    for name, size in zip(data.names, data.sizes, strict=True):
        assert size - kept[name] <= max(fraction, 0.25) * size


@given(sizes=st.lists(st.integers(1, 60), min_size=1, max_size=12), fraction=st.floats(0.01, 0.15))
def test_of_images_that_stand_alone_the_share_is_met_to_one_image(sizes, fraction):
    data = federation(sizes)
    _, _, held = parted(data, settings(fraction))
    # A client of less than four images may give none, and its share goes to nobody.
    able = sum(size for size in sizes if size >= 4)
    assert fraction * able - 1 <= len(held) <= fraction * sum(sizes) + 1


def test_each_client_gives_its_own_share():
    found = hold_out(federation([100, 200, 40]), settings())
    assert found.held_out.names == found.names
    assert found.held_out.sizes.tolist() == [5, 10, 2]


def test_clients_too_small_for_a_share_of_their_own_give_one_together():
    found = hold_out(federation([5] * 16), settings())
    assert found.held_out.num_rows == 4
    assert found.held_out.num_clients == 4


@pytest.mark.parametrize("sizes", [[1] * 9, [3, 2, 1]])
def test_clients_of_an_image_or_three_hold_out_none_and_it_is_said(sizes):
    found = hold_out(federation(sizes), settings())
    assert found.held_out is None
    assert found.sizes.tolist() == sizes
    assert describe(found).startswith("no image is held out")


def test_a_client_of_one_large_patient_gives_nothing_and_burdens_nobody_else():
    groups = [0] * 60 + list(range(1, 41))
    found = hold_out(federation([60, 40], groups), settings())
    assert found.held_out.names == ("c1",)
    assert found.held_out.num_rows == 2
    assert describe(found) == "2 of 100 images are held out, at 1 of 2 clients; none at c0"


def test_the_draw_of_an_image_does_not_depend_on_the_order_of_files_nor_on_their_names():
    order = np.random.default_rng(0).permutation(60)
    contents = np.arange(60) + 1000
    plain = hold_out(federation([60], contents=contents), settings())
    mixed = hold_out(federation([60], contents=contents[order]), settings())
    assert set(plain.held_out.contents) == set(mixed.held_out.contents)
    other = hold_out(federation([60], contents=contents), settings(seed=1))
    assert set(plain.held_out.contents) != set(other.held_out.contents)


def test_nothing_is_held_out_where_nothing_is_asked_for():
    data = federation([100])
    found = hold_out(data, settings(0.0))
    assert found.held_out is None
    assert found.num_rows == 100


def test_the_data_that_are_trained_on_tell_which_these_are():
    data = federation([100])
    prints = {hold_out(data, settings(0.05, seed)).fingerprint for seed in (0, 1, 0)}
    assert len(prints) == 2


def test_splits_of_the_source_are_held_out_and_what_training_would_give_away_is_listed():
    splits = ["train", "train", "val", "val", "val", "train", "val", "val"]
    data = federation([4, 2, 2], [0, 1, 2, 1, 3, 4, 5, 6], [0, 1, 2, 3, 5, 5, 6, 7], splits)
    found, trained, held = parted(data, settings(holdout_splits=("val",)))
    assert trained == {0, 1, 5}
    assert held == {2, 6, 7}  # 3 is of the group of 1, 4 a copy of 5
    assert [(i.kind, i.client, i.path) for i in found.issues.entries] == [
        ("held_out_seen", "c0", "3"),
        ("held_out_seen", "c1", "4"),
    ]
    # A client with nothing else judges, and does not train.
    assert found.names == ("c0", "c1")
    assert [(c.client, c.images, c.held_out) for c in found.summary()] == [
        ("c0", 2, 1),
        ("c1", 1, 0),
        ("c2", 0, 2),
    ]


def test_a_split_that_is_absent_or_everything_is_refused():
    data = federation([4], splits=["train"] * 4)
    with pytest.raises(DataError, match="holdout_splits: 'val' matches nothing; there is 'train'"):
        hold_out(data, settings(holdout_splits=("val",)))
    with pytest.raises(DataError, match="none is left to train on"):
        hold_out(data, settings(holdout_splits=("train",)))


def test_files_are_held_out_by_the_index_that_lists_them(tmp_path):
    (tmp_path / "a").mkdir()
    rows = [["image", "group", "split"]]
    for number in range(9):
        pixels = np.random.default_rng(number).integers(0, 255, (16, 16), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "a" / f"{number}.png")
        rows.append([f"{number}.png", f"g{number}", ("train", "val", "test")[number // 3]])
    with (tmp_path / "a" / "index.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    chosen = PretrainingSettings(
        source="index",
        root=str(tmp_path),
        working_size=16,
        splits=("train",),
        holdout_splits=("val",),
        cache_dir=str(tmp_path / "cache"),
        detect_geometry=False,
    )
    data = load_with_holdout(chosen)
    assert [name.rsplit("/", 1)[1] for name in data.images] == ["0.png", "1.png", "2.png"]
    held = data.held_out.images
    assert [name.rsplit("/", 1)[1] for name in held] == ["3.png", "4.png", "5.png"]
