"""From files to labelled data: what is read, split, shared out, and what is said of the rest."""

import csv
import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.data.labels.label_settings import label_settings
from ufm_jax.data.labels.load import load_labelled
from ufm_jax.data.labels.settings import SplitSettings
from ufm_jax.data.settings import DataSettings
from ufm_jax.errors import DataError

SIZE = (20, 30)


def picture(path: Path, seed: int, size: tuple[int, int] = SIZE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, size, np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def blob(path: Path, seed: int, value: int = 255, size: tuple[int, int] = SIZE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    mask = np.zeros(size, np.uint8)
    mask[2 + seed % 5 : 9, 4 : 10 + seed % 3] = value
    Image.fromarray(mask).save(path)
    return path


def images(root: Path, **changes) -> DataSettings:
    plain = {
        "source": "index",
        "root": str(root),
        "working_size": 16,
        "detect_geometry": False,
        "cache_dir": str(root.parent / "cache"),
        "num_workers": 2,
    }
    return DataSettings(**(plain | changes))


COLUMNS = (
    "image",
    "mask",
    "label",
    "group",
    "split",
    "cyst",
    "solid",
    "notes",
    "width0",
    "height0",
)


def write_index(root: Path, rows: list[list[str]]) -> None:
    with (root / "index.csv").open("w", newline="") as file:
        csv.writer(file).writerows([COLUMNS, *rows])


@pytest.fixture
def indexed(tmp_path: Path) -> Path:
    """40 images of 20 groups in train (30) and test (10), with masks, labels and findings."""
    root = tmp_path / "set"
    rows = []
    for i in range(40):
        picture(root / f"{i}.png", i)
        blob(root / f"m/{i}.png", i)
        label = ("benign", "malignant", "normal")[i // 2 % 3]
        split = "test" if i >= 30 else "train"
        cyst, solid = str(i % 2), ("", "yes", "no")[i % 3]
        notes = f"HC_mm={i}.5 px_mm=0.1"
        rows.append(
            [f"{i}.png", f"m/{i}.png", label, f"g{i // 2}", split, cyst, solid, notes, "60", "40"]
        )
    write_index(root, rows)
    return root


def edit(root: Path, row: int, **values: str) -> None:
    with (root / "index.csv").open(newline="") as file:
        rows = list(csv.reader(file))[1:]
    for name, value in values.items():
        rows[row][COLUMNS.index(name)] = value
    write_index(root, rows)


def test_single_labels_rows_splits_and_attributes(indexed):
    data = load_labelled(label_settings(images(indexed)))
    assert data.task.classes == ("benign", "malignant", "normal")
    assert data.names[:2] == ("0.png", "1.png")
    assert data.images[0] == indexed / "0.png"
    np.testing.assert_array_equal(data.labels, [i // 2 % 3 for i in range(40)])
    batch = data.store.read(np.array([3, 0]))
    np.testing.assert_array_equal(batch["label"], data.labels[[3, 0]])
    np.testing.assert_array_equal(batch["labels"], np.eye(3)[data.labels[[3, 0]]])
    assert "mask" not in batch
    assert data.rows("test").tolist() == list(range(30, 40))
    assert 3 <= len(data.rows("val")) <= 6
    assert data.attributes[7]["HC_mm"] == "7.5"
    assert (data.native_size == SIZE).all()
    counts = data.summary()
    assert sum(part["images"] for part in counts.values()) == 40
    assert counts["test"]["classes"] == {"benign": 4, "malignant": 4, "normal": 2}
    weights = data.class_weights()
    shares = np.array(list(counts["train"]["classes"].values()))
    np.testing.assert_allclose(weights * shares, shares.sum() / 3, rtol=1e-6)
    assert not data.issues.entries


def test_classes_can_be_ordered_merged_and_left_out(indexed):
    classes = ("malignant", "other=benign|normal")
    data = load_labelled(label_settings(images(indexed), classes=classes))
    assert data.task.classes == ("malignant", "other")
    np.testing.assert_array_equal(data.labels, [int(i // 2 % 3 != 1) for i in range(40)])
    data = load_labelled(label_settings(images(indexed), leave_out=("normal",)))
    assert data.task.classes == ("benign", "malignant")
    assert data.issues.excluded == {"label 'normal' is left out": 12}


def test_several_columns_are_findings_and_empty_is_unknown(indexed):
    settings = label_settings(images(indexed), kind="multi", label_columns=("cyst", "solid"))
    data = load_labelled(settings)
    assert data.task.classes == ("cyst", "solid")
    solid = np.array([np.nan, 1, 0])[np.arange(40) % 3]
    np.testing.assert_array_equal(data.targets, np.stack([np.arange(40) % 2, solid], 1))
    assert (data.labels == -1).all()
    rows = data.rows("train")
    expected = (solid[rows] == 0).sum() / (solid[rows] == 1).sum()
    np.testing.assert_allclose(data.class_weights()[1], expected, rtol=1e-6)


def test_findings_in_one_column_are_separated(indexed):
    for i in range(40):
        edit(indexed, i, label=("a+b", "b", "a + c")[i % 3])
    data = load_labelled(label_settings(images(indexed), kind="multi", separator="+"))
    assert data.task.classes == ("a", "b", "c")
    np.testing.assert_array_equal(data.targets[:3], [[1, 1, 0], [0, 1, 0], [1, 0, 1]])


def test_masks_follow_their_images_and_are_whole_at_native_size(indexed):
    data = load_labelled(label_settings(images(indexed), kind="segment"))
    assert data.task.classes == ("foreground",)
    row = data.names.index("7.png")
    native = np.asarray(Image.open(indexed / "m/7.png")) > 0
    np.testing.assert_array_equal(data.mask_at_native(row), native)
    np.testing.assert_array_equal(data.class_pixels[row], [600 - native.sum(), native.sum()])
    batch = data.store.read(np.array([row]))
    height, width = batch["extent"][0]
    mask = batch["mask"][0]
    assert (mask[height:] == 255).all()
    assert (mask[:, width:] == 255).all()
    small = Image.fromarray(native.astype(np.uint8)).resize((width, height), Image.NEAREST)
    np.testing.assert_array_equal(mask[:height, :width], np.asarray(small))
    assert "labels" not in batch
    counts = data.class_pixels[data.rows("train")].sum(0)
    np.testing.assert_allclose(data.class_weights() * counts, counts.sum() / 2, rtol=1e-6)


def test_spacing_is_scaled_from_the_size_it_refers_to(indexed):
    settings = label_settings(images(indexed), spacing_size_columns=("width0", "height0"))
    np.testing.assert_allclose(load_labelled(settings).spacing, 0.2, rtol=1e-6)
    np.testing.assert_allclose(load_labelled(label_settings(images(indexed))).spacing, 0.1)
    with pytest.raises(DataError, match=r"spacing_key: no image .*\['cm'\]"):
        load_labelled(label_settings(images(indexed), spacing_key="cm"))


def test_parts_keep_rows_together_and_serve_the_engine(indexed):
    settings = label_settings(images(indexed, partition="iid", num_clients=4), kind="segment")
    whole = load_labelled(settings)
    assert whole.num_clients == 4
    plain = load_labelled(label_settings(images(indexed), kind="segment"))
    places = np.array([plain.names.index(name) for name in whole.names])
    assert places.tolist() != sorted(places)
    shared_out, in_order = whole.store.read(np.arange(40)), plain.store.read(places)
    for name in ("image", "mask", "extent"):
        np.testing.assert_array_equal(shared_out[name], in_order[name])
    np.testing.assert_array_equal(whole.class_pixels, plain.class_pixels[places])
    train = whole.take(whole.rows("train"))
    assert set(train.splits) == {"train"}
    for row in range(train.num_rows):
        other = whole.names.index(train.names[row])
        np.testing.assert_array_equal(
            train.store.read(np.array([row]))["mask"], whole.store.read(np.array([other]))["mask"]
        )
        np.testing.assert_array_equal(train.mask_at_native(row), whole.mask_at_native(other))
    federation = train.federated()
    assert federation.num_rows == train.num_rows
    assert federation.sizes.sum() == len(whole.rows("train"))
    assert train.fingerprint not in ("", whole.fingerprint)
    kept = {whole.names[row] for row in whole.subset_labels(0.2, 0)}
    assert {train.names[row] for row in train.subset_labels(0.2, 0)} == kept


@pytest.mark.parametrize("partition", ["iid", "dirichlet", "lognormal"])
def test_splits_clients_and_subsets_do_not_depend_on_the_order_of_the_index(indexed, partition):
    settings = label_settings(
        images(indexed, partition=partition, num_clients=3), SplitSettings("fractions")
    )

    def facts():
        data = load_labelled(settings)
        owner = np.repeat(data.clients, np.diff(data.offsets))
        kept = set(data.subset_labels(0.3, 1).tolist())
        for group in np.unique(data.groups):
            mine = data.groups == group
            assert len(set(owner[mine])) == len(set(data.splits[mine])) == 1
        return {
            name: (owner[row], data.splits[row], row in kept) for row, name in enumerate(data.names)
        }

    before = facts()
    with (indexed / "index.csv").open(newline="") as file:
        rows = list(csv.reader(file))[1:]
    write_index(indexed, rows[::-1])
    assert facts() == before
    indexed.rename(indexed.parent / "moved")
    settings = label_settings(
        images(indexed.parent / "moved", partition=partition, num_clients=3),
        SplitSettings("fractions"),
    )
    assert facts() == before


def test_the_same_files_have_one_fingerprint_and_a_changed_mask_another(indexed):
    settings = label_settings(images(indexed), kind="segment")
    before = load_labelled(settings).fingerprint
    assert load_labelled(settings).fingerprint == before
    other = label_settings(images(indexed), SplitSettings(seed=5), kind="segment")
    assert load_labelled(other).fingerprint != before
    blob(indexed / "m/0.png", 1)
    assert load_labelled(settings).fingerprint != before


def test_class_folders_with_and_without_splits(tmp_path):
    root = tmp_path / "root"
    for i in range(24):
        split = ("train", "val", "test")[i % 3]
        picture(root / split / ("cyst", "solid")[i % 2] / f"p{i // 6}_{i}.png", i)
    (root / "train/cyst/notes.txt").write_text("x")
    data = load_labelled(label_settings(images(root, source="folders")))
    assert data.task.classes == ("cyst", "solid")
    assert {s: part["images"] for s, part in data.summary().items()} == {
        "train": 8,
        "val": 8,
        "test": 8,
    }
    assert "train/cyst/p0_0.png" in data.names
    assert data.issues.counts() == {"not_image": 1, "no_group": 1}
    with pytest.raises(DataError, match=r"'p0' is in two splits"):
        load_labelled(label_settings(images(root, source="folders"), group_pattern="(p[0-9]+)_"))
    cache = str(tmp_path / "cache")
    plain = label_settings(
        images(root / "train", source="folders", cache_dir=cache),
        SplitSettings("fractions", test_fraction=0.25, val_fraction=0.25),
    )
    assert sum(part["images"] for part in load_labelled(plain).summary().values()) == 8
    (root / "extra").mkdir()
    with pytest.raises(DataError, match=r"\['extra'\] beside \['test', 'train', 'val'\]"):
        load_labelled(label_settings(images(root, source="folders")))


@pytest.mark.parametrize("kind", ["single", "segment"])
def test_split_folders_mean_the_split_in_upper_and_lower_case(tmp_path, kind):
    root = tmp_path / "root"
    for i in range(24):
        split, label = ("Train", "VAL", "Test")[i % 3], ("Cyst", "Solid")[i % 2]
        picture(root / split / ("image" if kind == "segment" else label) / f"{i}.png", i)
        if kind == "segment":
            blob(root / split / "mask" / f"{i}.png", i)
    data = load_labelled(label_settings(images(root, source="folders"), kind=kind))
    assert data.task.classes == (("foreground",) if kind == "segment" else ("Cyst", "Solid"))
    for split, folder in (("train", "Train/"), ("val", "VAL/"), ("test", "Test/")):
        rows = data.rows(split)
        assert len(rows) == 8
        assert all(data.names[row].startswith(folder) for row in rows)


@pytest.fixture
def split_folders(tmp_path: Path) -> Path:
    """40 images of two classes in folders Train and Test."""
    root = tmp_path / "root"
    for i in range(40):
        picture(
            root / ("Train", "Test")[i % 4 == 3] / ("cyst", "solid")[i // 4 % 2] / f"{i}.png", i
        )
    return root


@pytest.mark.parametrize("policy", ["fractions", "fold"])
def test_images_in_a_folder_to_test_by_are_not_drawn_anew(split_folders, policy):
    with pytest.raises(DataError, match=r"\['Test', 'Train'\].*split\.policy='column'"):
        load_labelled(
            label_settings(images(split_folders, source="folders"), SplitSettings(policy))
        )


@pytest.mark.parametrize(
    ("changes", "required", "count"),
    [
        ({"root": "Train"}, ("train", "val", "test"), 30),
        ({"splits": ("train",)}, ("train", "val", "test"), 30),
        ({}, ("test",), 40),
    ],
    ids=["one folder", "one split", "nothing to train"],
)
def test_shares_are_drawn_where_no_folder_to_test_by_is_used(
    split_folders, changes, required, count
):
    root = split_folders / changes.pop("root", "")
    split = SplitSettings("fractions", required=required)
    data = load_labelled(label_settings(images(root, source="folders", **changes), split))
    assert data.num_rows == count
    assert len(data.rows("test")) == count // 5


def test_only_folders_to_train_on_may_be_split_by_share(split_folders):
    (split_folders / "Test").rename(split_folders.parent / "away")
    split = SplitSettings("fractions")
    data = load_labelled(label_settings(images(split_folders, source="folders"), split))
    assert [len(data.rows(name)) for name in ("train", "val", "test")] == [20, 4, 6]


def test_numbered_folders_can_be_folds(tmp_path):
    root = tmp_path / "root"
    for i in range(24):
        picture(root / str(i % 3) / ("cyst", "solid")[i // 3 % 2] / f"{i}.png", i)
    split = SplitSettings("fold", fold_column="split", test_fold=2, train_values=("0", "1", "2"))
    data = load_labelled(label_settings(images(root, source="folders"), split))
    assert {data.names[row][0] for row in data.rows("test")} == {"2"}
    assert {data.names[row][0] for row in data.rows("val")} == {"0"}


def test_class_folder_without_images_is_listed(split_folders):
    (split_folders / "Train/fluid").mkdir()
    data = load_labelled(label_settings(images(split_folders, source="folders")))
    assert data.task.classes == ("cyst", "solid")
    path = str(split_folders / "Train/fluid")
    assert data.issues.by_kind()["empty_class"] == [("fluid", path, "holds no image")]


def test_mask_folders_of_the_published_layout(tmp_path):
    root = tmp_path / "root"
    for i in range(9):
        split = ("train", "val", "test")[i % 3]
        picture(root / split / "image" / f"{i}.jpg", i)
        blob(root / split / "mask" / f"{i}.png", i, value=1)
    settings = label_settings(images(root, source="folders"), kind="segment")
    data = load_labelled(settings)
    assert [len(data.rows(split)) for split in ("train", "val", "test")] == [3, 3, 3]
    row = data.names.index("val/image/4.jpg")
    expected = np.asarray(Image.open(root / "val/mask/4.png"))
    np.testing.assert_array_equal(data.mask_at_native(row), expected)
    blob(root / "train/mask/lone.png", 0)
    assert load_labelled(settings).issues.counts() == {"lone_mask": 1, "no_group": 1}
    picture(root / "train/image/0.png", 77)
    with pytest.raises(DataError, match=r"0\.jpg and .*0\.png have one stem"):
        load_labelled(settings)
    (root / "train/mask").rename(root / "train/truth")
    with pytest.raises(DataError, match=r"'truth'.*none are among mask_folders"):
        load_labelled(settings)


@pytest.mark.parametrize("kind", ["single", "segment"])
def test_phantoms_bring_their_labels_and_masks(tmp_path, kind):
    synthetic = images(tmp_path, source="synthetic", num_sites=2, mean_size=14, working_size=40)
    split = SplitSettings("fractions", test_fraction=0.25, val_fraction=0.2)
    data = load_labelled(label_settings(synthetic, split, kind=kind))
    assert data.clients == ("site_0", "site_1")
    batch = data.store.read(np.arange(data.num_rows))
    if kind == "segment":
        np.testing.assert_array_equal((batch["mask"] == 1).any((1, 2)), data.targets[:, 0])
    else:
        assert (batch["label"] >= 0).all()


@pytest.mark.parametrize("kind", ["single", "segment"])
def test_names_need_not_be_utf8(tmp_path, kind):
    root = tmp_path / os.fsdecode(b"\xe9chos")
    try:
        root.mkdir()
    except OSError:
        pytest.skip("this file system has UTF-8 names only")
    for i in range(24):
        name = os.fsdecode(b"\xe9_%d.png" % i)
        picture(root / ("image" if kind == "segment" else ("cyst", "solid")[i % 2]) / name, i)
        if kind == "segment":
            blob(root / "mask" / name, i)
    changes = {"source": "folders", "cache_dir": str(tmp_path / "cache")}
    settings = label_settings(images(root, **changes), SplitSettings("fractions"), kind=kind)
    data = load_labelled(settings)
    assert data.num_rows == 24
    assert len(data.subset_labels(0.5, 0))
    assert json.loads(json.dumps(data.issues.to_json()))["counts"] == {"no_group": 1}
    assert load_labelled(settings).fingerprint == data.fingerprint


def test_turned_coloured_and_moving_images_are_read_as_everywhere(indexed):
    pixels = np.random.default_rng(0).integers(0, 256, (30, 20, 3), np.uint8)
    turned = Image.fromarray(pixels)
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.save(indexed / "0.png", exif=exif)
    frames = [Image.fromarray(np.full(SIZE, level, np.uint8)) for level in (3, 90)]
    frames[0].save(indexed / "1.tif", save_all=True, append_images=frames[1:])
    edit(indexed, 1, image="1.tif")
    data = load_labelled(label_settings(images(indexed), kind="segment"))
    assert data.store.image_shape == (16, 16, 3)
    assert data.native_size[0].tolist() == list(SIZE)
    assert data.mask_at_native(0).shape == SIZE
    assert data.issues.counts() == {"multi_frame": 1}
    assert data.store.read(np.array([1]))["image"].max() == 3
