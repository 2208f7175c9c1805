"""Files of torch.save are read to the bit, and nothing that they name is run."""

import contextlib
import os
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ufm_jax.errors import DataError
from ufm_jax.interop.torch_files import LEGACY_MAGIC
from ufm_jax.interop.weights_file import read_weights

FILES = Path(__file__).parent / "files"
BASE = np.arange(24, dtype=np.float32).reshape(4, 6)
EXPECTED = {
    "weight": np.arange(6, dtype=np.float32).reshape(2, 3),
    "bias": np.float32([0.5, -0.25]),
    "transposed": BASE.T,
    "slice": BASE[1:3, 2:5],
    "half": np.float16([1.5, -2.25]),
    "bfloat": np.float32([1.5, -2.25, 3.0]),
    "double": np.float64(0.1),
    "long": np.int64([1, 2, 3]),
    "parameter": np.float32([7]),
    "empty": np.zeros((0, 4), np.float32),
}
real_files = pytest.mark.parametrize("name", ["checkpoint.pth", "checkpoint_legacy.pth"])


def save_zip(path, content, entries=()):
    """A zip as torch.save's around a pickle, given as bytes or as an object."""
    content = content if isinstance(content, bytes) else pickle.dumps(content, 2)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", content)
        for name, data in entries:
            archive.writestr(f"archive/{name}", data)
    return path


def save_legacy(path, content):
    start = [pickle.dumps(x, 2) for x in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})]
    path.write_bytes(b"".join([*start, content, pickle.dumps([], 2)]))
    return path


def tensor_pickle(shape, stride, offset=0, length=4, kind="FloatStorage", key=0):
    """{'w': tensor} by hand, with any geometry."""

    def numbers(values):
        return b"(" + b"".join(b"I%d\n" % v for v in values) + b"t"

    storage = b"(Vstorage\nctorch\n%s\nV%d\nVcpu\nI%d\nt" % (kind.encode(), key, length)
    arguments = b"(" + storage + b"QI%d\n" % offset + numbers(shape) + numbers(stride) + b"I00\n}t"
    return b"\x80\x02}Vw\nctorch._utils\n_rebuild_tensor_v2\n" + arguments + b"Rs."


def state_pickle(state):
    """{name: tensor} of float32 and float64 arrays by hand; their numbers are ``storages``."""
    kinds = {"float32": "FloatStorage", "float64": "DoubleStorage"}
    items = [
        b"V%s\n" % name.encode()
        + tensor_pickle(
            array.shape,
            [stride // array.itemsize for stride in np.ascontiguousarray(array).strides],
            length=array.size,
            kind=kinds[array.dtype.name],
            key=key,
        )[6:-2]
        for key, (name, array) in enumerate(state.items())
    ]
    return b"\x80\x02}(" + b"".join(items) + b"u."


def storages(state):
    """The entries of a zip that hold the numbers of ``state_pickle``."""
    return [(f"data/{key}", array.tobytes()) for key, array in enumerate(state.values())]


@real_files
def test_a_checkpoint_of_pytorch_is_read_to_the_bit(name):
    weights = read_weights(FILES / name)
    assert weights.state.keys() == EXPECTED.keys()
    for key, expected in EXPECTED.items():
        array = weights.state[key]
        assert (array.shape, array.dtype) == (expected.shape, expected.dtype), key
        assert array.flags.c_contiguous, key
        np.testing.assert_array_equal(array, expected, err_msg=key)
    assert weights.part == "model"
    assert weights.left_out == ("args", "epoch", "optimizer", "scaler")
    assert weights.size == (FILES / name).stat().st_size


@real_files
def test_what_is_cut_short_is_an_error_that_names_the_file(name, tmp_path):
    content = (FILES / name).read_bytes()
    path = tmp_path / name
    for length in (*range(0, len(content), 97), len(content) - 1):
        path.write_bytes(content[:length])
        with pytest.raises(ValueError, match=name):
            read_weights(path)


@given(st.data())
@settings(max_examples=100)
def test_a_damaged_zip_is_refused_or_means_the_same(tmp_path_factory, data):
    content = bytearray((FILES / "checkpoint.pth").read_bytes())
    place = data.draw(st.integers(0, len(content) - 1))
    content[place] ^= data.draw(st.integers(1, 255))
    path = tmp_path_factory.getbasetemp() / "damaged.pth"
    path.write_bytes(content)
    state = {}
    with contextlib.suppress(ValueError):
        state = read_weights(path).state
    for key, array in state.items():
        np.testing.assert_array_equal(array, EXPECTED[key])


class Calls:
    """Pickles to a call of a function."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("container", ["zip", "legacy"])
@pytest.mark.parametrize("place", ["alone", "in the weights", "beside the weights"])
def test_a_malicious_pickle_is_refused_and_nothing_runs(container, place, tmp_path):
    canary = tmp_path / "canary"
    attack = Calls(os.system, f"touch {canary}")
    tree = {
        "alone": attack,
        "in the weights": {"model": {"w": attack}},
        "beside the weights": {"model": {}, "args": attack},
    }[place]
    content = pickle.dumps(tree, 2)
    pickle.loads(content)
    assert canary.exists(), "the attack would work"
    canary.unlink()
    save = {"zip": save_zip, "legacy": save_legacy}[container]
    path = save(tmp_path / "evil.pth", content)
    with pytest.raises(ValueError, match=r"evil\.pth: it names \w+\.system, .* nothing of it"):
        read_weights(path)
    assert not canary.exists()


@pytest.mark.parametrize(
    "call",
    [
        Calls(eval, "print('run')"),
        Calls(exec, "print('run')"),
        Calls(getattr, "", "join"),
        Calls(__import__, "os"),
        Calls(print, "run"),
        Calls(open, "file", "w"),
        Calls(pickle.loads, b"N."),
    ],
)
def test_other_calls_are_refused_by_name(call, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = save_zip(tmp_path / "evil.pth", {"model": {}, "x": call})
    with pytest.raises(ValueError, match="it names"):
        read_weights(path)
    assert capsys.readouterr().out == ""
    assert not (tmp_path / "file").exists()


def test_functions_of_known_packages_become_placeholders_that_do_nothing(tmp_path):
    """numpy and torch are named beside weights; even their functions are never called."""
    target = tmp_path / "saved.npy"
    calls = [Calls(np.save, str(target), [1]), Calls(np.fromfile, "nothing there")]
    good = write_and_read_tree(tmp_path, {"extra": calls})
    assert good.left_out == ("extra",)
    assert not target.exists()


def write_and_read_tree(tmp_path, beside):
    """A checkpoint of one tensor 'w' under 'model', and of what is given beside it."""
    inner = tensor_pickle((2,), (1,))[2:-1]
    items = pickle.dumps(beside, 2)[2:-1]
    content = b"\x80\x02" + items + b"Vmodel\n" + inner + b"s."
    numbers = np.arange(4, dtype="<f4").tobytes()
    return read_weights(save_zip(tmp_path / "x.pth", content, [("data/0", numbers)]))


def test_an_object_among_the_weights_is_left_out_by_name(tmp_path):
    content = b"\x80\x02}(Vw\n" + tensor_pickle((2,), (1,))[6:-2] + b"Vextra\nI3\nu."
    path = save_zip(tmp_path / "x.pth", content, [("data/0", bytes(16))])
    weights = read_weights(path)
    assert list(weights.state) == ["w"]
    assert weights.left_out == ("extra",)


def test_a_tensor_of_another_kind_among_the_weights_is_refused_by_name(tmp_path):
    weights = b"}(Vw\n" + tensor_pickle((2,), (1,))[6:-2]
    weights += b"Vq\nctorch._utils\n_rebuild_qtensor\n)Ru"
    path = save_zip(tmp_path / "x.pth", b"\x80\x02}Vmodel\n" + weights + b"s.")
    with pytest.raises(ValueError, match=r"q \(torch\._utils\._rebuild_qtensor\)"):
        read_weights(path)


@pytest.mark.parametrize(
    ("shape", "stride", "offset"),
    [((5,), (1,), 0), ((2,), (1,), 3), ((2, 2), (3, 1), 1), ((2,), (10**15,), 0), ((9,), (0,), 0)],
)
def test_a_tensor_beyond_its_storage_is_refused(shape, stride, offset, tmp_path):
    content = tensor_pickle(shape, stride, offset)
    path = save_zip(tmp_path / "x.pth", content, [("data/0", bytes(16))])
    with pytest.raises(ValueError, match=r"x\.pth: damaged: .* beyond its storage"):
        read_weights(path)


def test_a_tensor_cannot_be_changed_after_it_was_checked(tmp_path):
    content = tensor_pickle((2,), (1,))[:-2] + b"}(Voffset\nI-900\nVshape\n(I999\ntubs."
    path = save_zip(tmp_path / "x.pth", content, [("data/0", bytes(16))])
    with pytest.raises(ValueError, match=r"x\.pth: damaged"):
        read_weights(path)


@pytest.mark.parametrize(("shape", "stride"), [((-1,), (1,)), ((2,), (-1,)), ((2, 2), (1,))])
def test_a_tensor_of_unclear_shape_is_refused(shape, stride, tmp_path):
    path = save_zip(tmp_path / "x.pth", tensor_pickle(shape, stride), [("data/0", bytes(16))])
    with pytest.raises(ValueError, match="unclear shape"):
        read_weights(path)


def test_numbers_may_be_big_endian(tmp_path):
    values = np.float32([1, -2, 3.5, 4])
    entries = [("data/0", values.astype(">f4").tobytes()), ("byteorder", b"big")]
    path = save_zip(tmp_path / "x.pth", tensor_pickle((4,), (1,)), entries)
    np.testing.assert_array_equal(read_weights(path).state["w"], values)


def test_a_type_that_numpy_lacks_is_named(tmp_path):
    content = tensor_pickle((4,), (1,), kind="ComplexFloatStorage")
    path = save_zip(tmp_path / "x.pth", content, [("data/0", bytes(32))])
    with pytest.raises(ValueError, match=r"torch\.ComplexFloatStorage"):
        read_weights(path)


@pytest.mark.parametrize(
    ("content", "entries", "message"),
    [
        ([1, 2], [], "holds a list"),
        ({"epoch": 3}, [], r"no parameters in it; it holds \['epoch'\]"),
        ({}, [("constants.pkl", b"")], "TorchScript"),
    ],
)
def test_files_without_parameters_say_what_they_hold(content, entries, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        read_weights(save_zip(tmp_path / "x.pth", content, entries))


def test_a_zip_of_numpy_is_no_checkpoint(tmp_path):
    np.savez(tmp_path / "x.npz", a=np.zeros(2))
    with pytest.raises(ValueError, match=r"x\.npz: a zip, but none of torch\.save"):
        read_weights(tmp_path / "x.npz")


def test_a_pickled_model_is_refused_with_the_remedy(tmp_path):
    path = save_zip(tmp_path / "x.pth", b"\x80\x02cmodels_vit\nVisionTransformer\n)\x81.")
    with pytest.raises(ValueError, match=r"models_vit\.VisionTransformer.*state_dict\(\)"):
        read_weights(path)


def test_a_file_that_is_its_own_model_is_read_whole(tmp_path):
    """Published: {'w': .., 'model': the same dictionary}."""
    content = b"\x80\x02}q\x00(Vw\n" + tensor_pickle((2,), (1,))[6:-2] + b"Vmodel\nh\x00u."
    weights = read_weights(save_zip(tmp_path / "x.pth", content, [("data/0", bytes(16))]))
    assert (list(weights.state), weights.part) == (["w"], None)


def test_parts_and_prefixes(tmp_path):
    with pytest.raises(ValueError, match=r"no part 'ema' in it; it holds \['args', 'epoch'"):
        read_weights(FILES / "checkpoint.pth", part="ema")
    assert read_weights(FILES / "checkpoint.pth", part="model").part == "model"
    state = {f"module._orig_mod.{name}": np.zeros(1, np.float32) for name in "ab"}
    weights = read_weights(save_zip(tmp_path / "x.pth", state_pickle(state), storages(state)))
    assert (list(weights.state), weights.prefix) == (["a", "b"], "module._orig_mod.")


def nested(depth, opcode):
    """A dictionary whose key is a tuple in a tuple in a tuple ...: hashing it takes the C stack."""
    return (
        b"\x80\x02}("
        + {b"t": b"(" * depth + b"t" * depth, b"\x85": b")" + b"\x85" * depth}[opcode]
        + b"I1\nu."
    )


@pytest.mark.parametrize("container", ["zip", "legacy"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (nested(100_000, b"\x85"), "nests objects more than 256 deep"),
        (nested(100_000, b"t"), "nests objects more than 256 deep"),
        (b"\x80\x02" + b"}q\x00" + b"h\x00\x85q\x00" * 300 + b".", "nests objects more"),
        (b"\x80\x02]r\xff\xff\xff\x1f.", "numbers what it remembers beyond its size"),
        (b"\x80\x02]p99999999\n.", "numbers what it remembers beyond its size"),
        (b"\x80\x04\x8e" + b"\xff" * 7 + b"\x0f.", "bytes"),
        (b"\x80\x05\x96" + b"\xff" * 7 + b"\x0f.", "bytes"),
        (b"\x80\x02h\x07.", "damaged: KeyError"),
        (b"\x80\x02tt.", "damaged: IndexError"),
        (b"\x80\x02}", "before seeing STOP|exhausted"),
    ],
)
def test_a_small_pickle_cannot_ask_for_much(container, content, message, tmp_path):
    path = {"zip": save_zip, "legacy": save_legacy}[container](tmp_path / "x.pth", content)
    with pytest.raises(DataError, match=rf"x\.pth: .*({message})"):
        read_weights(path)


def test_what_a_list_holds_is_not_counted_as_depth(tmp_path):
    """Ten thousand items one by one, as protocol 0 writes them."""
    items = b"(lp0\n" + b"I1\na" * 10_000 + b"s."
    path = save_zip(tmp_path / "x.pth", b"}Vepochs\n" + items)
    with pytest.raises(DataError, match=r"no parameters in it; it holds \['epochs'\]"):
        read_weights(path)


def test_compressed_entries_are_refused(tmp_path):
    """16 MB of zeros in 16 KB, and a file of 16 KB might hold 16 GB."""
    with zipfile.ZipFile(tmp_path / "x.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", tensor_pickle((1 << 22,), (1,), length=1 << 22))
        archive.writestr("archive/data/0", bytes(1 << 24))
    with pytest.raises(DataError, match=r"its entry archive/data\.pkl is compressed"):
        read_weights(tmp_path / "x.pth")


@pytest.mark.parametrize("order", [b"middle", b"", b"BIG", b"little\n"])
def test_an_unknown_byte_order_is_refused(tmp_path, order):
    entries = [("data/0", bytes(16)), ("byteorder", order)]
    path = save_zip(tmp_path / "x.pth", tensor_pickle((4,), (1,)), entries)
    with pytest.raises(DataError, match="neither little nor big"):
        read_weights(path)


def test_tensors_that_share_their_numbers_too_often_are_refused(tmp_path):
    """A thousand tensors of one storage would take a thousand times the file's memory."""
    one = tensor_pickle((4096,), (1,), length=4096)[6:-2]
    content = b"\x80\x02}(" + b"".join(b"V%d\n" % i + one for i in range(1000)) + b"u."
    path = save_zip(tmp_path / "x.pth", content, [("data/0", bytes(4 * 4096))])
    with pytest.raises(DataError, match="share their numbers too often"):
        read_weights(path)


def test_the_legacy_magic_is_that_of_pytorch():
    assert (FILES / "checkpoint_legacy.pth").read_bytes().startswith(LEGACY_MAGIC)
