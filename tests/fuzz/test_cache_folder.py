"""A corrupted cache folder: the same pixels and geometry come out, or an error of one line."""

import logging
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image

from tests.data.labels.label_settings import label_settings
from tests.fuzz.conftest import count
from ufm_jax.data.federated import load_federated
from ufm_jax.data.labels.load import load_labelled
from ufm_jax.data.settings import DataSettings
from ufm_jax.errors import DataError

COUNT, SIZE = 6, 16
WAYS = ("flip", "flip", "cut", "zero", "noise", "swap", "grow", "gone", "folder")


def folder_of_images(root: Path) -> Path:
    """Images with masks of the classes 1 and 2."""
    rng = np.random.default_rng(0)
    for split in ("train", "val", "test"):
        for index in range(COUNT // 3):
            for kind, most in (("image", 256), ("mask", 3)):
                path = root / split / kind / f"{split}{index}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(rng.integers(0, most, (30, 20 + index), np.uint8)).save(path)
    return root


def corrupted(rng: np.random.Generator, cache: Path) -> str:
    """Changes one file of a cache and returns how; as bits, disks, copies and users do it."""
    files = sorted(path for path in cache.rglob("*") if path.is_file())
    # Locks are empty, and most bytes lie in the images: each file is hit as often as any other.
    file = files[rng.integers(len(files))]
    content = bytearray(file.read_bytes())
    place = int(rng.integers(max(1, len(content))))
    match way := str(
        rng.choice(["flip", "cut", "zero", "noise", "swap", "grow", "gone", "folder"])
    ):
        case "flip" if content:
            content[place] ^= 1 << int(rng.integers(8))
        case "cut":
            del content[place:]
        case "zero":
            content[place : place + 512] = bytes(len(content[place : place + 512]))
        case "noise":
            content[place : place + 64] = rng.bytes(len(content[place : place + 64]))
        case "swap":
            content = bytearray(files[rng.integers(len(files))].read_bytes())
        case "grow":
            content += rng.bytes(64)
    file.unlink()
    if way == "folder":
        file.mkdir()
    elif way != "gone":
        file.write_bytes(content)
    return f"{way} {file.name.split('-')[0]}"


def loaded(root: Path, cache: Path) -> dict[str, np.ndarray]:
    """Everything that the cache hands out: for pretraining, and for a segmentation."""
    plain = DataSettings(
        source="folders", root=str(root), working_size=SIZE, cache_dir=str(cache), num_workers=1
    )
    found = load_federated(plain)
    rows = found.store.read(np.arange(found.num_rows))
    labelled = load_labelled(label_settings(plain, kind="segment", mask_classes=("auto",)))
    masks = labelled.store.read(np.arange(COUNT))
    known = {"native": labelled.native_size, "pixels": labelled.class_pixels}
    return rows | {f"labelled {name}": values for name, values in (masks | known).items()}


def test_no_corruption_changes_what_is_read_without_a_word(tmp_path, capsys, caplog, monkeypatch):
    root, cache = folder_of_images(tmp_path / "root"), tmp_path / "cache"
    caplog.set_level(logging.WARNING)
    monkeypatch.setattr("ufm_jax.data.cache.fingerprint._SETTLED_NS", -(10**12))  # remember at once
    expected = loaded(root, tmp_path / "whole")
    rng, counts, unlike = np.random.default_rng(0), Counter(), []
    for _ in range(count(800)):
        shutil.rmtree(cache, ignore_errors=True)
        shutil.copytree(tmp_path / "whole", cache)
        caplog.clear()
        what = corrupted(rng, cache)
        try:
            found = loaded(root, cache)
        except (DataError, OSError) as error:
            counts[f"{type(error).__name__} of {len(str(error).splitlines())} line"] += 1
            continue
        counts["decoded again, with a warning" if caplog.messages else "the same"] += 1
        same = found.keys() == expected.keys()
        if not same or not all(np.array_equal(found[n], expected[n]) for n in expected):
            unlike.append(what)
    with capsys.disabled():
        print(f"\n{dict(counts)}")
    assert not unlike
    assert not [outcome for outcome in counts if "of" in outcome and "of 1 line" not in outcome]
    assert counts["decoded again, with a warning"] > 0
