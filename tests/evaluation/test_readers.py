"""Readers: their calls, their points and tests, and a CSV that is wrong is named by line."""

import json

import numpy as np
import pytest
from scipy import stats

from ufm_jax.errors import DataError
from ufm_jax.evaluation.readers import compare_readers, read_calls, wilson

NAMES = ("a.png", "b.png", "c.png", "d.png")
CLASSES = ("benign", "malignant")


def written(path, text, encoding="utf-8"):
    path = path / "calls.csv"
    path.write_bytes(text.encode(encoding))
    return path


def test_calls_by_number_and_by_name_in_any_order_of_lines_and_columns(tmp_path):
    text = (
        "call,image,years,reader\r\n1,b.png,4,Li\r\nbenign,a.png,4,Li\r\n"
        "0,d.png,10,Abe\r\nmalignant, c.png ,10,Abe\r\n"
    )
    read = read_calls(written(tmp_path, text, "utf-8-sig"), NAMES, CLASSES)
    assert read.readers == ("Abe", "Li")
    np.testing.assert_array_equal(read.calls, [[-1, -1, 1, 0], [0, 1, -1, -1]])
    other = read_calls(written(tmp_path, text), NAMES, CLASSES, positive="benign")
    np.testing.assert_array_equal(other.calls, [[-1, -1, 1, 1], [0, 0, -1, -1]])


def test_calls_of_many_classes_are_names(tmp_path):
    text = "image,reader,call\na.png,Li,covid\nb.png,Li,regular\n"
    read = read_calls(written(tmp_path, text), NAMES, ("regular", "bacterial", "covid"))
    np.testing.assert_array_equal(read.calls, [[2, 0, -1, -1]])
    with pytest.raises(DataError, match="not one of regular, bacterial, covid"):
        read_calls(
            written(tmp_path, text.replace("covid", "1")), NAMES, ("regular", "bacterial", "covid")
        )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("image|reader|call\na.png|Li|1\n", r"lacks the columns \['image', 'reader', 'call'\]"),
        ("image,reader,decision\na.png,Li,1\n", r"lacks the columns \['call'\]"),
        ("", "lacks the columns"),
        ("image,reader,call\n", "no calls"),
        ("image,reader,call\na.png,Li,1\nx.png,Li,1\n", "row 3: image 'x.png'"),
        ("image,reader,call\na.png,Li,maybe\n", "row 2: call 'maybe'"),
        ("image,reader,call\na.png,Li,N/A\n", "row 2: call 'N/A'"),
        ("image,reader,call\na.png,N/A,1\n", "row 2: the reader is empty"),
        ("image,reader,call\na.png,Li,1\nb.png,li,1\n", r"readers \('Li', 'li'\) may be one"),
        ("image,reader,call\na.png,,1\n", "row 2: the reader is empty"),
        ("image,reader,call\na.png,Li,1\na.png,Li,0\n", "row 3: reader 'Li' has called"),
        ("image,reader,call\n" + "x,Li,1\n" * 9, "9 rows.*\n(.*\n){5}.*4 more"),
        ('image,reader,call\n"' + 200_000 * "x", "is not a UTF-8 CSV file"),
        ("image,reader,call\na.png,Li\0,1\n", "is not a UTF-8 CSV file"),
    ],
)
def test_a_wrong_csv_is_an_error_that_names_the_line(tmp_path, text, message):
    with pytest.raises(DataError, match=message):
        read_calls(written(tmp_path, text), NAMES, CLASSES)


def test_files_that_are_no_text(tmp_path):
    with pytest.raises(DataError, match="cannot be read"):
        read_calls(tmp_path / "none.csv", NAMES, CLASSES)
    path = tmp_path / "calls.csv"
    path.write_bytes(b"\x89PNG\xff\xfe")
    with pytest.raises(DataError, match="is not a UTF-8 CSV file"):
        read_calls(path, NAMES, CLASSES)
    with pytest.raises(DataError, match="'normal': name one of"):
        read_calls(path, NAMES, CLASSES, positive="normal")


def test_readers_against_the_model_by_hand(tmp_path):
    names = [f"{i}.png" for i in range(10)]
    labels = np.array([1] * 6 + [0] * 4)
    model = np.array([1, 1, 1, 1, 1, 0, 1, 0, 0, 0], bool)
    # The reader skips image 9, finds 3 of 6 and clears 2 of 3.
    calls = [1, 1, 1, 0, 0, 0, 0, 0, 1]
    lines = "".join(f"{name},Li,{call}\n" for name, call in zip(names, calls, strict=False))
    read = read_calls(written(tmp_path, "image,reader,call\n" + lines), names, CLASSES)
    (result,) = compare_readers(read, labels, model, positive=1)
    assert (result.reader, result.num_rows) == ("Li", 9)
    assert (result.sensitivity.value, result.sensitivity.n) == (0.5, 6)
    assert (result.specificity.value, result.specificity.n) == (2 / 3, 3)
    assert result.roc_point == (1 - 2 / 3, 0.5)
    assert result.model_sensitivity.value == 5 / 6
    assert result.model_specificity.value == 2 / 3
    tests = result.against_model
    assert (tests["sensitivity"].first_only, tests["sensitivity"].second_only) == (0, 2)
    assert (tests["specificity"].first_only, tests["specificity"].second_only) == (1, 1)
    assert tests["sensitivity"].p_exact == stats.binomtest(0, 2).pvalue
    loaded = json.loads(json.dumps(result.to_json(), allow_nan=False))
    assert loaded["roc_point"][1] == 0.5


def test_a_reader_of_one_class_only_has_an_undefined_specificity(tmp_path):
    read = read_calls(written(tmp_path, "image,reader,call\na.png,Li,1\n"), NAMES, CLASSES)
    (result,) = compare_readers(read, np.ones(4, int), np.ones(4, bool), positive=1)
    assert result.specificity.n == 0
    assert result.to_json()["specificity"]["value"] is None
    with pytest.raises(ValueError, match="4 rows"):
        compare_readers(read, np.ones(3, int), np.ones(3, bool), positive=1)


def test_wilson_by_its_formula():
    # (p + z^2/2n +- z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n) of 9 in 10.
    z, n, p = 1.959963984540054, 10, 0.9
    middle, reach = p + z**2 / (2 * n), z * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    found = wilson(9, 10)
    scale = 1 + z**2 / n
    expected = ((middle - reach) / scale, (middle + reach) / scale)
    assert (found.low, found.high) == pytest.approx(expected)
