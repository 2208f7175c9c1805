"""The command says what it made and what it left out, and never mixes two makings in one folder."""

import numpy as np
import pytest
from PIL import Image

from tools import prepare_data
from ufm_jax.data.sources.array_record import INDEX
from ufm_jax.errors import DataError

pytestmark = pytest.mark.filterwarnings("ignore")  # TFDS and its dependencies warn at import


def _save(path, seed, shape=(24, 30)):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, shape, dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def _pack(root, out):
    prepare_data.main(
        ["array_record", "--source", "folders", "--root", str(root), "--out", str(out)]
    )


def _build(name, source, out):
    prepare_data.main(["tfds", "--set", name, "--source", str(source), "--out", str(out)])


def _contents(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture
def clients(tmp_path):
    """Two clients of three images."""
    for number in range(6):
        _save(tmp_path / "clients" / "ab"[number % 2] / f"{number}.png", number)
    return tmp_path / "clients"


@pytest.fixture
def busi(tmp_path):
    """One image of each class, one with two masks."""
    for label in ("benign", "malignant", "normal"):
        _save(tmp_path / "busi" / label / f"{label} (1).png", 1)
        _save(tmp_path / "busi" / label / f"{label} (1)_mask.png", 2)
    _save(tmp_path / "busi" / "benign" / "benign (1)_mask_1.png", 3)
    return tmp_path / "busi"


def test_equal_sources_give_equal_bytes_wherever_they_lie(clients, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    moved = clients.rename(tmp_path / "elsewhere" / "copy")
    _pack(moved, tmp_path / "one")
    moved.rename(clients)
    _pack(clients, tmp_path / "two")
    assert _contents(tmp_path / "one") == _contents(tmp_path / "two")


def test_a_set_built_twice_has_equal_shards(busi, tmp_path):
    _build("busi", busi, tmp_path / "one")
    _build("busi", busi, tmp_path / "two")
    shards = [
        {p.name: p.read_bytes() for p in (tmp_path / out).rglob("*.array_record*")}
        for out in ("one", "two")
    ]
    assert shards[0]
    assert shards[0] == shards[1]


def test_all_that_is_left_out_is_said(clients, tmp_path, capsys):
    (clients / "a" / "0.png").write_bytes(b"")
    (clients / "a" / "notes.txt").write_text("not an image")
    _save(clients / "b" / "masks" / "1.png", 9)
    (clients / "empty").mkdir()
    _pack(clients, tmp_path / "packed")
    said = capsys.readouterr().out
    assert "0.png (client a): has 0 bytes" in said
    assert "notes.txt (client a): does not have the suffix of an image" in said
    assert "1 images: folder 'masks'" in said
    assert "client empty: it has no usable image" in said
    assert "packed: 5 images" in said
    assert len((tmp_path / "packed" / INDEX).read_text().splitlines()) == 5


def test_nothing_to_pack_is_an_error(tmp_path):
    (tmp_path / "clients" / "a").mkdir(parents=True)
    with pytest.raises(DataError, match="no usable image"):
        _pack(tmp_path / "clients", tmp_path / "packed")
    assert not (tmp_path / "packed").exists()


def test_a_folder_is_not_packed_into_twice(clients, tmp_path):
    _pack(clients, tmp_path / "packed")
    before = _contents(tmp_path / "packed")
    with pytest.raises(DataError, match="holds packed images already"):
        _pack(clients, tmp_path / "packed")
    assert _contents(tmp_path / "packed") == before


def test_a_set_is_not_built_over_another(busi, tmp_path):
    _build("busi", busi, tmp_path / "built")
    _save(busi / "benign" / "benign (2).png", 5)
    with pytest.raises(DataError, match="is built already"):
        _build("busi", busi, tmp_path / "built")


@pytest.mark.parametrize("source", ["folders", "index", "lists"])
def test_a_missing_source_is_named(source, tmp_path):
    root = tmp_path / "absent"
    with pytest.raises(DataError, match="absent"):
        prepare_data.main(
            ["array_record", "--source", source, "--root", str(root), "--out", str(tmp_path / "o")]
        )


def test_a_missing_download_is_named(tmp_path):
    with pytest.raises(DataError, match="absent is not a folder"):
        _build("busi", tmp_path / "absent", tmp_path / "built")


def test_a_mask_of_another_size_is_named(busi, tmp_path):
    _save(busi / "benign" / "benign (1)_mask_1.png", 3, shape=(24, 29))
    with pytest.raises(DataError, match=r"benign \(1\)_mask_1\.png differs in size"):
        _build("busi", busi, tmp_path / "built")


def test_a_broken_mask_is_named_and_the_set_can_then_be_built(busi, tmp_path):
    mask = busi / "benign" / "benign (1)_mask_1.png"
    mask.write_bytes(b"broken")
    with pytest.raises(DataError, match=r"benign \(1\)_mask_1\.png does not decode"):
        _build("busi", busi, tmp_path / "built")
    mask.unlink()
    _build("busi", busi, tmp_path / "built")


def test_a_table_without_file_names_is_named(tmp_path):
    for folder in ("training_set", "test_set"):
        _save(tmp_path / "hc18" / folder / "000_HC.png", 1)
    (tmp_path / "hc18" / "training_set_pixel_size_and_HC.csv").write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match=r"pixel_size_and_HC\.csv lacks the columns"):
        _build("hc18", tmp_path / "hc18", tmp_path / "built")
