"""Public sets built with TFDS from trees laid out like the originals, without TensorFlow."""

import csv
import io
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from tools import prepare_data
from ufm_jax.data.federated import load_federated
from ufm_jax.data.settings import DataSettings
from ufm_jax.data.sources.tfds import read_records
from ufm_jax.errors import DataError

pytestmark = pytest.mark.filterwarnings("ignore")  # TFDS and its dependencies warn at import


def _save(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def _grey(seed, shape=(24, 30)):
    return np.random.default_rng(seed).integers(0, 255, shape, dtype=np.uint8)


def _busi(root):
    for label in ("benign", "malignant", "normal"):
        for i in (1, 2):
            _save(root / label / f"{label} ({i}).png", _grey(i))
            for suffix in ("_mask", "_mask_1")[: 2 if i == 1 else 1]:
                mask = np.zeros((24, 30), np.uint8)
                mask[2:5] = 255 if suffix == "_mask" else 0
                mask[10:12] = 255 if suffix == "_mask_1" else 0
                _save(root / label / f"{label} ({i}){suffix}.png", mask)


def _hc18(root):
    for i in range(3):
        _save(root / "training_set" / f"00{i}_HC.png", _grey(i))
        _save(root / "training_set" / f"00{i}_HC_Annotation.png", _grey(i) // 200 * 255)
        _save(root / "test_set" / f"00{i}_HC.png", _grey(9 + i))
    _save(root / "training_set" / "000_2HC.png", _grey(77))
    (root / "training_set_pixel_size_and_HC.csv").write_text(
        "filename,pixel size(mm),head circumference (mm)\n000_HC.png,0.07,44.3\n"
    )


def _pocus(root):
    for probe in ("convex", "linear"):
        for i, name in enumerate(("Cov-", "Pneu_", "Reg-", "Vir_")):
            _save(root / "pocus_images" / probe / f"{name}{probe}.png", _grey(i))
    (root / "pocus_images" / "convex" / "notes.txt").write_text("not an image")


TREES = {"busi": _busi, "hc18": _hc18, "pocus": _pocus}


def _build(name, source, out):
    prepare_data.main(["tfds", "--set", name, "--source", str(source), "--out", str(out)])


def _load(root, tmp_path, **settings):
    return load_federated(
        DataSettings(
            source="tfds",
            root=str(root),
            cache_dir=str(tmp_path / "cache"),
            working_size=24,
            detect_geometry=False,
            **settings,
        )
    )


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """All three sets, built in one folder."""
    folder = tmp_path_factory.mktemp("tfds")
    for name, plant in TREES.items():
        plant(folder / "downloads" / name)
        _build(name, folder / "downloads" / name, folder / "built")
    return folder


def test_each_set_is_a_client(built, tmp_path):
    data = _load(built / "built", tmp_path)
    assert dict(zip(data.names, data.sizes, strict=True)) == {"busi": 6, "hc18": 7, "pocus": 8}
    assert set(data.label_names) >= {"benign", "covid", "viral_pneumonia"}


def test_images_are_the_downloads_bytes(built):
    settings = DataSettings(source="tfds", root=str(built / "built"))
    downloads = {
        path.read_bytes()
        for path in (built / "downloads").rglob("*")
        if path.suffix in (".png", ".jpg") and "mask" not in path.name
    }
    assert {record.image.load() for record in read_records(settings)} <= downloads


def test_patients_splits_and_labels_are_kept(built):
    records = list(read_records(DataSettings(source="tfds", root=str(built / "built"))))
    heads = [r for r in records if r.client == "hc18"]
    assert sorted(r.split for r in heads) == ["test"] * 3 + ["train"] * 4
    train = [r.group for r in heads if r.split == "train"]
    assert sorted(train).count("hc18/training_set/000") == 2  # two images of one patient
    assert not set(train) & {r.group for r in heads if r.split == "test"}
    assert {r.label for r in records if r.client == "busi"} == {"benign", "malignant", "normal"}
    assert all(r.label is None for r in heads)


def test_a_feature_can_name_the_client(built, tmp_path):
    data = _load(built / "built" / "pocus", tmp_path, client_columns=("probe",))
    assert dict(zip(data.names, data.sizes, strict=True)) == {"convex": 4, "linear": 4}


def test_several_masks_of_one_image_are_united(built):
    import tensorflow_datasets as tfds

    builder = tfds.builder_from_directory(built / "built" / "busi" / "1.0.0")
    source = builder.as_data_source("train", decoders={"image": tfds.decode.SkipDecoding()})
    for example in source:
        rows = np.flatnonzero(np.asarray(Image.open(io.BytesIO(example["mask"]))).any(axis=1))
        both = b"(1)" in example["name"]
        assert rows.tolist() == ([2, 3, 4, 10, 11] if both else [2, 3, 4])


def test_measurements_are_kept(built):
    import tensorflow_datasets as tfds

    builder = tfds.builder_from_directory(built / "built" / "hc18" / "1.0.0")
    source = builder.as_data_source("train", decoders={"image": tfds.decode.SkipDecoding()})
    lengths = {e["name"].decode(): e["head_circumference_mm"].decode() for e in source}
    assert lengths["training_set/000_HC.png"] == "44.3"
    assert lengths["training_set/001_HC.png"] == ""


@pytest.mark.parametrize("name", TREES)
def test_a_folder_that_is_not_the_download_is_refused(name, tmp_path):
    (tmp_path / "download").mkdir()
    (tmp_path / "download" / "readme.txt").write_text("nothing here")
    with pytest.raises(DataError, match="the download should hold"):
        _build(name, tmp_path / "download", tmp_path / "built")


@pytest.mark.parametrize("package", ["tensorflow_datasets", "importlib_resources", "array_record"])
def test_a_missing_package_is_named_before_anything_is_written(package, tmp_path, monkeypatch):
    _pocus(tmp_path / "download")
    for name in [package, *(n for n in sys.modules if n.startswith(f"{package}."))]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(DataError, match=f"pip install {package}"):
        _build("pocus", tmp_path / "download", tmp_path / "built")
    assert not (tmp_path / "built").exists()


def test_a_folder_without_a_built_set_is_refused(tmp_path):
    with pytest.raises(DataError, match="no set built by TFDS"):
        _load(tmp_path, tmp_path)


def test_a_damaged_set_is_named(tmp_path):
    _pocus(tmp_path / "download")
    _build("pocus", tmp_path / "download", tmp_path / "built")
    for path in (tmp_path / "built").rglob("*.array_record*"):
        path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(DataError, match="built/pocus"):
        _load(tmp_path / "built", tmp_path)


def test_tensorflow_is_never_imported(built):
    root = str(built / "built")
    code = (
        "import sys\n"
        "from ufm_jax.data.settings import DataSettings\n"
        "from ufm_jax.data.sources.tfds import read_records\n"
        f"records = list(read_records(DataSettings(source='tfds', root={root!r})))\n"
        "assert records[0].image.load()\n"
        "assert 'tensorflow' not in sys.modules\n"
        "assert 'jax' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def _pixels(content):
    with Image.open(io.BytesIO(content)) as image:
        return image.size, image.tobytes()


def _original(name, origin):
    """Path in the original download; '' for a frame of a clip."""
    path = origin.removeprefix("data/").removesuffix("#frame0")
    if name == "busi":
        return path.replace("/images/", "/")
    return "" if "pocus_videos" in path else path


def test_real_images_laid_out_like_the_originals(shared, tmp_path):
    """Some images of each set under their original names, built and read back."""
    folders = {"busi": "busi_breast", "hc18": "hc18_fetal_head", "pocus": "pocus_lung"}
    planted, sources = {}, []
    for name, folder in folders.items():
        with (shared / "data" / folder / "index.csv").open(newline="") as text:
            named = [(row, _original(name, row["origin"])) for row in csv.DictReader(text)]
        named = [(row, original) for row, original in named if original]
        for row, original in named[:: max(1, len(named) // 30)]:
            path = tmp_path / name / original
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes((shared / "data" / folder / row["image"]).read_bytes())
            planted[name] = planted.get(name, 0) + 1
            sources.append((name, path, row["label"]))
        _build(name, tmp_path / name, tmp_path / "built")
    data = _load(tmp_path / "built", tmp_path)
    assert dict(zip(data.names, data.sizes.tolist(), strict=True)) == planted
    assert not [kind for kind in data.issues.counts() if not kind.startswith("duplicate")]
    records = read_records(DataSettings(source="tfds", root=str(tmp_path / "built")))
    read = sorted((r.client, _pixels(r.image.load()), r.label or "") for r in records)
    assert read == sorted((name, _pixels(p.read_bytes()), label) for name, p, label in sources)
