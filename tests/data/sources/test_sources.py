"""Each source turns a folder into the records that lie in it, or says what is wrong with it."""

from pathlib import Path

import pytest

from ufm_jax.data.screening import file_faults
from ufm_jax.data.sources.folders import Exclusions, read_folders
from ufm_jax.data.sources.index_csv import read_index
from ufm_jax.data.sources.lists import read_lists
from ufm_jax.errors import DataError


def write(path: Path, content: str | bytes = b"x") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def images(listing) -> list[tuple[str, str]]:
    return [(r.client, str(r.image.relative_to(listing.root))) for r in listing.records]


def test_lists_give_a_client_each_in_natural_order(tmp_path):
    lists = tmp_path / "16_clients/split_1"
    write(lists / "client_10.txt", "c.png\n")
    write(lists / "client_2.txt", "\ufeffa.png\r\n\r\n  sub/b.png  \n")
    write(lists / "client_1.txt", f"{tmp_path}/absolute.png\n")
    write(lists / "client_3.txt", "\n")
    listing = read_lists(tmp_path, "16_clients/split_1")
    assert listing.clients == ("client_1", "client_2", "client_3", "client_10")
    assert images(listing) == [
        ("client_1", "absolute.png"),
        ("client_2", "a.png"),
        ("client_2", "sub/b.png"),
        ("client_10", "c.png"),
    ]


def test_missing_or_binary_lists_are_errors_that_name_them(tmp_path):
    with pytest.raises(DataError, match=r"no list of a client \(\*\.txt\) in .*elsewhere"):
        read_lists(tmp_path, "elsewhere")
    write(tmp_path / "lists/client_1.txt", b"\xff\xfe\xff")
    with pytest.raises(DataError, match=r"client_1\.txt is not UTF-8"):
        read_lists(tmp_path, "lists")


INDEX = "image,mask,label,patient,group,split,probe\n"


def test_index_understands_its_columns_and_names_groups_by_set(tmp_path):
    write(
        tmp_path / "one/index.csv",
        INDEX + "a.png,m/a.png,benign,p1,g0,train,convex\nb.png,,,p2,,,\n",
    )
    write(tmp_path / "two/index.csv", INDEX + "a.png,,x,,g0,test,linear\nc.png,,x,,,,linear\n")
    listing = read_index(tmp_path, (), ())
    first, second, third, fourth = listing.records
    assert listing.clients == ("one", "two")
    assert first.mask == tmp_path / "one/m/a.png"
    assert (first.label, first.group, first.split) == ("benign", "one/g0", "train")
    assert first.attributes["probe"] == "convex"
    assert (second.label, second.mask, second.group, second.split) == (None, None, "one/p2", "")
    assert third.group == "two/g0"
    assert third.image == tmp_path / "two/a.png"
    assert fourth.group is None


def test_index_clients_by_column_by_several_and_none_where_empty(tmp_path):
    write(
        tmp_path / "one/index.csv", INDEX + "a.png,,x,,,,convex\nb.png,,y,,,,\nc.png,,x,,,,linear\n"
    )
    by_probe = read_index(tmp_path, ("one/index.csv",), ("probe",))
    assert by_probe.clients == ("convex", "linear")
    assert [r.client for r in by_probe.records] == ["convex", "", "linear"]
    both = read_index(tmp_path, (), ("set", "label"))
    assert both.clients == ("one/x", "one/y")


@pytest.mark.parametrize(
    ("content", "columns", "message"),
    [
        ("path,label\na.png,x\n", (), r"lacks the columns \['image'\].*\['path', 'label'\]"),
        (INDEX + "a.png,,,,,,\n", ("site",), r"lacks the columns \['site'\]"),
        (INDEX + "a.png,,\n", (), "row 2: it has 3 cells, the header 7"),
        (INDEX + "a.png,,,,,,,,\n", (), "row 2: it has 9 cells, the header 7"),
        (INDEX + ",,x,,,,\n", (), "row 2: it names no image"),
        (b"image\n\xff\xfe\n", (), "not a UTF-8 CSV"),
    ],
)
def test_malformed_index_is_an_error_that_names_it(tmp_path, content, columns, message):
    write(tmp_path / "index.csv", content)
    with pytest.raises(DataError, match=message) as error:
        read_index(tmp_path, (), columns)
    assert "index.csv" in str(error.value)


@pytest.mark.parametrize(
    ("on_disk", "written"),
    [
        ("a.png", "a.png\u00a0 "),
        ("a.png", "a.png\u200b\ufeff"),
        ("a.png ", "a.png "),
        ("caf\u00e9.png", "cafe\u0301.png"),
        ("cafe\u0301.png", "caf\u00e9.png"),
        ("cafe\u0301.png", "cafe\u0301.png"),
    ],
)
def test_a_cell_names_the_file_that_is_there(tmp_path, on_disk, written):
    write(tmp_path / "set/m" / on_disk)
    write(tmp_path / "set/index.csv", f"\ufeffimage,mask\nm/{written},m/{written}\n")
    (record,) = read_index(tmp_path, (), ()).records
    assert record.image == record.mask == tmp_path / "set/m" / on_disk
    write(tmp_path / "lists/client_1.txt", f"set/m/{written}\n")
    if on_disk.strip() == on_disk:
        assert read_lists(tmp_path, "lists").records[0].image == tmp_path / "set/m" / on_disk


def test_cells_of_an_index_are_read_at_the_one_door(tmp_path):
    write(
        tmp_path / "set/index.csv",
        ' image ,label,patient,split,px_mm\na.png, poor ,1.0,N/A,"0,25"\nb.png,NaN,nan,train ,\n',
    )
    first, second = read_index(tmp_path, (), ()).records
    assert (first.label, first.group, first.split) == ("poor", "set/1", "")
    assert (second.label, second.group, second.split) == (None, None, "train")
    assert first.attributes["px_mm"] == "0,25"
    assert first.place.endswith("index.csv, row 2")


@pytest.mark.parametrize("columns", ["set", "split, Set ,set"])
def test_a_column_that_would_hide_the_folder_of_the_index_is_refused(tmp_path, columns):
    """Groups are named by that folder: under 'train' and 'test' a patient would be two."""
    write(tmp_path / "one/index.csv", f"image,patient,{columns}\n")
    with pytest.raises(DataError, match=r"one/index\.csv has a column 'set'"):
        read_index(tmp_path, (), ())


@pytest.mark.parametrize("rows", ["a,7,x\nb,7,\n", "a,7,\nb,7.0,x\n", "a,7,NA\nb, 7,x\n"])
def test_a_patient_of_whose_images_some_have_a_group_is_refused(tmp_path, rows):
    write(tmp_path / "index.csv", f"image,patient,group\n{rows}")
    with pytest.raises(DataError, match=r"row 3: some images of patient '7' have a group"):
        read_index(tmp_path, (), ())
    write(tmp_path / "index.csv", "image,patient,group\na,7,\nb,7,\nc,8,x\nd,,x\ne,,\n")
    groups = [record.group for record in read_index(tmp_path, (), ()).records]
    name = tmp_path.name
    assert groups == [f"{name}/7", f"{name}/7", f"{name}/x", f"{name}/x", None]


def test_a_list_that_is_no_file_is_refused_by_name(tmp_path):
    (tmp_path / "lists/client_1.txt").mkdir(parents=True)
    with pytest.raises(DataError, match=r"client_1\.txt cannot be read: Is a directory"):
        read_lists(tmp_path, "lists")


@pytest.mark.parametrize(
    ("column", "known"), [("Group", "group"), ("PATIENT", "patient"), ("spl it", "split")]
)
def test_columns_that_are_nearly_understood_are_listed(tmp_path, column, known):
    write(tmp_path / "set/index.csv", f"image,{column},age\na.png,x,y\n")
    (issue,) = read_index(tmp_path, (), ()).issues
    assert issue.kind == "near_equal"
    assert f"'{column}'" in issue.reason
    assert f"only '{known}' is understood" in issue.reason


def test_index_that_is_absent_or_outside_is_an_error(tmp_path):
    with pytest.raises(DataError, match=r"no index\.csv"):
        read_index(tmp_path, (), ())
    with pytest.raises(DataError, match=r"x\.csv cannot be read"):
        read_index(tmp_path, ("x.csv",), ())
    with pytest.raises(DataError, match="outside the root"):
        read_index(tmp_path / "root", (str(tmp_path / "index.csv"),), ())


def test_folders_are_read_at_any_depth_and_name_what_they_pass_over(tmp_path):
    for name in ("b/x.PNG", "b/deep/er/y.jpg", "a/z.tif", "a/masks/z.png", "a/.hidden/h.png"):
        write(tmp_path / name)
    write(tmp_path / "a/notes.txt")
    write(tmp_path / "stray.png")
    (tmp_path / "empty").mkdir()
    (tmp_path / "b/link").symlink_to(tmp_path / "a")
    listing = read_folders(tmp_path, Exclusions(("masks",)))
    assert listing.clients == ("a", "b", "empty")
    assert images(listing) == [("a", "a/z.tif"), ("b", "b/x.PNG"), ("b", "b/deep/er/y.jpg")]
    assert listing.excluded == {"folder 'masks'": 1}
    found = {(issue.kind, Path(issue.path).name) for issue in listing.issues}
    assert found == {("no_client", "stray.png"), ("not_image", "notes.txt"), ("not_image", "link")}


def test_root_without_folders_is_an_error(tmp_path):
    with pytest.raises(DataError, match="no folder of a client"):
        read_folders(tmp_path, Exclusions())
    with pytest.raises(DataError, match="is not a folder"):
        read_folders(tmp_path / "absent", Exclusions())


def test_paths_that_leave_the_root_are_found_and_links_inside_are_not(tmp_path):
    root = tmp_path / "root"
    inside, outside = write(root / "a.png"), write(tmp_path / "out/b.png")
    (root / "link_in.png").symlink_to(inside)
    (root / "link_out.png").symlink_to(outside)
    (root / "folder_out").symlink_to(outside.parent)
    (root / "folder").mkdir()
    (root / "loop.png").symlink_to(root / "loop.png")
    write(root / "empty.png", b"")
    lines = {
        "a.png": None,
        "link_in.png": None,
        "folder/../a.png": None,
        "../out/b.png": "outside",
        str(outside): "outside",
        "link_out.png": "outside",
        "folder_out/b.png": "outside",
        "../absent.png": "outside",
        "folder/..": "missing",
        "absent.png": "missing",
        "a.png/b.png": "missing",
        "nul\0.png": "missing",
        "folder": "missing",
        "loop.png": "missing",
        "empty.png": "empty",
    }
    write(root / "lists/c.txt", "\n".join(lines))
    faults = file_faults(read_lists(root, "lists").records, root)
    kinds = {line: faults[i].kind if i in faults else None for i, line in enumerate(lines)}
    assert kinds == lines
    assert str(outside) in next(f.reason for f in faults.values() if "link_out" in f.path)


def test_real_sets_are_listed_whole_with_groups_in_one_split(shared):
    listing = read_index(shared / "data", (), ())
    sizes = {c: sum(r.client == c for r in listing.records) for c in listing.clients}
    assert sizes == {
        "busi_breast": 665,
        "gb_biliary_atresia": 4539,
        "hc18_fetal_head": 1333,
        "pocus_lung": 762,
        "rus_abdomen": 448,
    }
    assert not file_faults(listing.records, shared / "data")
    splits: dict[str | None, set[str]] = {}
    for record in listing.records:
        splits.setdefault(record.group, set()).add(record.split)
    assert all(len(found) == 1 for found in splits.values())
