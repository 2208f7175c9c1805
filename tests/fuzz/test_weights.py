"""Mutated files of weights start a training with what they held, or are refused in one line."""

import io
import json
import pickletools
import random
import struct
import time
import zipfile
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from tests.fuzz.conftest import count
from tests.interop.test_torch_files import save_legacy, save_zip, state_pickle, storages
from ufm_jax.config.finetuning import FinetuneConfig, NetworkConfig
from ufm_jax.errors import UserError
from ufm_jax.finetuning.start_weights import start_params
from ufm_jax.interop.architecture import describe
from ufm_jax.interop.convert import params_from_torch
from ufm_jax.interop.torch_names import fixed_position, flatten
from ufm_jax.interop.torch_rules import encoder_rules
from ufm_jax.interop.weights_file import write_weights

WIDTH, PATCH, GRID = 12, 8, (2, 2)
UNCHECKED = ("legacy", "safetensors")
"""Formats without a checksum: where numbers alone are changed, nothing in the file says so."""
ARGUMENTS = (b"", b"\x00", b"\xff", b"\xff\xff\xff\x1f", b"\xff" * 8, b"7\n", b"torch\nx\n")


def make_state():
    """An encoder of one block with the names of PyTorch."""
    rng = np.random.default_rng(0)
    shapes = {"patches": (WIDTH, 1, PATCH, PATCH), "linear": (WIDTH, WIDTH)}
    state = {}
    for rule in encoder_rules(1, final_norm=True):
        shape = shapes.get(rule.kind, (WIDTH,))
        if rule.torch == "cls_token":
            shape = (1, 1, WIDTH)
        for part, factor in (("qkv", 3), ("fc1", 4)):
            if part in rule.torch:
                shape = (factor * shape[0], *shape[1:])
        if "fc2.weight" in rule.torch:
            shape = (WIDTH, 4 * WIDTH)
        state[rule.torch] = rng.normal(size=shape).astype(np.float32)
    return state | {"pos_embed": fixed_position(WIDTH, GRID).astype(np.float32)}


def flipped(rng, content):
    changed = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 8))):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def cut(rng, content):
    return content[: rng.randrange(len(content))]


def spliced(rng, content):
    """A part of it a second time, elsewhere."""
    begin, place = sorted(rng.randrange(len(content)) for _ in range(2))
    return content[:place] + content[begin : begin + 64] + content[place:]


def with_opcodes(rng, content):
    """A pickle with opcodes put in, thousands of one or a few of any."""
    places = [place for _, _, place in pickletools.genops(content)]
    opcode = rng.choice(pickletools.opcodes).code.encode("latin-1") + rng.choice(ARGUMENTS)
    place = rng.choice(places)
    return content[:place] + opcode * rng.choice((1, 1, 3, 20_000)) + content[place:]


def with_pickle(rng, content):
    """A zip whose pickle is changed, and whose checksums are right."""
    change = rng.choice((flipped, cut, spliced, with_opcodes, with_opcodes))
    made = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(made, "w") as new:
        for name in old.namelist():
            entry = old.read(name)
            new.writestr(name, change(rng, entry) if name.endswith("data.pkl") else entry)
    return made.getvalue()


def with_entries(rng, content):
    """A zip whose entries are compressed, left out, doubled or changed."""
    made = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(made, "w") as new:
        victim = rng.choice(old.namelist())
        for name in old.namelist():
            if name != victim:
                new.writestr(name, old.read(name))
                continue
            match rng.randrange(4):
                case 0:
                    new.writestr(name, old.read(name), zipfile.ZIP_DEFLATED)
                case 1:
                    new.writestr(f"{name}x", old.read(name))
                case 2:
                    new.writestr(name, flipped(rng, old.read(name)))
    return made.getvalue()


def with_header(rng, content):
    """Safetensors whose header says something else."""
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    name = rng.choice([name for name in header if name != "__metadata__"])
    match rng.randrange(5):
        case 0:
            header[name]["shape"] = [rng.choice((-1, 0, 3, 1 << 40, 1 << 62)) for _ in range(2)]
        case 1:
            header[name]["data_offsets"][rng.randrange(2)] = rng.choice((-4, 0, 7, 1 << 50))
        case 2:
            header[name]["dtype"] = rng.choice(("F64", "I8", "BOOL", "BF16", "X", ""))
        case 3:
            header[rng.choice((f"{name}.x", ""))] = header.pop(name)
        case 4:
            header = json.loads("[" * 90 + "]" * 90)
    encoded = json.dumps(header).encode()
    length = rng.choice((len(encoded), len(encoded), 1 << 25, 1 << 63))
    return struct.pack("<Q", length) + encoded + content[8 + len(encoded) :]


RESEALED = (with_pickle, with_entries)
"""What gives a changed file the checksums that belong to it."""


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    """Format -> its bytes and what mutates them."""
    folder, state = tmp_path_factory.mktemp("originals"), make_state()
    write_weights(folder / "x.safetensors", state)
    save_zip(folder / "zip.pth", state_pickle(state), storages(state))
    keys = b"\x80\x02](" + b"".join(b"V%d\n" % n for n in range(len(state))) + b"e."
    numbers = [struct.pack("<q", a.size) + a.tobytes() for a in state.values()]
    save_legacy(folder / "legacy.pth", state_pickle(state))
    empty_list = len(b"\x80\x02]q\x00.")
    legacy = (folder / "legacy.pth").read_bytes()[:-empty_list] + keys + b"".join(numbers)
    plain = (flipped, flipped, cut, spliced)
    return {
        "zip": (
            (folder / "zip.pth").read_bytes(),
            (*plain, with_pickle, with_pickle, with_entries),
        ),
        "legacy": (legacy, plain),
        "safetensors": ((folder / "x.safetensors").read_bytes(), (*plain, with_header)),
    }


def test_mutated_weights_are_the_same_or_refused(originals, tmp_path):
    state = make_state()
    expected = params_from_torch(state, describe(state))
    like = expected | {"head": {"kernel": np.zeros((WIDTH, 2), np.float32)}}
    config = FinetuneConfig(model=NetworkConfig(size="xs", image_size=16, patch_size=PATCH))
    rng, outcomes = random.Random(0), Counter()

    def outcome(kind, content):
        path = tmp_path / f"x.{'safetensors' if kind == 'safetensors' else 'pth'}"
        path.write_bytes(content)
        start = replace(config.start, weights=str(path))
        try:
            found = flatten(start_params(replace(config, start=start), like).params)
        except UserError as error:
            return "refused" if path.name in str(error) else f"refused without a name: {error}"
        wanted = flatten(like)
        assert found.keys() == wanted.keys()
        if all(np.array_equal(found[name], wanted[name]) for name in wanted):
            return "equal"
        return "other numbers"

    for kind, (content, _) in originals.items():
        assert outcome(kind, content) == "equal"
    for _ in range(count(3000)):
        kind = rng.choice(list(originals))
        content, changes = originals[kind]
        change = rng.choice(changes)
        begin = time.monotonic()
        found = outcome(kind, change(rng, content))
        assert found in ("equal", "refused", "other numbers")
        assert found != "other numbers" or kind in UNCHECKED or change in RESEALED
        assert time.monotonic() - begin < 5
        outcomes[kind, change.__name__, found] += 1
    for key, number in sorted(outcomes.items()):
        print(*key, number)
