"""From a tree of files to a federation: what is kept, where, and what is said of the rest."""

import csv
import json
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ufm_jax.data import partition, screening
from ufm_jax.data.cache import fingerprint
from ufm_jax.data.cache.store import ArrayStore
from ufm_jax.data.federated import FederatedData, load_federated
from ufm_jax.data.issues import DataIssues, Issue
from ufm_jax.data.listing import read_listing
from ufm_jax.data.settings import DataSettings
from ufm_jax.errors import DataError, UserError
from ufm_jax.phantoms.generate import phantom
from ufm_jax.phantoms.lesion import LABEL_NAMES
from ufm_jax.phantoms.site import site_sizes


def picture(path: Path, seed: int, size: tuple[int, int] = (20, 30)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, size, np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def settings(folder: Path, **changes) -> DataSettings:
    plain = {
        "source": "folders",
        "root": str(folder),
        "working_size": 16,
        "detect_geometry": False,
        "cache_dir": str(folder.parent / "cache"),
        "num_workers": 2,
    }
    return DataSettings(**(plain | changes))


def rows_of(data, client):
    """Numbers of a client's rows."""
    return np.arange(*data.offsets[client : client + 2])


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Three clients of 4, 3 and 2 images."""
    for client, count in (("a", 4), ("b", 3), ("c", 2)):
        for index in range(count):
            picture(tmp_path / "root" / client / f"{index}.png", seed=10 * ord(client) + index)
    return tmp_path / "root"


@pytest.fixture
def indexed(tmp_path: Path) -> Path:
    """Two sets with labels, groups and splits; 12 images in 6 groups each, 'y' without labels."""
    root = tmp_path / "root"
    for set_name in ("x", "y"):
        rows = [["image", "label", "group", "split"]]
        for index in range(12):
            picture(root / set_name / f"{index}.png", seed=ord(set_name) * 100 + index)
            label = ("benign", "malignant")[index % 4 // 2] if set_name == "x" else ""
            rows.append([f"{index}.png", label, f"g{index // 2}", "test" if index > 9 else "train"])
        with (root / set_name / "index.csv").open("w", newline="") as file:
            csv.writer(file).writerows(rows)
    return root


def deep_tree(root: Path, *peaks: int) -> Path:
    """A client with a picture of 16 bits for each largest value, and one of 8 bits."""
    picture(root / "a" / "shallow.png", seed=1)
    for peak in peaks:
        values = np.linspace(0, peak, 120).astype(np.uint16).reshape(10, 12)
        Image.fromarray(values).save(root / "a" / f"{peak}.png")
    return root


@pytest.mark.parametrize(
    ("peaks", "bits"), [((900, 1023), 10), ((1024, 700), 12), ((4095,), 12), ((4096, 16383), 14)]
)
def test_a_set_that_leaves_16_bits_unused_must_say_its_depth(tmp_path, peaks, bits):
    root = deep_tree(tmp_path / "root", *peaks)
    message = rf"{len(peaks)} files have 16 bits.*data.value_range=\(0, {2**bits - 1}\) if they"
    for _ in range(2):  # decoded, then from the cache
        with pytest.raises(DataError, match=message):
            load_federated(settings(root))
    said = load_federated(settings(root, value_range=(0, 2**bits - 1)))
    assert said.num_rows == 1 + len(peaks)
    assert load_federated(settings(root, value_range=(0, 65535))).num_rows == 1 + len(peaks)


def test_one_file_that_uses_16_bits_speaks_for_the_set(tmp_path):
    assert load_federated(settings(deep_tree(tmp_path / "root", 300, 40_000))).num_rows == 3


def test_a_value_beyond_the_range_is_a_fault_of_its_file(tmp_path):
    root = deep_tree(tmp_path / "root", 4095, 40_000)
    with pytest.raises(DataError, match=r"a/40000.png .*beyond data.value_range \(0, 4095\)"):
        load_federated(settings(root, value_range=(0, 4095)))
    data = load_federated(settings(root, value_range=(0, 4095), on_bad="skip"))
    assert data.num_rows == 2
    assert data.issues.counts()["corrupt"] == 1


def test_a_file_that_declares_too_many_pixels_is_a_fault_of_its_own(tree):
    header = struct.pack(">IIBBBBB", 1, 100_000_000, 8, 0, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"")), (b"IEND", b"")]
    content = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )
    (tree / "b" / "bomb.png").write_bytes(content)
    with pytest.raises(DataError, match=r"b/bomb.png .*100000000 pixels"):
        load_federated(settings(tree))
    data = load_federated(settings(tree, on_bad="skip"))
    assert data.num_rows == 9
    assert [issue.kind for issue in data.issues.entries] == ["corrupt"]


@pytest.mark.parametrize("value", [(1,), (0, 0), (5, 1), (0, float("inf")), (float("nan"), 1)])
def test_a_range_that_is_none_is_refused(value):
    with pytest.raises(UserError, match="value_range"):
        DataSettings(value_range=value)


@pytest.mark.parametrize("suffixes", [(".pdf",), (".PDF", ".doc"), (".txt.gz", "")])
def test_a_folder_without_any_image_says_what_it_holds(tmp_path, suffixes):
    for client in ("a", "b"):
        for number, suffix in enumerate(suffixes):
            (tmp_path / "root" / client).mkdir(parents=True, exist_ok=True)
            (tmp_path / "root" / client / f"{number}{suffix}").write_bytes(b"DICM")
    with pytest.raises(
        DataError, match=r"no image that can be read.* convert them to PNG"
    ) as found:
        load_federated(settings(tmp_path / "root"))
    for suffix in suffixes:
        kind = Path(f"x{suffix}").suffix.lower() or "without a suffix"
        assert f"2 files {kind}" in str(found.value)
    assert "\n" not in str(found.value)


def test_rows_are_grouped_by_client_and_hold_its_images(tree):
    data = load_federated(settings(tree))
    assert data.names == ("a", "b", "c")
    np.testing.assert_array_equal(data.offsets, [0, 4, 7, 9])
    np.testing.assert_array_equal(data.sizes, [4, 3, 2])
    assert data.store.image_shape == (16, 16, 1)
    batch = data.store.read(rows_of(data, 1))
    for index, image in enumerate(batch["image"]):
        original = Image.open(tree / "b" / f"{index}.png").resize(
            (16, 11), Image.Resampling.BICUBIC
        )
        np.testing.assert_array_equal(image[:11, :, 0], np.asarray(original))
    np.testing.assert_array_equal(batch["extent"], [[11, 16]] * 3)
    np.testing.assert_array_equal(batch["label"], [-1] * 3)
    assert batch["geometry"].shape == (3, 7)
    assert not data.issues.entries


def test_another_partition_decodes_nothing_and_moves_whole_images(tree):
    before = load_federated(settings(tree))
    forbidden = lambda *_: pytest.fail("decoded again")  # noqa: E731
    after = load_federated(settings(tree, partition="iid", num_clients=4), forbidden)
    assert after.names == ("client_0", "client_1", "client_2", "client_3")
    assert sorted(after.sizes.tolist()) == [2, 2, 2, 3]
    images = [
        {row.tobytes() for row in d.store.read(np.arange(9))["image"]} for d in (before, after)
    ]
    assert images[0] == images[1]


def test_number_of_workers_changes_nothing(tree, tmp_path):
    one = load_federated(settings(tree, num_workers=1, cache_dir=str(tmp_path / "one")))
    many = load_federated(settings(tree, num_workers=5, cache_dir=str(tmp_path / "many")))
    np.testing.assert_array_equal(
        one.store.read(np.arange(9))["image"], many.store.read(np.arange(9))["image"]
    )


def test_labels_groups_and_splits_of_an_index(indexed):
    data = load_federated(settings(indexed, source="index", splits=("train",)))
    assert data.names == ("x", "y")
    np.testing.assert_array_equal(data.sizes, [10, 10])
    assert data.label_names == ("benign", "malignant")
    np.testing.assert_array_equal(data.labels[:10], [0, 0, 1, 1, 0, 0, 1, 1, 0, 0])
    assert (data.labels[10:] == -1).all()
    np.testing.assert_array_equal(data.store.read(np.arange(20))["label"], data.labels)
    assert data.issues.excluded == {"split 'test' is not asked for": 4}
    first, second = data.summary()
    assert (first.client, first.images, first.groups, first.share) == ("x", 10, 5, 0.5)
    assert first.labels == {"benign": 6, "malignant": 4}
    assert (second.labels, second.unlabelled) == ({"benign": 0, "malignant": 0}, 10)


def test_sets_split_into_clients_keep_groups_whole(indexed):
    data = load_federated(
        settings(indexed, source="index", clients_per_set=("x:3", "y:2"), partition_sigma=0.5)
    )
    assert data.names == ("x-0", "x-1", "x-2", "y-0", "y-1")
    for k in range(5):
        others = np.delete(data.groups, rows_of(data, k))
        assert not set(data.groups[rows_of(data, k)]) & set(others)


@pytest.mark.parametrize("kind", ["iid", "lognormal", "dirichlet"])
def test_partitions_of_an_index_keep_groups_whole(indexed, kind):
    chosen = settings(
        indexed, source="index", index=("x/index.csv",), partition=kind, num_clients=3
    )
    data = load_federated(chosen)
    for k in range(3):
        assert not set(data.groups[rows_of(data, k)]) & set(
            np.delete(data.groups, rows_of(data, k))
        )


def test_group_on_both_sides_of_a_split_is_listed(indexed):
    index = indexed / "x/index.csv"
    index.write_text(index.read_text().replace("g5,test", "g0,test"))
    data = load_federated(settings(indexed, source="index", splits=("train",)))
    (leak,) = data.issues.entries
    assert (leak.kind, leak.client) == ("split_group", "x")
    assert "x/g0" in leak.reason


def test_records_are_excluded_by_any_column_and_counted(indexed):
    everything = load_federated(settings(indexed, source="index"))
    of_one_set = load_federated(settings(indexed, source="index", exclude=("x:split=test",)))
    counted = of_one_set.issues.excluded["excluded by x:split=test"]
    assert 0 < counted == everything.num_rows - of_one_set.num_rows
    of_all = load_federated(settings(indexed, source="index", exclude=("split=test",)))
    assert of_all.num_rows < of_one_set.num_rows


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ("split=nowhere", "matches nothing; there is 'test', 'train'"),
        ("split", "is not 'column=value'"),
    ],
)
def test_an_exclusion_that_cannot_be_meant_is_an_error(indexed, rule, message):
    with pytest.raises(DataError, match=message):
        load_federated(settings(indexed, source="index", exclude=(rule,)))


def poison_missing(root: Path) -> None:
    (root / "b/gone.png").symlink_to(root / "b/nowhere.png")


def poison_empty(root: Path) -> None:
    (root / "b/void.png").touch()


def poison_text(root: Path) -> None:
    (root / "b/text.png").write_text("I am no image")


def poison_truncated(root: Path) -> None:
    whole = (root / "b/0.png").read_bytes()
    (root / "b/half.png").write_bytes(whole[: len(whole) // 2])


def poison_outside(root: Path) -> None:
    (root / "b/out.png").symlink_to(picture(root.parent / "elsewhere.png", 5))


POISONS = {
    "missing": (poison_missing, "missing", "gone.png"),
    "empty": (poison_empty, "empty", "void.png"),
    "text": (poison_text, "corrupt", "text.png"),
    "truncated": (poison_truncated, "corrupt", "half.png"),
    "outside": (poison_outside, "outside", "out.png"),
}


@pytest.mark.parametrize("poison", POISONS)
def test_bad_file_stops_the_run_by_name_or_is_skipped_and_listed(tree, poison):
    inject, kind, name = POISONS[poison]
    clean = load_federated(settings(tree))
    inject(tree)
    with pytest.raises(DataError) as error:
        load_federated(settings(tree))
    for word in (name, "client b", "on_bad='skip'"):
        assert word in str(error.value)
    data = load_federated(settings(tree, on_bad="skip"))
    assert data.issues.counts() == {kind: 1}
    (issue,) = data.issues.entries
    assert (issue.client, Path(issue.path).name) == ("b", name)
    assert issue.reason
    everything = np.arange(9)
    np.testing.assert_array_equal(data.offsets, clean.offsets)
    for field, values in clean.store.read(everything).items():
        np.testing.assert_array_equal(data.store.read(everything)[field], values)


def test_unreadable_file_is_named_and_the_others_keep_their_places(tree, monkeypatch):
    """Permissions do not bind a superuser, so the refusal is simulated where files are opened."""
    clean = load_federated(settings(tree))
    honest = fingerprint._hash_file

    def refuse(path: Path) -> bytes:
        if path.name == "0.png" and path.parent.name == "a":
            raise PermissionError(13, "Permission denied")
        return honest(path)

    monkeypatch.setattr(fingerprint, "_hash_file", refuse)
    with pytest.raises(
        DataError, match=r"a/0\.png \(client a\): cannot be read: Permission denied"
    ):
        load_federated(settings(tree))
    data = load_federated(settings(tree, on_bad="skip"))
    np.testing.assert_array_equal(data.sizes, [3, 3, 2])
    np.testing.assert_array_equal(
        data.store.read(np.arange(8))["image"], clean.store.read(np.arange(1, 9))["image"]
    )


def test_error_shows_the_first_few_and_the_count(tree):
    for index in range(9):
        (tree / "c" / f"void{index}.png").touch()
    with pytest.raises(DataError, match=r"9 files of 0 bytes(?s:.*)and 4 more"):
        load_federated(settings(tree))


def test_empty_client_stops_the_run_or_is_dropped_and_named(tree):
    (tree / "nobody").mkdir()
    with pytest.raises(DataError, match="client nobody"):
        load_federated(settings(tree))
    data = load_federated(settings(tree, on_bad="skip"))
    assert data.names == ("a", "b", "c")
    assert [(i.kind, i.client) for i in data.issues.entries] == [("empty_client", "nobody")]


def test_client_whose_every_image_is_bad_is_dropped_and_named(tree):
    for path in (tree / "c").iterdir():
        path.write_bytes(b"")
    data = load_federated(settings(tree, on_bad="skip"))
    assert data.names == ("a", "b")
    assert data.issues.counts() == {"empty": 2, "empty_client": 1}


def test_missing_labels_are_faults_only_where_labels_are_required(indexed):
    chosen = {"source": "index", "require_labels": True}
    with pytest.raises(DataError, match="12 images without a label"):
        load_federated(settings(indexed, **chosen))
    data = load_federated(settings(indexed, on_bad="skip", **chosen))
    assert data.names == ("x",)
    assert data.issues.counts() == {"no_label": 12, "empty_client": 1}


def test_image_without_a_client_is_a_fault(indexed):
    with pytest.raises(DataError, match="12 images without a client"):
        load_federated(settings(indexed, source="index", client_columns=("label",)))
    data = load_federated(
        settings(indexed, source="index", client_columns=("label",), on_bad="skip")
    )
    assert data.names == ("benign", "malignant")


@pytest.fixture
def doubled(tree: Path) -> Path:
    """`tree` with two of a's images in b and c, one in another format, and one of a's twice."""
    Image.open(tree / "a/0.png").save(tree / "b/copy.bmp")
    (tree / "c/copy.png").write_bytes((tree / "a/1.png").read_bytes())
    (tree / "a/again.png").write_bytes((tree / "a/2.png").read_bytes())
    return tree


def test_duplicates_are_listed_with_their_originals(doubled):
    data = load_federated(settings(doubled))
    assert data.issues.counts() == {"duplicate_across": 2, "duplicate_within": 1}
    listed = {(i.client, Path(i.path).name): i.reason for i in data.issues.entries}
    assert str(doubled / "a/0.png") in listed["b", "copy.bmp"]
    assert "client a" in listed["c", "copy.png"]
    assert ("a", "again.png") in listed
    np.testing.assert_array_equal(data.sizes, [5, 4, 3])


def test_duplicates_across_clients_can_be_skipped_or_refused(doubled):
    data = load_federated(settings(doubled, duplicates="skip"))
    np.testing.assert_array_equal(data.sizes, [5, 3, 2])
    assert len(data.issues.entries) == 3
    with pytest.raises(DataError, match=r"2 images that more than one client holds(?s:.*)copy\."):
        load_federated(settings(doubled, duplicates="error"))


def test_frames_beyond_the_first_are_listed(tree):
    frames = [Image.fromarray(np.full((9, 9), v, np.uint8)) for v in (1, 2, 3)]
    frames[0].save(tree / "a/cine.tif", save_all=True, append_images=frames[1:])
    (issue,) = load_federated(settings(tree)).issues.entries
    assert (issue.kind, issue.reason) == ("multi_frame", "frame 1 of 3 is used")


def test_nothing_left_is_an_error(indexed):
    with pytest.raises(DataError, match="'validation' matches nothing; there is 'test', 'train'"):
        load_federated(settings(indexed, source="index", splits=("validation",)))
    for image in indexed.rglob("*.png"):
        image.write_bytes(b"")
    with pytest.raises(DataError, match=r"no usable image is left: \d+ files of 0 bytes") as error:
        load_federated(settings(indexed, source="index", on_bad="skip"))
    assert "\n" not in str(error.value)


def test_lists_of_the_published_layout_load(tree):
    lists = tree / "16_clients/split_1"
    lists.mkdir(parents=True)
    (lists / "client_1.txt").write_text("a/0.png\na/1.png\n")
    (lists / "client_2.txt").write_text(f"{tree / 'b/0.png'}\n")
    data = load_federated(settings(tree, source="lists"))
    assert data.names == ("client_1", "client_2")
    np.testing.assert_array_equal(data.sizes, [2, 1])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"source": "folder"}, "source='folder': choose one of"),
        ({"channels": 2}, "channels=2: choose one of"),
        ({"on_bad": "ignore"}, "on_bad='ignore': choose one of"),
        ({"working_size": 0}, "working_size=0: use a number from 1"),
        ({"root": ""}, "needs `root`"),
        ({"client_columns": ("label",)}, "set source='index'"),
        ({"clients_per_set": ("x:0",)}, "'x:0' is not 'set:count'"),
        ({"clients_per_set": ("x",)}, "'x' is not 'set:count'"),
        ({"clients_per_set": ("x:2",), "partition": "iid"}, "set partition='site'"),
    ],
)
def test_senseless_settings_are_refused_by_name(tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        settings(tmp_path / "root", **changes)


def test_issues_survive_json_and_summarise_by_kind():
    issues = DataIssues(
        tuple(Issue("corrupt", f"c{i % 2}", f"/x/{i}.png", "broken") for i in range(7)),
        {"split 'test' is not asked for": 3},
    )
    loaded = json.loads(json.dumps(issues.to_json()))
    assert loaded["counts"] == {"corrupt": 7}
    assert loaded["issues"]["corrupt"][6]["path"] == "/x/6.png"
    first, last = issues.summary()
    assert first.startswith("7 files that do not decode [corrupt] in c0, c1; first: /x/0.png")
    assert last == "3 images left out: split 'test' is not asked for"
    with pytest.raises(ValueError, match="unknown kind"):
        Issue("odd", "", "", "")


@pytest.mark.parametrize("offsets", [[0, 2], [0, 2, 4], [1, 2, 3], [0, 4, 3]])
def test_offsets_that_do_not_cover_the_rows_are_refused(offsets):
    store = ArrayStore(
        np.zeros((3, 4, 4, 1), np.uint8),
        np.zeros((3, 2), np.int32),
        np.zeros((3, 7), np.float32),
        np.zeros(3, np.int32),
    )
    with pytest.raises(ValueError, match="offsets"):
        FederatedData(("a", "b"), np.array(offsets), store)


def test_real_sets_become_sixteen_clients_by_set_and_group(shared):
    """The partition of all five sets; nothing is decoded."""
    counts = {
        "busi_breast": 4,
        "hc18_fetal_head": 3,
        "gb_biliary_atresia": 4,
        "pocus_lung": 3,
        "rus_abdomen": 2,
    }
    listing = read_listing(settings(shared / "data", source="index"))
    records, excluded, torn = screening.keep_splits(listing.records, ("train", ""))
    assert len(records) == 665 + 3698 + 998 + 762 + 293
    assert sum(excluded.values()) == 841 + 335 + 155
    assert not torn
    groups = [record.group for record in records]
    sites = [record.client for record in records]
    names, owner = partition.split_sites(sites, groups, counts, 0.5, 0)
    assert len(names) == 16
    assert len(set(zip(groups, owner.tolist(), strict=True))) == len(set(groups))
    assert all(names[k].rpartition("-")[0] == site for site, k in zip(sites, owner, strict=True))


def test_real_images_load_without_an_issue(shared, tmp_path):
    chosen = settings(
        shared / "data",
        source="index",
        index=("rus_abdomen/index.csv", "pocus_lung/index.csv"),
        clients_per_set=("pocus_lung:3", "rus_abdomen:2"),
        cache_dir=str(tmp_path),
    )
    data = load_federated(chosen)
    assert data.num_clients == 5
    assert data.num_rows == 448 + 762
    assert data.store.image_shape == (16, 16, 1)
    assert data.label_names == ("bacterial_pneumonia", "covid", "regular", "viral_pneumonia")
    assert data.issues.counts() == {}


def test_simulated_institutions_come_with_their_geometry_and_labels(tmp_path):
    chosen = {"source": "synthetic", "num_sites": 3, "mean_size": 3, "seed": 7, "working_size": 48}
    data = load_federated(settings(tmp_path / "none", **chosen))
    assert data.names == ("site_0", "site_1", "site_2")
    np.testing.assert_array_equal(data.sizes, site_sizes(7, 3, 3, 1.0))
    assert (data.labels >= 0).all()
    row = int(data.offsets[1])
    batch = data.store.read(np.array([row]))
    simulated = phantom(7, 1, 0, 48)
    height, width = simulated.extent
    np.testing.assert_array_equal(
        batch["image"][0, :height, :width, 0], simulated.image.reshape(48, 48)[:height, :width]
    )
    np.testing.assert_allclose(batch["geometry"][0], simulated.geometry, rtol=1e-5)
    assert data.label_names[data.labels[row]] == LABEL_NAMES[simulated.label]
    load_federated(settings(tmp_path / "none", **chosen), lambda *_: pytest.fail("simulated again"))
