"""Packed images are the images that were packed, and a file that is not is named."""

import json

import numpy as np
import pytest
from PIL import Image

from tools import prepare_data
from ufm_jax.data.array_record import INDEX
from ufm_jax.data.federated import load_federated
from ufm_jax.data.issues import DataError
from ufm_jax.data.settings import DataSettings


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
    out = tmp_path / "packed"
    prepare_data.main(
        ["array_record", "--source", "index", "--root", str(source), "--out", str(out)]
    )
    return out


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
    files, shards = _load("index", source, tmp_path), _load("array_record", packed, tmp_path)
    assert shards.names == files.names == ("east", "west")
    assert shards.label_names == files.label_names == ("a", "b")
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
    shard = packed / "images-00000.array_record"
    content = bytearray(shard.read_bytes())
    begin = content.find(b"IDAT") + 30  # inside the first image's pixels
    content[begin : begin + 40] = bytes(40)
    shard.write_bytes(content)
    with pytest.raises(DataError, match=r"images-00000\.array_record\[\d+\] \(.*\.png\)"):
        _load("array_record", packed, tmp_path)
    data = _load("array_record", packed, tmp_path, on_bad="skip")
    assert data.issues.counts()["corrupt"] >= 1
    assert data.num_rows < 10


def test_a_missing_shard_is_named(packed, tmp_path):
    (packed / "images-00000.array_record").unlink()
    with pytest.raises(DataError, match=r"images-00000\.array_record is missing"):
        _load("array_record", packed, tmp_path)


def test_a_malformed_line_is_named(packed, tmp_path):
    lines = (packed / INDEX).read_text().splitlines()
    lines[2] = json.dumps({"image": "x"})
    (packed / INDEX).write_text("\n".join(lines))
    with pytest.raises(DataError, match=r"index\.jsonl: line 3 is malformed"):
        _load("array_record", packed, tmp_path)


def test_a_folder_without_an_index_is_named(tmp_path):
    with pytest.raises(DataError, match=r"index\.jsonl does not exist"):
        _load("array_record", tmp_path, tmp_path)


def test_a_folder_is_not_packed_into_twice(source, packed):
    with pytest.raises(SystemExit, match="holds packed images already"):
        prepare_data.main(
            ["array_record", "--source", "index", "--root", str(source), "--out", str(packed)]
        )


def test_what_cannot_be_packed_is_said(source, tmp_path, capsys):
    (source / "east" / "3.png").write_bytes(b"")
    out = tmp_path / "some"
    prepare_data.main(
        ["array_record", "--source", "index", "--root", str(source), "--out", str(out)]
    )
    assert "3.png (client east): has 0 bytes" in capsys.readouterr().out
    assert len((out / INDEX).read_text().splitlines()) == 9
