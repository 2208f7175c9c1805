"""The cache notices every change of content, survives killed writers and admits concurrent ones."""

import importlib
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ufm_jax.data.cache import cache
from ufm_jax.data.cache.cache import DecodeSettings, decoded_rows
from ufm_jax.data.cache.decode import make_row
from ufm_jax.data.cache.fingerprint import (
    code_stamp,
    content_digests,
    digest,
    memo_of,
    open_cache_dir,
    read_sealed,
    write_sealed,
)
from ufm_jax.data.cache.folder import CachedRows
from ufm_jax.data.cache.store import ArrayStore, CachedStore
from ufm_jax.data.records import Picture
from ufm_jax.errors import DataError
from ufm_jax.files import exclusive

SETTINGS = DecodeSettings(size=16)


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    paths = []
    for index in range(12):
        pixels = np.random.default_rng(index).integers(0, 256, (20, 10 + index), np.uint8)
        paths.append(tmp_path / "images" / f"{index}.png")
        paths[-1].parent.mkdir(exist_ok=True)
        Image.fromarray(pixels).save(paths[-1])
    return paths


@pytest.fixture
def cache_dir(tmp_path: Path) -> Path:
    folder = tmp_path / "cache"
    open_cache_dir(folder)
    return folder


def read(files, cache_dir: Path, settings=SETTINGS, workers=2, progress=None) -> CachedRows:
    digests, unreadable = content_digests(files, cache_dir, workers)
    assert not unreadable
    return decoded_rows(files, digests, settings, cache_dir, workers, progress)


def images_of(rows: CachedRows) -> np.ndarray:
    return np.load(rows.folder / "images.npy")


def test_rows_equal_direct_decoding_and_do_not_depend_on_workers(files, cache_dir, tmp_path):
    direct = [make_row(path.read_bytes(), 16, None, None) for path in files]
    for workers in (1, 3):
        folder = tmp_path / f"cache{workers}"
        open_cache_dir(folder)
        rows = read(files, folder, workers=workers)
        np.testing.assert_array_equal(images_of(rows), [row.image for row in direct])
        np.testing.assert_array_equal(rows.extents, [row.extent for row in direct])
        assert [d.tobytes() for d in rows.digests] == [row.digest for row in direct]


def test_second_opening_decodes_nothing_and_progress_counts_the_first(files, cache_dir):
    calls: list[tuple[int, int]] = []
    first = read(files, cache_dir, progress=lambda *call: calls.append(call))
    assert calls == [(i + 1, 12) for i in range(12)]
    second = read(files, cache_dir, progress=lambda *_: pytest.fail("decoded again"))
    assert first.folder == second.folder


def test_copied_folder_and_touched_files_reuse_the_cache(files, cache_dir, tmp_path):
    first = read(files, cache_dir)
    copies = [tmp_path / "copy" / path.name for path in files]
    copies[0].parent.mkdir()
    for path, copy in zip(files, copies, strict=True):
        copy.write_bytes(path.read_bytes())
    assert read(copies, cache_dir).folder == first.folder
    os.utime(files[0])
    assert read(files, cache_dir).folder == first.folder


def test_changed_content_of_equal_size_and_time_is_noticed(files, cache_dir, monkeypatch):
    """The memo is forced to remember at once, so that only the change time can betray the edit."""
    monkeypatch.setattr("ufm_jax.data.cache.fingerprint._SETTLED_NS", -(10**12))
    bitmap = files[0].with_suffix(".bmp")
    Image.fromarray(np.full((9, 9), 50, np.uint8)).save(bitmap)
    first, before = read([bitmap], cache_dir), bitmap.stat()
    time.sleep(0.02)
    Image.fromarray(np.full((9, 9), 90, np.uint8)).save(bitmap)
    os.utime(bitmap, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (bitmap.stat().st_size, bitmap.stat().st_mtime_ns) == (
        before.st_size,
        before.st_mtime_ns,
    )
    second = read([bitmap], cache_dir)
    assert second.folder != first.folder
    assert images_of(second).max() == 90


def test_memo_saves_reading_unchanged_files(files, tmp_path, monkeypatch):
    monkeypatch.setattr("ufm_jax.data.cache.fingerprint._SETTLED_NS", -(10**12))
    first, _ = content_digests(files, tmp_path, 1)
    monkeypatch.setattr(
        "ufm_jax.data.cache.fingerprint._hash_file", lambda path: pytest.fail(f"read {path}")
    )
    assert content_digests(files, tmp_path, 1)[0] == first


@pytest.mark.parametrize("damage", [b"", b"no memo", b"0" * 32 + b"\n" + bytes(64)])
def test_damaged_memo_is_replaced(files, tmp_path, damage):
    expected, _ = content_digests(files, tmp_path, 1)
    memo_of(files, tmp_path).write_bytes(damage)
    assert content_digests(files, tmp_path, 1)[0] == expected


def test_a_sealed_file_holds_under_its_own_name_alone(tmp_path):
    write_sealed(tmp_path / "a", b"content\nof two lines")
    assert read_sealed(tmp_path / "a") == b"content\nof two lines"
    (tmp_path / "b").write_bytes((tmp_path / "a").read_bytes())
    assert read_sealed(tmp_path / "b") is None
    assert read_sealed(tmp_path / "absent") is None


def test_fresh_files_are_not_remembered(files, tmp_path):
    content_digests(files, tmp_path, 1)
    assert not memo_of(files, tmp_path).exists()


def test_settings_detector_and_order_are_part_of_the_key():
    def other(image):
        return np.zeros(7, np.float32)

    keys = [
        cache.cache_key(digests, settings)
        for digests, settings in [
            ([b"a" * 16, b"b" * 16], DecodeSettings(16)),
            ([b"b" * 16, b"a" * 16], DecodeSettings(16)),
            ([b"a" * 16, b"b" * 16], DecodeSettings(17)),
            ([b"a" * 16, b"b" * 16], DecodeSettings(16, 1)),
            ([b"a" * 16, b"b" * 16], DecodeSettings(16, None, other)),
            ([b"a" * 16, b"b" * 16], DecodeSettings(16, None, None, (0, 4095))),
        ]
    ]
    assert len(set(keys)) == 6


def test_one_colour_image_makes_all_rows_colour_and_changes_no_grey(files, cache_dir):
    grey = images_of(read(files, cache_dir))
    colour = np.zeros((10, 10, 3), np.uint8)
    colour[..., 2] = 180
    blue = files[0].with_name("blue.png")
    Image.fromarray(colour).save(blue)
    for position in (0, 5, len(files)):
        rows = read([*files[:position], blue, *files[position:]], cache_dir)
        images = images_of(rows)
        assert rows.image_shape == (16, 16, 3)
        np.testing.assert_array_equal(images[position, 0, 0], [0, 0, 180])
        np.testing.assert_array_equal(
            np.delete(images, position, 0), np.broadcast_to(grey, (*grey.shape[:3], 3))
        )


def test_failures_are_kept_with_their_reason(files, cache_dir):
    files[3].write_bytes(files[3].read_bytes()[:50])
    rows = read(files, cache_dir)
    assert list(rows.failures) == [3]
    assert "does not decode" in rows.failures[3]
    assert not images_of(rows)[3].any()


def flip(file: Path) -> None:
    """Changes one bit in the last quarter."""
    content = bytearray(file.read_bytes())
    content[-1 - len(content) // 8] ^= 4
    file.write_bytes(content)


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def make_folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


FILES = [
    *(f"{name}.npy" for name in ("images", "extents", "natives", "geometry", "digests", "frames")),
    *("peaks.npy", "sums.npy", "meta.sealed"),
]
DAMAGES = [flip, cut, Path.unlink, make_folder]


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
@pytest.mark.parametrize("name", FILES)
def test_a_damaged_cache_is_decoded_again_with_a_warning_or_is_an_error(
    files, cache_dir, name, damage, caplog
):
    rows = read(files[:3], cache_dir)
    whole = {file.name: file.read_bytes() for file in rows.folder.iterdir()}
    assert sorted(whole) == sorted(FILES)
    damage(rows.folder / name)
    again = read(files[:3], cache_dir)
    if (name, damage) == ("images.npy", flip):
        with pytest.raises(DataError, match=f"is not what was written; remove .*{rows.folder}"):
            again.images().read(np.arange(3))
        shutil.rmtree(rows.folder)
        read(files[:3], cache_dir)
    else:
        (warning,) = caplog.messages
        assert warning == f"{rows.folder} is damaged: its images are decoded again"
    assert {file.name: file.read_bytes() for file in rows.folder.iterdir()} == whole


def test_a_folder_under_another_ones_name_is_not_taken_for_it(files, cache_dir, caplog):
    first, second = read(files[:3], cache_dir), read(files[3:6], cache_dir)
    expected = images_of(first)
    shutil.rmtree(first.folder)
    shutil.copytree(second.folder, first.folder)
    np.testing.assert_array_equal(images_of(read(files[:3], cache_dir)), expected)
    assert "is damaged" in caplog.text


def test_the_damage_of_one_image_does_not_keep_the_others_from_being_read(files, cache_dir):
    rows = read(files, cache_dir)
    file = rows.folder / "images.npy"
    content = bytearray(file.read_bytes())
    content[-256 * 5] ^= 1  # in row 7 of 12, each of 16 x 16
    file.write_bytes(content)
    store = CachedStore(read(files, cache_dir), np.arange(12), np.zeros(12, np.int32))
    assert len(store.read(np.array([0, 11, 6, 8]))["image"]) == 4
    with pytest.raises(DataError, match="row 7 is not what was written"):
        store.read(np.array([8, 7]))


@pytest.mark.parametrize("name", ["file", "file/below", "link", "nul\0"])
def test_a_cache_folder_that_cannot_be_made_is_an_error_of_one_line(tmp_path, name):
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "nowhere" / "else")
    with pytest.raises(DataError, match=r"cache_dir=.* cannot be made: .*; name another"):
        open_cache_dir(tmp_path / name)


SLOW_WRITER = """
import sys, time
import numpy as np
from pathlib import Path
from ufm_jax.data.cache.cache import DecodeSettings, decoded_rows
from ufm_jax.data.cache.fingerprint import content_digests
cache_dir, pause, files = Path(sys.argv[1]), float(sys.argv[2]), [Path(f) for f in sys.argv[3:]]
digests, _ = content_digests(files, cache_dir, 1)
print("start", flush=True)
def progress(done, total):
    time.sleep(pause)
    print(done, flush=True)
print(decoded_rows(files, digests, DecodeSettings(size=16), cache_dir, 1, progress).folder)
"""


def start_writer(cache_dir: Path, files: list[Path], pause: float) -> subprocess.Popen:
    command = [sys.executable, "-c", SLOW_WRITER, str(cache_dir), str(pause), *map(str, files)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_killed_writer_leaves_nothing_that_is_taken_for_complete(files, cache_dir):
    writer = start_writer(cache_dir, files, pause=0.2)
    assert writer.stdout is not None
    for line in writer.stdout:
        if line.strip() == "3":
            break
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    writer.stdout.close()
    assert len(list(cache_dir.glob("*.partial-*"))) == 1
    rows = read(files, cache_dir)
    direct = [make_row(path.read_bytes(), 16, None, None).image for path in files]
    np.testing.assert_array_equal(images_of(rows), direct)
    assert not list(cache_dir.glob("*.partial-*"))


def test_abandoned_folder_of_other_content_is_removed_but_a_living_writers_is_not(files, cache_dir):
    dead = cache_dir / f"{'0' * 32}.partial-dead"
    alive = cache_dir / f"{'1' * 32}.partial-alive"
    for folder in (dead, alive):
        folder.mkdir()
    with exclusive(cache_dir / f"{'1' * 32}.lock") as held:
        assert held is not None
        read(files, cache_dir)
    assert not dead.exists()
    assert alive.exists()


def test_concurrent_processes_share_the_work(files, cache_dir):
    """The second waits for the first and reports no decoded image."""
    writers = [start_writer(cache_dir, files, pause=0.05) for _ in range(2)]
    outputs = [writer.communicate(timeout=60)[0].split() for writer in writers]
    assert all(writer.returncode == 0 for writer in writers)
    decoded = sorted(len(lines) - 2 for lines in outputs)
    assert decoded == [0, 12]
    assert outputs[0][-1] == outputs[1][-1]
    read(files, cache_dir, progress=lambda *_: pytest.fail("decoded again"))


def test_concurrent_writers_without_locks_both_write_and_one_wins(files, cache_dir, monkeypatch):
    import contextlib

    @contextlib.contextmanager
    def no_locks(path, wait=True):
        yield None

    monkeypatch.setattr(cache, "exclusive", no_locks)
    together = threading.Barrier(2)
    results: list[np.ndarray] = []

    def write():
        meet = lambda done, total: together.wait(10) if done == total else None  # noqa: E731
        results.append(images_of(read(files, cache_dir, progress=meet)))

    threads = [threading.Thread(target=write) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    direct = [make_row(path.read_bytes(), 16, None, None).image for path in files]
    assert len(results) == 2
    np.testing.assert_array_equal(results[0], direct)
    np.testing.assert_array_equal(results[1], direct)
    assert not list(cache_dir.glob("*.partial-*"))


def test_failing_writer_cleans_up_behind_itself(files, cache_dir):
    def full_disk(done, total):
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        read(files, cache_dir, progress=full_disk)
    assert not list(cache_dir.glob("*.partial-*"))


def test_cache_of_patients_images_is_closed_to_others(cache_dir):
    assert cache_dir.stat().st_mode & 0o077 == 0


class Simulated:
    """A handle that brings pixels, geometry and label."""

    def __init__(self, level: int) -> None:
        self.name = f"simulated/{level}"
        self.level = level

    def fingerprint(self) -> bytes:
        return str(self.level).encode()

    def load(self) -> Picture:
        geometry = np.array([2, -4, 8, 2, 12, -0.5, 0.5], np.float32)
        return Picture(np.full((16, 16), self.level, np.uint8), geometry, f"level{self.level}")


def test_handles_bring_pixels_geometry_and_labels(cache_dir):
    handles = [Simulated(level) for level in (3, 9)]
    for _ in range(2):
        rows = decoded_rows(
            handles, [digest(h.fingerprint()) for h in handles], SETTINGS, cache_dir, 1
        )
        assert images_of(rows)[:, 0, 0, 0].tolist() == [3, 9]
        assert rows.labels == {0: "level3", 1: "level9"}
        np.testing.assert_allclose(rows.geometry[1], [2, -4, 8, 2, 12, -0.5, 0.5])


def test_store_gathers_like_an_array(files, cache_dir):
    cached = read(files, cache_dir)
    order, labels = np.array([5, 0, 11, 5]), np.array([1, -1, 0, 1], np.int32)
    store = CachedStore(cached, order, labels)
    arrays = ArrayStore(
        images_of(cached)[order], cached.extents[order], cached.geometry[order], labels
    )
    rows = np.array([3, 1, 1, 2, 0])
    batch = store.read(rows)
    assert store.image_shape == arrays.image_shape
    for name, expected in arrays.read(rows).items():
        assert type(batch[name]) is np.ndarray
        assert batch[name].dtype == expected.dtype
        np.testing.assert_array_equal(batch[name], expected)


def test_code_stamp_changes_with_any_file_of_a_package(tmp_path, monkeypatch):
    package = tmp_path / "made_up_package"
    (package / "inner").mkdir(parents=True)
    for file in ("__init__.py", "inner/__init__.py", "inner/code.py"):
        (package / file).write_text("x = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    module = importlib.import_module("made_up_package")
    before = code_stamp(module)
    assert before == code_stamp(module)
    (package / "inner/code.py").write_text("x = 2\n")
    assert code_stamp(module) != before
