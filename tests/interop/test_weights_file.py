"""Files of parameters hold what was given to them, to the bit, and nothing else."""

import json
import struct

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.interop.test_torch_files import save_zip, state_pickle, storages
from ufm_jax.errors import DataError
from ufm_jax.interop.weights_file import read_weights, write_weights

ARRAYS = hnp.arrays(
    st.sampled_from([np.float32, np.float64, np.float16]),
    hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4),
    elements=st.floats(width=16, allow_nan=False, allow_infinity=False),
)
STATES = st.dictionaries(st.text("abü.0", min_size=1), ARRAYS, min_size=1, max_size=4)


def save_safetensors(path, kind, shape, data):
    header = {"w": {"dtype": kind, "shape": shape, "data_offsets": [0, len(data)]}}
    encoded = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(encoded)) + encoded + data)
    return path


@given(state=STATES, transpose=st.booleans())
@settings(max_examples=30)
def test_what_is_written_is_read_to_the_bit(tmp_path_factory, state, transpose):
    path = tmp_path_factory.getbasetemp() / "weights.safetensors"
    state = {name: array.T if transpose else array for name, array in state.items()}
    write_weights(path, state)
    restored = read_weights(path).state
    assert restored.keys() == state.keys()
    for name, array in state.items():
        assert restored[name].dtype == array.dtype
        np.testing.assert_array_equal(restored[name], array, strict=True)


def test_equal_parameters_make_equal_files(tmp_path):
    paths = [tmp_path / f"{name}.safetensors" for name in "ab"]
    for path in paths:
        write_weights(path, {"w": np.arange(3.0), "v": np.ones((2, 2), np.float32)})
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert len(list(tmp_path.iterdir())) == 2


def test_bfloat16_of_safetensors_is_read_as_float32(tmp_path):
    path = save_safetensors(tmp_path / "x.safetensors", "BF16", [3], b"\x80\x3f\x10\xc0\x00\x00")
    np.testing.assert_array_equal(
        read_weights(path).state["w"], np.float32([1, -2.25, 0]), strict=True
    )


@pytest.mark.parametrize(
    ("kind", "shape", "data", "message"),
    [
        ("F32", [2], bytes(4), "damaged"),
        ("F32", [10**18], bytes(4), "damaged"),
        ("F8_E4M3", [4], bytes(4), "w is of type F8_E4M3"),
    ],
)
def test_safetensors_that_cannot_be_read_name_the_file(kind, shape, data, message, tmp_path):
    path = save_safetensors(tmp_path / "x.safetensors", kind, shape, data)
    with pytest.raises(ValueError, match=rf"x\.safetensors.*{message}"):
        read_weights(path)


def test_other_content_is_refused_whatever_its_name(tmp_path):
    for name in ("x.pth", "x.safetensors"):
        (tmp_path / name).write_text("version https://git-lfs.github.com/spec/v1")
        with pytest.raises(ValueError, match=rf"{name}: neither .* starts with b'version"):
            read_weights(tmp_path / name)
    (tmp_path / "empty.pth").touch()
    with pytest.raises(ValueError, match=r"empty\.pth: neither"):
        read_weights(tmp_path / "empty.pth")
    with pytest.raises(FileNotFoundError, match=r"absent\.pth"):
        read_weights(tmp_path / "absent.pth")


def test_what_cannot_be_written_leaves_no_file(tmp_path):
    for name in ("x.npz", "x.pth"):
        with pytest.raises(ValueError, match=rf"{name}: .* end the name in \.safetensors"):
            write_weights(tmp_path / name, {"w": np.zeros(1)})
    with pytest.raises(ValueError, match="step: type int64"):
        write_weights(tmp_path / "x.safetensors", {"step": np.int64([3])})
    assert not list(tmp_path.glob("x.*"))


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e39])
def test_numbers_that_no_training_can_start_from_name_file_and_array(tmp_path, suffix, value):
    state = {"fine": np.zeros(2, np.float64), "spoilt": np.array([0, value, 1], np.float64)}
    if suffix == ".pth":
        save_zip(tmp_path / "x.pth", state_pickle(state), storages(state))
    else:
        write_weights(tmp_path / "x.safetensors", state)
    with pytest.raises(DataError, match=rf"x{suffix}: 1 of the 3 numbers of spoilt are nan"):
        read_weights(tmp_path / f"x{suffix}")


def test_the_header_of_safetensors_is_no_longer_than_the_file(tmp_path):
    for length in (100, 1 << 25, 1 << 62):
        path = tmp_path / "x.safetensors"
        path.write_bytes(struct.pack("<Q", length) + b"{" + bytes(50))
        with pytest.raises(DataError, match=rf"its header claims {length} bytes"):
            read_weights(path)


def test_safetensors_have_no_parts(tmp_path):
    write_weights(tmp_path / "x.safetensors", {"w": np.zeros(1)})
    with pytest.raises(ValueError, match="has no parts"):
        read_weights(tmp_path / "x.safetensors", part="model")
