"""Tables are read whole or refused by file and row; what is written runs as no formula."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ufm_jax.data.csv_files import read_csv, writing_csv
from ufm_jax.errors import DataError

HOSTILE = ("=1+1", "+1-2", "-2+cmd|' /C calc'!A0", "@SUM(A1)", "\t=1", "\r=1", "\uff1d1", "''=x")
PLAIN = ("a", "'a", "a=b", "-5", "+1.5", "-1e-3", "", 'quo"te', "new\nline", "caf\udce9")


def written(tmp_path, texts):
    with writing_csv(tmp_path / "t.csv", ("name", "=column")) as add:
        for text in texts:
            add((text, 1.5))
    return tmp_path / "t.csv"


def test_a_formula_is_written_as_a_text_and_read_back_as_it_was(tmp_path):
    path = written(tmp_path, HOSTILE)
    columns, rows = read_csv(path, ("name",))
    assert columns == ["name", "=column"]
    assert [row.cells["name"] for row in rows] == list(HOSTILE)
    with path.open(newline="", encoding="utf-8") as file:
        lines = file.read()
    for text in HOSTILE:
        assert f"'{text}" in lines
    assert "'=column" in lines


def test_other_texts_and_numbers_are_written_as_they_are(tmp_path):
    path = written(tmp_path, PLAIN)
    lines = path.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    assert {"'a,1.5", "-5,1.5", "+1.5,1.5", "caf\udce9,1.5"} <= set(lines)


@settings(max_examples=300)
@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0"))))
def test_every_text_is_read_back(tmp_path_factory, texts):
    path = written(tmp_path_factory.mktemp("csv"), texts)
    _, rows = read_csv(path, (), errors="surrogateescape")
    assert [row.cells["name"] for row in rows] == texts


def test_what_holds_nothing_is_passed_over_and_rows_are_counted_as_a_spreadsheet_does(tmp_path):
    path = tmp_path / "t.csv"
    path.write_bytes("\ufeff,image , b,\r\n0,x,1,\r\n\r\n,nan,,\r\n1,y,2,\r\n".encode())
    columns, rows = read_csv(path, ("image",))
    assert columns == ["image", "b"]
    assert [row.cells for row in rows] == [{"image": "x", "b": "1"}, {"image": "y", "b": "2"}]
    assert [row.place for row in rows] == [f"{path}, row 2", f"{path}, row 5"]


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_cells_are_separated_as_the_header_says(tmp_path, separator):
    path = tmp_path / "t.csv"
    other = next(mark for mark in ",;" if mark != separator)
    path.write_text(f"image{separator}px_mm\na.png{separator}0{other}25\n")
    _, rows = read_csv(path, ("image",))
    assert [row.cells for row in rows] == [{"image": "a.png", "px_mm": f"0{other}25"}]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"lacks the columns \['image'\]"),
        (b"picture;label\na.png;x\n", r"lacks .* in row 1 it has \['picture', 'label'\]"),
        (b"image,label, label\n", r"two columns of one name, \['label'\]"),
        (b"image,1,1.0\n", r"two columns of one name, \['1'\]"),
        (b"image,label\na,b\nc\n", "row 3: it has 1 cells, the header 2"),
        (b"image,label\na,b,\n", "row 2: it has 3 cells, the header 2"),
        (b'image\n"a', "not a UTF-8 CSV file .*save it as one"),
        (b"image\n\xff\xfe\n", "not a UTF-8 CSV file"),
        ("image\na\n".encode("utf-16"), "not a UTF-8 CSV file"),
        (b"image\na\0\n", "holds zero bytes"),
        (b"image\n" + b"x" * 200_000, "not a UTF-8 CSV file"),
    ],
)
def test_a_table_that_cannot_be_used_is_refused_by_file_and_row(tmp_path, content, message):
    path = tmp_path / "t.csv"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message) as error:
        read_csv(path, ("image",))
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_what_is_no_file_is_refused_by_name(tmp_path):
    for path in (tmp_path / "absent.csv", tmp_path, tmp_path / "nul\0.csv"):
        with pytest.raises(DataError, match=r"cannot be read|is not a UTF-8 CSV"):
            read_csv(path, ())


def test_nothing_is_left_where_writing_fails(tmp_path):
    with pytest.raises(TypeError), writing_csv(tmp_path / "t.csv", ("a",)) as add:
        add(7)
    assert not list(tmp_path.iterdir())
