"""Homes: the same pixels for the same rows, wherever the images live."""

import threading
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ufm_jax.data.cache.homes import make_home
from ufm_jax.data.cache.store import ArrayStore

R = 40
_RNG = np.random.default_rng(0)
STORE = ArrayStore(
    images=_RNG.integers(0, 255, (R, 6, 6, 1), dtype=np.uint8),
    extents=_RNG.integers(1, 7, (R, 2)).astype(np.int32),
    geometry=_RNG.normal(size=(R, 7)).astype(np.float32),
    labels=np.arange(R, dtype=np.int32),
)
KINDS = ["host", "stream"]


@pytest.fixture(scope="module", params=KINDS)
def home(request):
    home = make_home(request.param, STORE, capacity=R, num_shards=2)
    yield home
    home.close()


@given(st.lists(st.integers(-1, R - 1), min_size=12, max_size=12))
def test_every_row_of_the_plan_is_the_stores(home, numbers):
    rows = np.array(numbers).reshape(2, 3, 2)
    loaded = home.round(rows)
    for shard in range(2):
        used = rows[shard] >= 0
        np.testing.assert_array_equal(loaded.local_rows[shard] >= 0, used)
        mine = loaded.local_rows[shard][used] + shard * R
        for name, expected in STORE.read(rows[shard][used]).items():
            np.testing.assert_array_equal(loaded.examples[name][mine], expected)


@pytest.mark.parametrize("kind", KINDS)
def test_a_shard_holds_its_own_images_alone(kind):
    home = make_home(kind, STORE, capacity=3, num_shards=2)
    loaded = home.round(np.array([[7, 8, -1], [9, 7, 9]]))
    assert loaded.examples["label"].tolist() == [7, 8, 0, 7, 9, 0]
    home.close()


@pytest.mark.parametrize("kind", KINDS)
def test_rounds_prefetched_and_not_are_equal(kind):
    home = make_home(kind, STORE, capacity=R)
    rows = [np.arange(4)[None], np.arange(3, 9)[None], np.array([[-1, 5]])]
    home.prefetch(rows[0])
    for r in (0, 1, 2):
        loaded = home.round(rows[r])
        if r < 2:
            home.prefetch(rows[(r + 1) if r == 0 else 0])  # the second guess is wrong
        used = rows[r][rows[r] >= 0]
        found = loaded.examples["label"][loaded.local_rows[loaded.local_rows >= 0]]
        np.testing.assert_array_equal(found, used)
    home.close()


@pytest.mark.parametrize("kind", KINDS)
def test_an_earlier_rounds_images_stay_as_they_were(kind):
    home = make_home(kind, STORE, capacity=4)
    first = home.round(np.array([[1, 2]]))
    copy = first.examples["image"].copy()
    home.round(np.array([[3, 4]]))
    np.testing.assert_array_equal(first.examples["image"], copy)
    home.close()


@pytest.mark.parametrize("num_threads", [0, 1, 3])
def test_a_stream_reads_the_same_with_any_number_of_threads(num_threads):
    home = make_home("stream", STORE, capacity=R, num_threads=num_threads)
    loaded = home.round(np.arange(R)[None, ::-1])
    np.testing.assert_array_equal(loaded.examples["label"], np.arange(R))
    np.testing.assert_array_equal(loaded.examples["image"], STORE.images)
    home.close()


def test_host_memory_holds_only_the_rows_that_are_announced():
    read = []

    class _Watched(ArrayStore):
        def read(self, rows):
            read.extend(rows.tolist())
            return super().read(rows)

    home = make_home("host", _Watched(*vars(STORE).values()), capacity=R, rows=np.array([3, 9, 4]))
    loaded = home.round(np.array([[9, -1, 4]]))
    assert loaded.examples["label"][loaded.local_rows[0, [0, 2]]].tolist() == [9, 4]
    assert read == [3, 9, 4]
    with pytest.raises(ValueError, match="row 5 is not one of the 3 kept in memory"):
        home.round(np.array([[5]]))
    home.close()


@pytest.mark.parametrize("kind", KINDS)
def test_too_little_room_is_said_with_the_remedy(kind):
    home = make_home(kind, STORE, capacity=2)
    with pytest.raises(ValueError, match="needs 3 images in a round, and has room for 2: lower"):
        home.round(np.array([[1, 2, 3]]))
    home.close()


class _Broken(ArrayStore):
    def read(self, rows):
        if 5 in rows:
            raise OSError("images.npy: the disk is gone")
        return super().read(rows)


def test_what_goes_wrong_in_the_background_is_raised_where_it_matters():
    home = make_home("stream", _Broken(*vars(STORE).values()), capacity=R)
    home.prefetch(np.array([[5]]))
    with pytest.raises(OSError, match=r"images\.npy"):
        home.round(np.array([[5]]))
    home.close()


@pytest.mark.parametrize("kind", KINDS)
def test_threads_do_not_pile_up(kind):
    before = threading.active_count()
    for _ in range(20):
        home = make_home(kind, STORE, capacity=R)
        home.round(np.arange(R)[None])
        home.close()
    end = time.monotonic() + 10
    while threading.active_count() > before + 2 and time.monotonic() < end:
        time.sleep(0.01)
    assert threading.active_count() <= before + 2


def test_an_unknown_kind_is_refused():
    with pytest.raises(ValueError, match="choose 'host' or 'stream'"):
        make_home("cloud", STORE, capacity=1)
