"""The images that pretraining is measured on: a sample of real ones, or random pixels.

The sample is written down as list files in the published layout, a file a client, so that the
published pipeline reads the very same files.
"""

import argparse
import runpy
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np

from ufm_jax.config.command import count_or_zero, path_argument
from ufm_jax.data.cache.store import ArrayStore, SubsetStore
from ufm_jax.data.federated import FederatedData, load_federated
from ufm_jax.data.listing import read_listing
from ufm_jax.data.partition import split_sites
from ufm_jax.data.records import Record
from ufm_jax.data.settings import DataSettings, PretrainingSettings

_PRESET = Path(__file__).resolve().parents[2] / "configs" / "pretrain_sites.py"
_CLIENTS = 16
_ALL = "all"


class Images(NamedTuple):
    """A federation's images, decoded.

    Attributes:
        data: Rows by client.
        note: What they are, and what decoding them took.
        root: Folder that the paths in the lists are relative to; None for random pixels.
        list_file: All of them in one list; None for random pixels.
    """

    data: FederatedData
    note: str
    root: Path | None = None
    list_file: Path | None = None


def add_image_options(parser: argparse.ArgumentParser) -> None:
    """Options that choose the images."""
    parser.add_argument(
        "--data", type=path_argument, help="real images as in pretrain_sites.py:public"
    )
    parser.add_argument(
        "--images", type=count_or_zero, default=512, help="of all clients; 0: all there are"
    )
    parser.add_argument(
        "--working_size",
        type=count_or_zero,
        default=0,
        help="side of stored images; 0: 8/7 of the model's",
    )
    parser.add_argument("--cache_dir", default="", help="for decoded images")


@contextmanager
def opened_images(options: argparse.Namespace) -> Iterator[Images]:
    """The images that the options choose; the lists go with it.

    Raises:
        DataError: If there are none in ``--data``.
    """
    side = options.working_size or options.image_size * 8 // 7
    if options.data is None:
        yield _random(options.images or 512, options.batch_size, side)
        return
    with TemporaryDirectory(prefix="benchmark-lists-") as folder:
        root = options.data.resolve()
        yield _real(root, Path(folder), options.images, options.batch_size, side, options.cache_dir)


def _random(images: int, batch_size: int, side: int) -> Images:
    rng = np.random.Generator(np.random.Philox(0))
    sizes = rng.lognormal(0.0, 1.0, _CLIENTS)
    counts = sample_counts(np.ceil(1000 * sizes).astype(np.int64), images, batch_size)
    note = (
        f"images: random pixels, {counts.sum()} in {_CLIENTS} clients of log-normal sizes, stored "
        f"at {side} x {side}; give real ones with --data."
    )
    return Images(random_images(counts, side), note)


def random_images(counts: np.ndarray, side: int) -> FederatedData:
    """Clients [K] with so many images of random pixels, in a linear scan area of the whole."""
    rng = np.random.Generator(np.random.Philox(0))
    total = int(counts.sum())
    geometry = np.array([[1, 0, 0, side - 1, side - 1, 0, 0]], np.float32)
    store = ArrayStore(
        rng.integers(0, 256, (total, side, side, 1), np.uint8),
        np.full((total, 2), side, np.int32),
        np.tile(geometry, (total, 1)),
        np.full(total, -1, np.int32),
    )
    return FederatedData(_names(len(counts)), _offsets(counts), store)


def _real(
    root: Path, folder: Path, images: int, batch_size: int, side: int, cache_dir: str
) -> Images:
    """Real images of the sixteen institutions of ``configs/pretrain_sites.py:public``."""
    preset = runpy.run_path(str(_PRESET))["get_config"]("public").data
    preset.update(root=str(root), working_size=side)
    settings = PretrainingSettings(**preset)
    records = _sample(read_listing(settings).records, settings, images, batch_size)
    _write_lists(folder, root, records)
    decoded = [0]

    def count(done: int, total: int) -> None:
        decoded[0] = max(decoded[0], done)

    begin = time.perf_counter()
    data = load_federated(
        DataSettings(
            source="lists",
            root=str(root),
            lists=str(folder / "clients"),
            working_size=side,
            on_bad="skip",
            cache_dir=cache_dir,
        ),
        count,
    )
    seconds = time.perf_counter() - begin
    done = f"{decoded[0]} decoded, once" if decoded[0] else "found decoded in the cache"
    note = (
        f"images: {data.num_rows} real ones in {data.num_clients} clients, stored at {side} x "
        f"{side}; {seconds:.1f} s before the first round ({done}), in no figure below."
    )
    return Images(data, note, root, folder / _ALL / f"{_ALL}.txt")


def _sample(
    records: tuple[Record, ...], settings: DataSettings, images: int, batch_size: int
) -> list[list[Record]]:
    """Each client's part of the sample; clients as the preset splits the sets."""
    names, owner = split_sites(
        [record.client for record in records],
        [record.group for record in records],
        settings.set_counts(),
        settings.partition_sigma,
        settings.seed,
    )
    counts = sample_counts(np.bincount(owner, minlength=len(names)), images, batch_size)
    rng = np.random.Generator(np.random.Philox(0))
    members = [rng.permutation(np.flatnonzero(owner == k)) for k in range(len(names))]
    return [
        [records[row] for row in np.sort(rows[:count])]
        for rows, count in zip(members, counts, strict=True)
    ]


def sample_counts(sizes: np.ndarray, images: int, batch_size: int) -> np.ndarray:
    """[K] images of each client in a sample of about ``images``, sizes in proportion.

    Rounded to whole batches, one at least, and never more than the client has. All where
    ``images`` is 0.
    """
    if not images:
        return sizes.copy()
    batches = np.round(sizes / sizes.sum() * images / batch_size).astype(np.int64)
    return np.minimum(sizes, batch_size * np.maximum(1, batches))


def _write_lists(folder: Path, root: Path, clients: list[list[Record]]) -> None:
    """A list file a client, and all in one in a folder of its own."""
    lists = {
        f"clients/client_{k}.txt": [str(Path(record.name).relative_to(root)) for record in records]
        for k, records in enumerate(clients)
    }
    lists[f"{_ALL}/{_ALL}.txt"] = [line for lines in lists.values() for line in lines]
    for name, lines in lists.items():
        file = folder / name
        file.parent.mkdir(exist_ok=True)
        file.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def dealt(data: FederatedData, clients: int, images: int) -> FederatedData:
    """The same images dealt to equal clients of ``images`` each, repeated where they run out."""
    counts = np.full(clients, images)
    rows = np.arange(counts.sum()) % data.num_rows
    return FederatedData(_names(clients), _offsets(counts), SubsetStore(data.store, rows))


def _names(clients: int) -> tuple[str, ...]:
    return tuple(f"client_{k}" for k in range(clients))


def _offsets(counts: np.ndarray) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(counts)])
