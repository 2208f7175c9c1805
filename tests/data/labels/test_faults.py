"""Bad labels, masks and splits: an error that names file and remedy, or a listed skip."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.data.labels.label_settings import label_settings
from ufm_jax.data.issues import DataIssues, Issue
from ufm_jax.data.labels.load import load_labelled
from ufm_jax.data.labels.settings import SplitSettings
from ufm_jax.data.settings import DataSettings
from ufm_jax.errors import DataError, UserError

COLUMNS = ("image", "mask", "label", "group", "split", "site")
NUM = 24


def data_settings(root: Path, **changes) -> DataSettings:
    plain = {
        "source": "index",
        "root": str(root),
        "working_size": 16,
        "detect_geometry": False,
        "cache_dir": str(root.parent / "cache"),
        "num_workers": 2,
    }
    return DataSettings(**(plain | changes))


class Folder:
    """24 images in 12 groups, 8 of them for testing, with masks and two labels."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "m").mkdir(parents=True)
        self.rows = []
        for i in range(NUM):
            pixels = np.random.default_rng(i).integers(0, 256, (20, 30), np.uint8)
            Image.fromarray(pixels).save(root / f"{i}.png")
            self.mask(i, np.pad(np.full((6, 7 + i % 3), 255, np.uint8), 5))
            label, split = ("cyst", "solid")[i // 2 % 2], ("train", "test")[i >= 16]
            self.rows.append([f"{i}.png", f"m/{i}.png", label, f"g{i // 2}", split, f"h{i // 12}"])
        self.write()

    def mask(self, index: int, pixels: np.ndarray) -> None:
        canvas = np.zeros((20, 30), np.uint8)
        canvas[: pixels.shape[0], : pixels.shape[1]] = pixels
        Image.fromarray(canvas).save(self.root / f"m/{index}.png")

    def edit(self, indices, **values: str) -> None:
        for index in indices:
            for name, value in values.items():
                self.rows[index][COLUMNS.index(name)] = value
        self.write()

    def write(self) -> None:
        with (self.root / "index.csv").open("w", newline="") as file:
            csv.writer(file).writerows([COLUMNS, *self.rows])

    def load(self, split: SplitSettings | None = None, data: dict | None = None, **changes):
        images = data_settings(self.root, **(data or {}))
        return load_labelled(label_settings(images, split or SplitSettings(), **changes))


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path / "set")


def test_absent_columns_are_named_with_those_there_are(folder):
    for changes in (
        {"label_columns": ("diagnosis",)},
        {"kind": "segment", "mask_column": "truth"},
        {"group_column": "person"},
        {"split": SplitSettings(column="part")},
        {"split": SplitSettings("fold")},
    ):
        with pytest.raises(DataError, match=r"no image of .* has a value under .*: group") as error:
            folder.load(**changes)
        assert "split" in str(error.value)
        assert "label" in str(error.value)


def test_other_columns_serve_as_label_and_group(folder):
    data = folder.load(
        SplitSettings("fractions", required=("train",)),
        label_columns=("site",),
        group_column="label",
        mask_column="split",
    )
    assert data.task.classes == ("h0", "h1")
    assert data.group_names == ("cyst", "solid")


@pytest.mark.parametrize("on_bad", ["error", "skip"])
@pytest.mark.parametrize(
    ("spoil", "kind", "message"),
    [
        (lambda f: (f.root / "3.png").write_text("text"), "corrupt", r"3\.png .*does not decode"),
        (lambda f: (f.root / "m/3.png").write_text("text"), "corrupt", r"m/3\.png .*not decode"),
        (lambda f: (f.root / "m/3.png").unlink(), "missing", r"m/3\.png .*No such file"),
        (lambda f: (f.root / "m/3.png").write_bytes(b""), "empty", r"m/3\.png .*0 bytes"),
        (lambda f: f.edit([3], mask="../../3.png"), "outside", r"3\.png .*outside the root"),
        (
            lambda f: Image.fromarray(np.zeros((10, 30), np.uint8)).save(f.root / "m/3.png"),
            "mask_size",
            r"m/3\.png .*is 30 x 10 pixels, its image 30 x 20",
        ),
        (
            lambda f: f.mask(3, np.full((5, 5), 7, np.uint8)),
            "unknown_class",
            r"m/3\.png .*holds the values 0, 7.*mask_classes",
        ),
    ],
    ids=["text image", "text mask", "missing", "empty", "outside", "size", "value"],
)
def test_image_whose_mask_or_pixels_are_bad_stops_or_is_listed(
    folder, spoil, kind, message, on_bad
):
    if kind == "outside":
        Image.fromarray(np.zeros((20, 30), np.uint8)).save(folder.root.parents[1] / "3.png")
    spoil(folder)
    if on_bad == "error":
        with pytest.raises(DataError, match=message) as error:
            folder.load(kind="segment")
        assert "on_bad='skip'" in str(error.value)
        return
    whole = Folder(folder.root.parent / "whole").load(kind="segment")
    data = folder.load(kind="segment", data={"on_bad": "skip"})
    assert data.num_rows == NUM - 1
    for name in ("image", "mask"):
        others = np.array([whole.names.index(other) for other in data.names])
        left = data.store.read(np.arange(NUM - 1))[name]
        np.testing.assert_array_equal(left, whole.store.read(others)[name])
    assert "3.png" not in data.names
    assert data.issues.counts() == {kind: 1}
    assert json.loads(json.dumps(data.issues.to_json()))["counts"] == {kind: 1}


@pytest.mark.parametrize(
    ("kind", "column", "issue"), [("segment", "mask", "no_mask"), ("single", "label", "no_label")]
)
def test_unlabelled_images_stop_or_are_listed(folder, kind, column, issue):
    folder.edit([2, 3], **{column: ""})
    with pytest.raises(DataError, match=rf"2 images without a {column}.*\n.*2\.png") as error:
        folder.load(kind=kind)
    assert "unlabelled='skip'" in str(error.value)
    data = folder.load(kind=kind, unlabelled="skip")
    assert data.num_rows == NUM - 2
    assert data.issues.counts() == {issue: 2}


def test_label_that_is_no_class_is_named(folder):
    folder.edit([4], label="cist")
    with pytest.raises(DataError, match=r"4\.png .*'cist' is not one of the classes cyst, solid"):
        folder.load(classes=("cyst", "solid"))
    folder.edit(range(NUM), label="yes", site="0")
    folder.edit([4], label="maybe")
    with pytest.raises(DataError, match=r"4\.png .*label='maybe' is neither yes nor no"):
        folder.load(kind="multi", label_columns=("label", "site"))


def test_one_class_only_is_an_error(folder):
    folder.edit(range(NUM), label="cyst")
    with pytest.raises(DataError, match=r"of train images are of one class only, \['cyst'\]"):
        folder.load()
    for i in range(NUM):
        folder.mask(i, np.zeros((2, 2), np.uint8))
    with pytest.raises(DataError, match="no mask of train images shows any of foreground"):
        folder.load(kind="segment")


def test_class_absent_from_a_split_is_listed(folder):
    folder.edit(range(16, NUM), label="cyst")
    found = folder.load().issues
    assert found.counts() == {"absent_class": 1}
    assert "no image shows 'solid'" in found.summary()[0]
    assert "split test" in found.summary()[0]


def test_empty_split_is_an_error_unless_it_is_not_required(folder):
    folder.edit(range(NUM), split="test")
    with pytest.raises(DataError, match=r"split 'train' is empty .*'test': 24.*split\.required"):
        folder.load()
    data = folder.load(SplitSettings(required=("test",)))
    assert len(data.rows("test")) == NUM
    with pytest.raises(DataError, match="choose one of"):
        data.rows("dev")
    with pytest.raises(DataError, match="no row is left"):
        data.take(data.rows("train"))


def test_group_in_two_splits_is_an_error_or_moves(folder):
    folder.edit([16], group="g1")
    with pytest.raises(DataError, match=r"group 'g1' is in two splits: 2\.png .*and 16\.png"):
        folder.load()
    data = folder.load(SplitSettings(torn_groups="move"))
    assert data.issues.counts() == {"split_group": 1}
    assert data.splits[data.names.index("16.png")] in ("train", "val")


def test_copies_leave_the_test_unless_they_shall_leave_training_or_stop(folder):
    folder.edit(range(12, 16), split="val")
    (folder.root / "0.png").write_bytes((folder.root / "20.png").read_bytes())
    with pytest.raises(DataError, match=r"20\.png .*test: same pixels as .*0\.png in train"):
        folder.load(data={"duplicates": "error"})
    for duplicates, left_out, stays, split in (
        ("keep", "20.png", "0.png", "test"),
        ("skip", "0.png", "20.png", "train"),
    ):
        data = folder.load(data={"duplicates": duplicates})
        assert left_out not in data.names
        assert stays in data.names
        ((_, path, reason),) = data.issues.by_kind()["duplicate_split"]
        assert path.endswith(left_out)
        assert reason.startswith(f"left out of {split}: same pixels")


def test_copies_leave_the_validation_too_where_they_are_trained_on(folder):
    folder.edit(range(12, 16), split="val")
    for copy in ("13.png", "21.png"):
        (folder.root / copy).write_bytes((folder.root / "1.png").read_bytes())
    (folder.root / "22.png").write_bytes((folder.root / "14.png").read_bytes())
    data = folder.load()
    assert not {"13.png", "21.png", "22.png"} & set(data.names)
    assert {"1.png", "14.png"} <= set(data.names)
    reasons = [reason.partition(":")[0] for *_, reason in data.issues.by_kind()["duplicate_split"]]
    assert reasons == ["left out of val", "left out of test", "left out of test"]


def test_copies_stay_where_nothing_is_trained(folder):
    (folder.root / "0.png").write_bytes((folder.root / "20.png").read_bytes())
    data = folder.load(SplitSettings("fractions", required=("test",)))
    assert data.num_rows == NUM


def test_copy_in_another_split_at_another_client_stays_where_it_is_tested_on(folder):
    """The first copy trains at one client, the second is tested on at another."""
    (folder.root / "20.png").write_bytes((folder.root / "0.png").read_bytes())

    def load(duplicates: str):
        split = SplitSettings(val_fraction=0, required=("train", "test"))
        return folder.load(split, {"duplicates": duplicates, "client_columns": ("site",)})

    data = load("skip")
    assert data.splits[data.names.index("20.png")] == "test"
    assert "0.png" not in data.names
    assert data.num_rows == NUM - 1
    assert data.issues.counts() == {"duplicate_split": 1}
    (folder.root / "12.png").write_bytes((folder.root / "2.png").read_bytes())
    data = load("skip")
    assert "2.png" in data.names
    assert "12.png" not in data.names
    assert data.issues.counts() == {"duplicate_across": 1, "duplicate_split": 1}
    data = load("keep")
    assert set(data.names) >= {"0.png", "2.png", "12.png"}
    assert data.num_rows == NUM - 1
    assert data.issues.counts() == {"duplicate_across": 1, "duplicate_split": 1}


@pytest.mark.parametrize(
    ("one", "other"), [("g0", "g0 "), ("7", "7.0"), ("caf\u00e9", "cafe\u0301"), ("\ufeffg0", "g0")]
)
def test_one_patient_written_in_two_ways_is_one_group_in_one_split(folder, one, other):
    folder.edit(range(0, 8), group=one)
    folder.edit(range(8, 16), group=other)
    data = folder.load(SplitSettings("fractions", required=("train",)))
    of_patient = [data.groups[data.names.index(f"{index}.png")] for index in range(16)]
    assert len(set(of_patient)) == 1
    assert "near_equal" not in data.issues.counts()


@pytest.mark.parametrize(
    ("column", "values"),
    [("group", ("g1", "G1")), ("group", ("1", "01")), ("label", ("cyst", "Cyst")), ("site", "aA")],
)
def test_names_that_only_a_person_can_tell_apart_are_listed(folder, column, values):
    folder.edit([0, 1], **{column: values[0]})
    folder.edit([4, 5], **{column: values[1]})
    found = folder.load(data={"client_columns": ("site",)}).issues.by_kind()["near_equal"]
    what = "client" if column == "site" else column
    first, second = sorted(values)
    assert found[0][2] == f"{what} '{first}' and '{second}': if they are one, write them alike"
    assert "index.csv, row " in found[0][1]


@pytest.mark.parametrize("text", ["nan", "N/A", "NA", "null", "None", " "])
def test_a_missing_label_is_no_class(folder, text):
    folder.edit([2, 3], label=text)
    assert folder.load(unlabelled="skip").issues.counts() == {"no_label": 2}


@pytest.mark.parametrize("text", ["nan", "NA", "-1.0", ""])
def test_a_missing_finding_is_unknown(folder, text):
    folder.edit(range(NUM), label="1.0")
    folder.edit(range(0, NUM, 3), label="0.0")
    folder.edit(range(NUM), site="yes")
    folder.edit([5], label=text)
    data = folder.load(kind="multi", label_columns=("label", "site"))
    findings = data.targets[[data.names.index("0.png"), data.names.index("5.png")]]
    np.testing.assert_array_equal(findings, [[0, 1], [np.nan, 1]])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"leave_out": ("poor",)}, "leave_out: 'poor' matches nothing; there is 'cyst', 'solid'"),
        ({"leave_out": ("Cyst",)}, "leave_out: 'Cyst' matches nothing"),
        ({"classes": ("cyst", "solid", "other")}, "classes: 'other' matches nothing"),
        ({"classes": ("all=cyst|solid|other",)}, "classes: 'other' matches nothing"),
        ({"notes_column": "remarks"}, "notes_column: no image"),
        ({"spacing_size_columns": ("w", "h")}, "spacing_size_columns: no image"),
        ({"split": SplitSettings(val_values=("dev",))}, "split.val_values: 'dev' matches nothing"),
        ({"split": SplitSettings(test_values=("test", "b"))}, "split.test_values: 'b' matches"),
        ({"data": {"splits": ("tset",)}}, "splits: 'tset' matches nothing; there is 'test'"),
        (
            {"data": {"exclude": ("site=h7",)}},
            "exclude .*: 'h7' matches nothing; there is 'h0', 'h1'",
        ),
        ({"data": {"exclude": ("ward=1",)}}, "exclude .*: '1' matches nothing; there is none"),
        ({"data": {"clients_per_set": ("sett:2",)}}, "cannot split .*sites are"),
    ],
)
def test_a_setting_that_matches_nothing_lists_what_there_is(folder, changes, message):
    with pytest.raises(DataError, match=message):
        folder.load(**changes)


def test_a_pattern_that_finds_no_group_is_refused(folder):
    folder.edit(range(NUM), group="NA")
    with pytest.raises(DataError, match=r"group_pattern=.* finds no group in any of 24 paths"):
        folder.load(group_pattern="(patient_[0-9]+)")


def test_settings_mean_values_as_cells_are_read(folder):
    folder.edit(range(0, 4), label="cyst ", site="1.0")
    data = folder.load(data={"exclude": ("site=1",)}, classes=(" cyst", "solid"))
    assert data.num_rows == NUM - 4
    assert data.task.classes == ("cyst", "solid")
    with pytest.raises(DataError, match="left: 14 images left out: label 'cyst' is left out; 10 "):
        folder.load(leave_out=("cyst ", "solid"))


@pytest.mark.parametrize("on_bad", ["error", "skip"])
def test_where_nothing_is_left_one_line_says_why(folder, on_bad):
    for index in range(NUM):
        (folder.root / f"{index}.png").write_text("text")
    with pytest.raises(DataError) as error:
        folder.load(data={"on_bad": on_bad})
    assert ("no usable image is left: 24 files that do not decode" in str(error.value)) == (
        on_bad == "skip"
    )
    if on_bad == "skip":
        folder.edit(range(NUM), image="absent.png", group="")
        with pytest.raises(DataError, match="no usable image is left: 24 files that cannot be op"):
            folder.load(data={"on_bad": on_bad})


@pytest.mark.parametrize("duplicates", ["error", "skip", "keep"])
@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("split", "train", "split 'test' and 'train'"),
        ("label", "other", "label 'cyst' and 'other'"),
        ("site", "elsewhere", "client 'h1' and 'elsewhere'"),
    ],
)
def test_rows_of_one_file_that_disagree_are_refused(folder, duplicates, column, value, message):
    folder.edit([20], group="")
    folder.rows.append(list(folder.rows[20]))
    folder.edit([NUM], **{column: value, "image": "m/../20.png"})
    with pytest.raises(DataError, match=rf"20\.png is listed twice, with {message}"):
        folder.load(data={"duplicates": duplicates, "client_columns": ("site",)})


@pytest.mark.parametrize("group", ["", "g10"])
def test_rows_of_one_file_that_agree_are_refused_or_count_once(folder, group):
    folder.edit([20], group=group)
    plain = folder.load()
    folder.rows.insert(3, list(folder.rows[20]))
    folder.write()
    for duplicates in ("error", "keep"):
        with pytest.raises(DataError, match=r"20\.png .*is listed twice.*\n.*duplicates='skip'"):
            folder.load(data={"duplicates": duplicates})
    data = folder.load(data={"duplicates": "skip"})
    assert sorted(data.names) == sorted(plain.names)
    assert len(data.rows("test")) == len(plain.rows("test"))
    assert data.issues.by_kind()["duplicate_within"][0][1].endswith("20.png")


def test_grey_masks_are_thresholded_and_listed(folder):
    grey = np.full((6, 6), 255, np.uint8)
    grey[0], grey[-1] = 100, 200
    folder.mask(5, grey)
    data = folder.load(kind="segment")
    assert data.issues.by_kind()["grey_mask"][0][1].endswith("m/5.png")
    assert data.mask_at_native(data.names.index("5.png")).sum() == 30


def test_images_of_no_group_are_counted(folder):
    folder.edit([0, 1, 2], group="")
    found = folder.load(data={"client_columns": ("site",)}).issues
    assert found.by_kind()["no_group"][0][0] == "h0"
    assert "3 of 12 images have no group" in found.by_kind()["no_group"][0][2]


def test_client_without_training_images_is_listed_and_leaves_with_its_split(folder):
    folder.edit(range(16, NUM), site="external")
    data = folder.load(data={"client_columns": ("site",)})
    assert data.clients == ("h0", "h1", "external")
    assert data.issues.by_kind()["no_train"][0][0] == "external"
    assert data.take(data.rows("train")).clients == ("h0", "h1")
    assert data.rows("test", client=2).tolist() == list(range(16, NUM))


def test_mask_that_changed_since_it_was_checked_is_named(folder):
    data = folder.load(kind="segment")
    row = data.names.index("7.png")
    (folder.root / "m/7.png").unlink()
    with pytest.raises(DataError, match=r"m/7\.png of 7\.png: missing"):
        data.mask_at_native(row)
    with pytest.raises(DataError, match="'single' has no masks"):
        folder.load().mask_at_native(0)


@pytest.mark.parametrize(
    ("data", "changes", "message"),
    [
        ({}, {"kind": "detect"}, "kind='detect': choose one of"),
        ({}, {"label_columns": ("a", "b")}, "are for kind='multi'"),
        ({}, {"kind": "multi"}, "needs several label_columns"),
        ({}, {"label_columns": ()}, "label_columns is empty"),
        ({}, {"classes": ("a", "b=a")}, "'b=a' is empty, or names something a second time"),
        ({}, {"mask_classes": ("1:a", "b")}, "mask_classes: 'b'"),
        ({}, {"group_pattern": "("}, "group_pattern='\\(': it is not a regular"),
        ({}, {"group_pattern": "p[0-9]"}, "has no parentheses"),
        ({}, {"unlabelled": "keep"}, "unlabelled='keep': choose one of"),
        ({"source": "lists"}, {}, "'lists' knows no labels"),
        ({"source": "tfds"}, {"kind": "segment"}, "'tfds' does not bring masks"),
    ],
)
def test_senseless_settings_are_refused_by_name(tmp_path, data, changes, message):
    with pytest.raises(UserError, match=message):
        label_settings(data_settings(tmp_path, **data), **changes)


def test_issues_of_labels_have_known_kinds():
    with pytest.raises(ValueError, match="unknown kind"):
        Issue("odd", "a", "b", "c")
    found = DataIssues((Issue("no_mask", "a", "b", "c"), Issue("corrupt", "a", "b", "c")))
    assert list(found.counts()) == ["corrupt", "no_mask"]
