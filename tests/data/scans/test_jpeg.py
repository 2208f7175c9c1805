"""Sizes of compressed streams are read from their markers."""

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from ufm_jax.data.scans.jpeg import stream_size


def encoded(kind, rows, columns, components):
    shape = (rows, columns, 3) if components == 3 else (rows, columns)
    pixels = np.random.default_rng(0).integers(0, 255, shape).astype(np.uint8)
    if kind == "JPEG-LS":
        imagecodecs = pytest.importorskip("imagecodecs")
        return imagecodecs.jpegls_encode(pixels)
    file = io.BytesIO()
    options = {"no_jp2": True} if kind == "JPEG2000" else {"progressive": kind == "progressive"}
    Image.fromarray(pixels).save(file, "JPEG2000" if kind == "JPEG2000" else "JPEG", **options)
    return file.getvalue()


@pytest.mark.parametrize("kind", ["JPEG", "progressive", "JPEG-LS", "JPEG2000"])
@pytest.mark.parametrize("components", [1, 3])
def test_rows_columns_and_components_are_those_of_the_picture(kind, components):
    stream = encoded(kind, 24, 40, components)
    assert stream_size(stream) == (24, 40, components)
    assert stream_size(stream[:8]) is None


@given(st.binary(max_size=200))
def test_any_bytes_have_a_size_or_none(stream):
    found = stream_size(b"\xff\xd8\xff" + stream)
    assert found is None or len(found) == 3
