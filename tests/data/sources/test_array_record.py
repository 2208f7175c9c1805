"""Packed images are the images that were packed, and a file that is not is named."""

import csv
import json
import pickle
import shutil
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from ufm_jax.data.federated import load_federated
from ufm_jax.data.image_file import CorruptImage
from ufm_jax.data.listing import read_listing
from ufm_jax.data.settings import DataSettings
from ufm_jax.data.sources.array_record import INDEX, PackedImage, pack, read_records
from ufm_jax.errors import DataError

SHARD = "images-00000.array_record"


@pytest.fixture
def source(tmp_path):
    """Two sites with an index each: labels, patients and splits."""
    rng = np.random.default_rng(0)
    root = tmp_path / "source"
    for site in ("east", "west"):
        (root / site).mkdir(parents=True)
        lines = ["image,label,group,split"]
        for i in range(5):
            pixels = rng.integers(0, 255, (30, 40), dtype=np.uint8)
            Image.fromarray(pixels).save(root / site / f"{i}.png")
            lines.append(f"{i}.png,{'ab'[i % 2]},p{i // 2},{'test' if i == 4 else 'train'}")
        (root / site / "index.csv").write_text("\n".join(lines) + "\n")
    return root


@pytest.fixture
def packed(source, tmp_path):
    return _pack(source, tmp_path / "packed")


def _pack(source, out):
    listing = read_listing(DataSettings(source="index", root=str(source)))
    pack(listing.records, out, source)
    return out


def _records(packed):
    return list(read_records(DataSettings(source="array_record", root=str(packed))))


def _damage(shard):
    """Overwrites some of the first image's pixels."""
    content = bytearray(shard.read_bytes())
    begin = content.find(b"IDAT") + 30
    content[begin : begin + 40] = bytes(40)
    shard.write_bytes(content)


def _load(source, root, tmp_path, **settings):
    return load_federated(
        DataSettings(
            source=source,
            root=str(root),
            cache_dir=str(tmp_path / "cache"),
            working_size=32,
            detect_geometry=False,
            **settings,
        )
    )


def test_packed_images_load_as_their_files_do(source, packed, tmp_path):
    # Two caches: with one, equal content would share its rows, and nothing would be compared.
    files = _load("index", source, tmp_path / "a")
    shards = _load("array_record", packed, tmp_path / "b")
    assert files.names == ("east", "west")
    assert files.label_names == ("a", "b")
    _assert_equal(shards, files)


def _assert_equal(shards, files):
    assert shards.names == files.names
    assert shards.label_names == files.label_names
    for name in ("offsets", "labels", "groups"):
        np.testing.assert_array_equal(getattr(shards, name), getattr(files, name))
    rows = np.arange(files.num_rows)
    for name, values in files.store.read(rows).items():
        np.testing.assert_array_equal(shards.store.read(rows)[name], values)


def test_splits_are_kept_apart(packed, tmp_path):
    data = _load("array_record", packed, tmp_path, splits=("train",))
    assert data.sizes.tolist() == [4, 4]
    assert data.issues.excluded == {"split 'test' is not asked for": 2}


def test_a_damaged_shard_is_listed_or_stops(packed, tmp_path):
    _damage(packed / SHARD)
    with pytest.raises(DataError, match=r"images-00000\.array_record\[\d+\] \(.*\.png\)"):
        _load("array_record", packed, tmp_path)
    data = _load("array_record", packed, tmp_path, on_bad="skip")
    assert data.issues.counts()["corrupt"] >= 1
    assert data.num_rows < 10


def test_a_missing_shard_is_named(packed, tmp_path):
    (packed / SHARD).unlink()
    with pytest.raises(DataError, match=r"images-00000\.array_record is missing"):
        _load("array_record", packed, tmp_path)


def test_a_malformed_line_is_named(packed, tmp_path):
    lines = (packed / INDEX).read_text().splitlines()
    lines[2] = json.dumps({"image": "x"})
    (packed / INDEX).write_text("\n".join(lines))
    with pytest.raises(DataError, match=r"index\.jsonl: line 3 is malformed"):
        _load("array_record", packed, tmp_path)


def test_texts_of_the_index_are_read_as_cells_are(packed):
    lines = (packed / INDEX).read_text().splitlines()
    for place, facts in enumerate(({"label": "a ", "group": "7.0"}, {"label": "NaN", "group": 7})):
        lines[place] = json.dumps({**json.loads(lines[place]), **facts})
    (packed / INDEX).write_text("\n".join(lines[:1]))
    (record,) = _records(packed)
    assert (record.label, record.group) == ("a", "7")
    (packed / INDEX).write_text("\n".join(lines[:2]))
    with pytest.raises(DataError, match=r"index\.jsonl: line 2 is malformed"):
        _records(packed)


def test_a_folder_without_an_index_is_named(tmp_path):
    with pytest.raises(DataError, match=r"index\.jsonl does not exist"):
        _load("array_record", tmp_path, tmp_path)


def test_an_image_beyond_a_shard_is_named(packed, tmp_path):
    lines = (packed / INDEX).read_text().splitlines()
    lines[1] = json.dumps({**json.loads(lines[1]), "position": 10})
    (packed / INDEX).write_text("\n".join(lines))
    with pytest.raises(DataError, match=r"line 2 names image 10 of .*, which holds 10"):
        _load("array_record", packed, tmp_path)


@pytest.mark.parametrize("on_bad", ["error", "skip"])
def test_a_truncated_shard_is_named_whatever_the_policy(packed, tmp_path, on_bad):
    shard = packed / SHARD
    shard.write_bytes(shard.read_bytes()[:500])
    with pytest.raises(DataError, match=r"images-00000\.array_record cannot be opened"):
        _load("array_record", packed, tmp_path, on_bad=on_bad)


def test_a_mended_shard_loads_despite_the_cache_of_the_damaged_one(packed, tmp_path):
    sound = (packed / SHARD).read_bytes()
    _damage(packed / SHARD)
    assert _load("array_record", packed, tmp_path, on_bad="skip").num_rows < 10
    (packed / SHARD).write_bytes(sound)
    assert _load("array_record", packed, tmp_path).num_rows == 10


def test_a_shard_of_another_folder_is_not_taken_for_the_packed_one(source, packed, tmp_path):
    assert len({record.image.load() for record in _records(packed)}) == 10
    listing = read_listing(DataSettings(source="index", root=str(source)))
    pack(listing.records[::-1], tmp_path / "reversed", source)
    (tmp_path / "reversed" / SHARD).replace(packed / SHARD)  # sound, but not in the same order
    for record in _records(packed):
        with pytest.raises(CorruptImage, match="does not hold the bytes that were packed"):
            record.image.load()


def test_a_package_installed_later_is_not_remembered_as_missing(packed, tmp_path, monkeypatch):
    with monkeypatch.context() as without:
        without.setitem(sys.modules, "grain.sources", None)
        for on_bad in ("error", "skip"):
            with pytest.raises(DataError, match="pip install grain"):
                _load("array_record", packed, tmp_path, on_bad=on_bad)
    assert _load("array_record", packed, tmp_path).num_rows == 10


def test_only_shards_changed_after_the_index_are_read_for_their_names(packed, monkeypatch):
    def fingerprints():
        return [r.image.fingerprint() for r in _records(packed)]

    loads = []
    load = PackedImage.load
    monkeypatch.setattr(PackedImage, "load", lambda image: loads.append(image) or load(image))
    (packed / SHARD).touch()
    touched = fingerprints()
    assert len(loads) == 10
    time.sleep(0.05)  # file systems stamp changes with a clock that ticks in milliseconds
    (packed / INDEX).touch()
    assert fingerprints() == touched
    assert len(loads) == 10


def test_handles_load_from_threads_and_after_pickling(source, packed):
    images = [record.image for record in _records(packed)] * 20
    expected = [(source / image.original).read_bytes() for image in images]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(PackedImage.load, images)) == expected
    assert [image.load() for image in pickle.loads(pickle.dumps(images))] == expected


def test_shards_are_filled_in_order(source, tmp_path):
    listing = read_listing(DataSettings(source="index", root=str(source)))
    assert pack(listing.records, tmp_path / "out", source, per_shard=4) == 10
    images = [record.image for record in _records(tmp_path / "out")]
    assert [(i.shard.name[:12], i.position) for i in images] == [
        (f"images-0000{n // 4}", n % 4) for n in range(10)
    ]
    assert [i.load() for i in images] == [r.image.read_bytes() for r in listing.records]


def test_real_images_keep_pixels_labels_and_patients(shared, tmp_path):
    """Every 20th image of a real set, packed with its index and loaded beside its files."""
    original = shared / "data" / "busi_breast"
    root = tmp_path / "source"
    with (original / "index.csv").open(newline="") as text:
        rows = [{**row, "mask": ""} for row in csv.DictReader(text)][::20]
    for row in rows:
        (root / row["image"]).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(original / row["image"], root / row["image"])
    with (root / "index.csv").open("w", newline="") as text:
        writer = csv.DictWriter(text, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    _pack(root, tmp_path / "packed")
    _assert_equal(
        _load("array_record", tmp_path / "packed", tmp_path / "a"),
        _load("index", root, tmp_path / "b"),
    )
