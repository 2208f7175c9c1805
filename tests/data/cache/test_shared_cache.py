"""Processes that share a cache write what one of them would, and decode each image once."""

import threading

import numpy as np
import pytest
from PIL import Image

from ufm_jax.data.cache import decode, shared_cache
from ufm_jax.data.cache.cache import DecodeSettings, decoded_rows
from ufm_jax.data.cache.shared_cache import decoded_together

SETTINGS = DecodeSettings(16)
COUNT = 23


@pytest.fixture
def images(tmp_path):
    """Grey files, one in colour, one broken."""
    rng = np.random.default_rng(0)
    files = []
    for index in range(COUNT):
        files.append(tmp_path / f"{index}.png")
        shape = (20, 30, 3) if index == 17 else (20, 30)
        Image.fromarray(rng.integers(0, 255, shape, dtype=np.uint8)).save(files[-1])
    files[5].write_bytes(b"no image")
    return files


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch):
    monkeypatch.setattr(shared_cache, "_PART_MIN", 2)


def _cache(path):
    path.mkdir()
    return path


def _digests(images):
    return [bytes([index]) * 16 for index in range(len(images))]


def _together(images, cache_dir, count):
    """Every share in a thread of its own: locks of open files are not shared by threads."""
    results, threads = {}, []
    for index in range(count):

        def work(index=index):
            results[index] = decoded_together(
                images, _digests(images), SETTINGS, cache_dir, 1, share=(index, count)
            )

        threads.append(threading.Thread(target=work))
        threads[-1].start()
    for thread in threads:
        thread.join()
    assert len(results) == count
    return results


@pytest.mark.parametrize("count", [2, 3])
def test_the_folder_is_the_one_that_a_single_process_writes(images, tmp_path, count):
    one = decoded_rows(images, _digests(images), SETTINGS, _cache(tmp_path / "one"), 1)
    many = _together(images, _cache(tmp_path / "many"), count)
    for rows in many.values():
        assert rows.folder.name == one.folder.name
        assert rows.failures.keys() == one.failures.keys() == {5}
        for file in one.folder.glob("*.npy"):
            assert (rows.folder / file.name).read_bytes() == file.read_bytes(), file.name
    folders = [path.name for path in (tmp_path / "many").iterdir() if path.is_dir()]
    assert folders == [one.folder.name]


def test_each_image_is_decoded_once(images, tmp_path, monkeypatch):
    calls, make_row = [], decode.make_row

    def counting(*args):
        calls.append(args[0])
        return make_row(*args)

    monkeypatch.setattr(decode, "make_row", counting)
    _together(images, _cache(tmp_path / "cache"), 2)
    assert len(calls) == COUNT


def test_a_process_alone_at_work_decodes_all_parts(images, tmp_path):
    """The others may have been killed, or have caches of their own."""
    rows = decoded_together(
        images, _digests(images), SETTINGS, _cache(tmp_path / "cache"), 1, share=(1, 4)
    )
    assert len(rows) == COUNT
    assert set(rows.failures) == {5}


def test_progress_counts_to_the_end(images, tmp_path):
    seen = []
    decoded_together(
        images,
        _digests(images),
        SETTINGS,
        _cache(tmp_path / "cache"),
        1,
        lambda done, total: seen.append((done, total)),
        (1, 2),
    )
    assert seen[-1] == (COUNT, COUNT)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
