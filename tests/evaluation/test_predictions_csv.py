"""Tables of predictions are read back as they were; what is no such table is refused by name."""

import dataclasses

import numpy as np
import pytest

from ufm_jax.errors import DataError
from ufm_jax.evaluation.predictions_csv import read_table, table_path, write_table
from ufm_jax.evaluation.segmentation import MaskScores


def assert_same(left, right):
    for field in dataclasses.fields(left):
        one, other = getattr(left, field.name), getattr(right, field.name)
        if isinstance(one, MaskScores):
            assert_same(one, other)
        else:
            np.testing.assert_array_equal(one, other, err_msg=field.name)


@pytest.mark.parametrize("kind", ["single", "multi"])
@pytest.mark.parametrize("classes", [("a", "b, c"), ('"x"', "label", "dice_y")])
def test_a_diagnosis_is_read_back_to_the_last_bit(tmp_path, diagnosis, kind, classes):
    written = diagnosis(classes, kind=kind)
    write_table(tmp_path / "p.csv", written)
    assert_same(read_table(tmp_path / "p.csv"), written)


@pytest.mark.parametrize("unit", ["", "mm", "degrees"])
def test_a_segmentation_is_read_back_to_the_last_bit(tmp_path, segmentation, unit):
    written = segmentation(unit=unit)
    write_table(tmp_path / "p.csv", written)
    assert_same(read_table(tmp_path / "p.csv"), written)


def test_the_columns_of_each_kind(tmp_path, diagnosis, segmentation):
    path = table_path(tmp_path, "test")
    write_table(path, diagnosis(("a", "b")))
    assert path.name == "predictions_test.csv"
    assert path.read_text().splitlines()[0] == "image,client,group,label,called,prob_a,prob_b"
    write_table(path, diagnosis(("a", "b"), kind="multi"))
    header = path.read_text().splitlines()[0]
    assert header == "image,client,group,label_a,label_b,called,prob_a,prob_b"
    write_table(path, segmentation(("a",), unit="mm"))
    assert path.read_text().splitlines()[0] == (
        "image,client,group,dice_a,iou_a,hd95_px_a,assd_px_a,hd95_mm_a,assd_mm_a,pixels_a,"
        "reference_pixels_a,measured_mm,reference_mm"
    )


def test_a_diagnosis_without_calls_is_not_written(tmp_path, diagnosis):
    with pytest.raises(ValueError, match=r"calls\.with_calls"):
        write_table(tmp_path / "p.csv", diagnosis(called=False))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"lacks the columns \['image'\]"),
        ("image,mask\nx,y\n", r"neither columns of probabilities nor of Dice"),
        ("image,client,group,label,called,prob_a,prob_b\n", r"no row below its header"),
        (
            "image,client,group,label,called,prob_a,prob_b\nx,s,0,a,a,1\n",
            r"row 2: it has 6 cells, the header 7",
        ),
        ("image,client,label,called,prob_a,prob_b\nx,s,a,a,1,0\n", r"lacks the column 'group'"),
        (
            "image,client,group,label,called,prob_a,prob_b\nx,s,0,c,a,1,0\n",
            r"label of x is 'c', which is not one of a, b",
        ),
        (
            "image,client,group,label,called,prob_a,prob_b\nx,s,0,a,a,1,\n",
            r"prob_b of x is '', which is not a probability",
        ),
        (
            "image,client,group,label,called,prob_a,prob_b\nx,s,u,a,a,1,0\n",
            r"row 2: group of x is 'u', which is not a number",
        ),
        (
            "image,client,group,label_a,called,prob_a\nx,s,0,2,a,1\n",
            r"label_a of x is '2', which is neither",
        ),
        (
            "image,client,group,label,called,prob_a,prob_b\nx,s,0,a,a,1,0\nx,s,0,a,a,1,0\n",
            r"image x has two rows",
        ),
        (
            "image,client,group,label,called,prob_a,prob_b\nx,s,1e300,a,a,1,0\n",
            r"group of x is '1e300', which is not a whole number below",
        ),
        ("image,group,group,prob_a\nx,s,0,1\n", r"two columns of one name"),
        ('image,prob_a\n"x,1\n', r"is not a UTF-8 CSV file"),
    ],
)
def test_a_table_that_cannot_be_read_is_refused_by_name(tmp_path, text, message):
    path = tmp_path / "p.csv"
    path.write_text(text)
    with pytest.raises(DataError, match=message) as caught:
        read_table(path)
    assert str(path) in str(caught.value)


def test_an_absent_table_is_refused_by_name(tmp_path):
    with pytest.raises(DataError, match=r"gone\.csv does not exist: evaluate that run first"):
        read_table(tmp_path / "gone.csv")
